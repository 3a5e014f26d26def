"""Cgroups that were seen, and the context rows that say whose they are.

Responsible for remembering announced cgroups and for the section `cgroup_identity`; what Kubernetes adds is
:mod:`daemoneye_sensor.enrich.podrows`. Everything is done once for each distinct pair of cgroups, and kept from batch to batch: most batches
have the pairs of the one before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.codec import Section, section_of
from daemoneye_sensor.enrich.cgroups import Identity, identify

_KEPT: Final = 16_384
_SECTIONS_KEPT: Final = 64
_BRIEFLY_S: Final = 10.0
"""How long sections serve that something outside of the version may still change."""
_UNKNOWN: Final = ("", "", Identity(0))

Known = tuple[str, str, Identity]
"""Path in the v2 hierarchy, path in the v1 hierarchy, and what they say."""


class Cgroups:
    """Cgroups that were announced; all that judge them may share one.

    Attributes:
        learned: Rises with everything that is news.
    """

    def __init__(self) -> None:
        self.learned = 0
        self._known: dict[int, Known] = {}

    def __len__(self) -> int:
        """Cgroups."""
        return len(self._known)

    def __iter__(self) -> Iterator[Known]:
        """What is known of each."""
        return iter(self._known.values())

    def learn(self, paths: Mapping[int, tuple[str, str]]) -> None:
        """Remember cgroups: pair key → (v2 path, v1 path)."""
        for key, (v2, v1) in paths.items():
            before = self._known.pop(key, None)
            if before is not None and before[:2] == (v2, v1):
                self._known[key] = before
                continue
            self._known[key] = (v2, v1, identify(v2, v1))
            self.learned += 1
        while len(self._known) > _KEPT:
            self._known.pop(next(iter(self._known)))

    def known(self, pair: int) -> Known:
        """What was announced of a pair; a cgroup that never was stays `unknown`."""
        return self._known.get(pair, _UNKNOWN)


class Identities:
    """Identities of one machine without Kubernetes: everything belongs, nothing is waited for.

    Attributes:
        cgroups: What was announced.
    """

    selective = False
    """Whether some rows may not belong to anybody: then `holds`, `excluded` and `masks` are worth asking."""

    def __init__(self, cgroups: Cgroups | None = None) -> None:
        self.cgroups = Cgroups() if cgroups is None else cgroups
        self._sections: dict[
            bytes, tuple[float, tuple[Section, ...]]
        ] = {}  # with the moment from which on they are made anew
        self._stamp: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Cgroups."""
        return len(self.cgroups)

    def learn(self, paths: Mapping[int, tuple[str, str]]) -> None:
        """Remember cgroups: pair key → (v2 path, v1 path)."""
        self.cgroups.learn(paths)

    def holds(self, pairs: np.ndarray, *, room: bool) -> bool:
        """Whether rows of these distinct pairs are to stay in the rings for now, because something about them is on its way."""
        del pairs, room
        return False

    def excluded(self, pairs: np.ndarray) -> np.ndarray:
        """Those of the distinct pairs whose rows belong to nobody."""
        return pairs[:0]

    def masks(self, pairs: np.ndarray) -> np.ndarray:
        """The policies that each of the distinct pairs belongs to, a bit each (u64)."""
        return np.zeros(len(pairs), np.uint64)

    def mask(self, names: bytes) -> int:
        """The policies of these names, each ended by a zero byte."""
        del names
        return 0

    def names(self, mask: int) -> bytes:
        """The inverse of `mask`."""
        del mask
        return b""

    def context(self, pairs: np.ndarray) -> tuple[Section, ...]:
        """Sections that explain these distinct pairs."""
        self._refresh()
        key, now = pairs.tobytes(), time.monotonic()
        until, sections = self._sections.get(key, (0.0, ()))
        if now >= until:
            sections, lasting = self._make(pairs)
            while len(self._sections) >= _SECTIONS_KEPT:
                del self._sections[next(iter(self._sections))]
            self._sections[key] = (math.inf if lasting else now + _BRIEFLY_S, sections)
        return sections

    def _version(self) -> tuple[int, ...]:
        """Changes whenever a section could come out otherwise."""
        return (self.cgroups.learned,)

    def _refresh(self) -> None:
        """Forget what was made of an older state of knowledge."""
        if (stamp := self._version()) != self._stamp:
            self._stamp = stamp
            self._forget()

    def _forget(self) -> None:
        self._sections.clear()

    def _make(self, pairs: np.ndarray) -> tuple[tuple[Section, ...], bool]:
        """Sections of the pairs, and whether they stay good while the version does."""
        known = [self.cgroups.known(pair) for pair in pairs.tolist()]
        return (identity_section(pairs, known),), True


def identity_section(pairs: np.ndarray, known: Sequence[Known]) -> Section:
    """One row of `cgroup_identity` for each pair."""
    values: dict[str, object] = {
        **pair_columns(pairs),
        "state": [identity.state for _, _, identity in known],
        "path": [v2.encode() for v2, _, _ in known],
        "path_v1": [v1.encode() for _, v1, _ in known],
    }
    for name in ("container_id", "pod_uid", "runtime", "workload"):
        values[name] = [text_bytes(getattr(identity, name)) for _, _, identity in known]
    return section_of(CGROUP_IDENTITY, values, len(pairs), context=True)


def pair_columns(pairs: np.ndarray) -> dict[str, object]:
    """Both ids of pair keys."""
    return {"cgroup_id": pairs >> np.uint64(32), "cgroup_v1_id": pairs & np.uint64(0xFFFFFFFF)}


def text_bytes(text: str) -> bytes:
    """UTF-8, whatever a document held."""
    return text.encode("utf-8", "backslashreplace")
