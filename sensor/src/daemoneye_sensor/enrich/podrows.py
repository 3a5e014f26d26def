"""Cgroups in a cluster: which pod and which policies they belong to, and which rows wait for that or belong to nobody.

Responsible for joining cgroups to pods, container names and policies, for the section `pod_identity` and for holding rows back while a pod's
document is on its way; not for where documents, names and selectors come from.

Whose cgroup it is decides as follows. A cgroup that nobody announced belongs to all policies: rather too much than nothing. (A row about packets
without a process has the pair 0, which nobody announces.) One outside of
pods belongs to the policies without selectors. One of a pod belongs by its labels; while these are not known its rows stay in the rings, for
HOLD_S at most and once, and then belong to all policies, too. So do those of a pod whose labels are too many for its document.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from daemoneye.events.codec import Section, section_of
from daemoneye.events.pod_identity import POD_IDENTITY
from daemoneye.nodeconfig import NodeConfig
from daemoneye.podidentity import PodIdentity
from daemoneye_sensor.enrich.bundles import Bundles, Names
from daemoneye_sensor.enrich.cgroups import RESOLVED, UNKNOWN, Identity
from daemoneye_sensor.enrich.identities import Cgroups, Identities, Known, identity_section, pair_columns, text_bytes
from daemoneye_sensor.enrich.pods import Pods
from daemoneye_sensor.enrich.selection import Selection

HOLD_S: Final = 1.0
_JUDGEMENTS_KEPT: Final = 64
_NOTED: Final = 16_384
_TEXTS: Final = ("image", "namespace", "pod", "container", "owner_kind", "owner_name", "service_account")


@dataclass(frozen=True, slots=True)
class _Judgement:
    """Of a set of pairs: the policies of each, those that belong to none, and those whose pod is not known (pair → UID)."""

    masks: np.ndarray
    excluded: np.ndarray
    missing: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one pair adds to the sections, and what it was made of: as long as that is the same, so is this."""

    known: Known
    pod: PodIdentity | None
    names: Names | None
    selections: int
    named: Known
    policies: bytes
    labels: bytes
    texts: tuple[bytes, ...]


class PodIdentities(Identities):
    """Identities of a node. Nothing belongs to anybody before the first `select`.

    Attributes:
        waits: Whether rows may be held at all; whoever takes a last look says no, and what is not known then belongs to all policies.
    """

    selective = True

    def __init__(self, pods: Pods, bundles: Bundles, cgroups: Cgroups | None = None) -> None:
        super().__init__(cgroups)
        self.waits = True
        self._pods = pods
        self._bundles = bundles
        self._selection = Selection(NodeConfig())
        self._selections = 0
        self._judgements: dict[bytes, _Judgement] = {}
        self._parts: dict[int, _Part] = {}
        self._waited: dict[int, None] = {}  # pairs that had their time
        self._until: float | None = None

    def select(self, selection: Selection) -> None:
        """Judge by another configuration from now on."""
        self._selection = selection
        self._selections += 1

    def prefetch(self) -> None:
        """Ask for the pods of all cgroups that are known already."""
        for uid in {identity.pod_uid for _, _, identity in self.cgroups if identity.pod_uid}:
            if self._pods.get(uid) is None:
                self._pods.ask(uid)

    def holds(self, pairs: np.ndarray, *, room: bool) -> bool:
        """Whether rows stay in the rings: a pod's document is on its way, there is room, and its time is not over.

        All that waits at one time waits as long as the first of it, so that one new pod after the other cannot keep rows for ever.
        """
        if not self.waits:
            self._until = None
            return False
        missing = self._judge(pairs).missing
        fresh = [pair for pair in missing if pair not in self._waited]
        coming = [self._pods.ask(uid) for uid in dict.fromkeys(missing.values())]
        if not fresh:
            self._until = None
            return False
        now = time.monotonic()
        if self._until is None:
            self._until = now + HOLD_S
        if room and any(coming) and now < self._until:
            return True
        self._waited.update(dict.fromkeys(fresh))
        while len(self._waited) > _NOTED:
            del self._waited[next(iter(self._waited))]
        self._until = None
        return False

    def excluded(self, pairs: np.ndarray) -> np.ndarray:
        """Those of the distinct pairs that belong to no policy."""
        return self._judge(pairs).excluded

    def masks(self, pairs: np.ndarray) -> np.ndarray:
        """The policies that each of the distinct pairs belongs to, a bit each (u64)."""
        return self._judge(pairs).masks

    def mask(self, names: bytes) -> int:
        """The policies of these names, each ended by a zero byte."""
        return self._selection.mask(names)

    def names(self, mask: int) -> bytes:
        """The inverse of `mask`."""
        return self._selection.names(mask)

    def _version(self) -> tuple[int, ...]:
        return (self.cgroups.learned, self._pods.version, self._selections)

    def _forget(self) -> None:
        super()._forget()
        self._judgements.clear()

    def _judge(self, pairs: np.ndarray) -> _Judgement:
        self._refresh()
        key = pairs.tobytes()
        judgement = self._judgements.get(key)
        if judgement is None:
            masks, missing = [], {}
            for pair in pairs.tolist():
                identity = self.cgroups.known(pair)[2]
                pod = self._pods.get(identity.pod_uid) if identity.pod_uid else None
                masks.append(self._mask(identity, pod))
                if identity.pod_uid and pod is None:
                    missing[pair] = identity.pod_uid
            judged = np.array(masks, np.uint64)
            judgement = _Judgement(judged, pairs[judged == 0], missing)
            while len(self._judgements) >= _JUDGEMENTS_KEPT:
                del self._judgements[next(iter(self._judgements))]
            self._judgements[key] = judgement
        return judgement

    def _mask(self, identity: Identity, pod: PodIdentity | None) -> int:
        if pod is not None:
            return self._selection.of(pod)
        if identity.pod_uid or identity.state == UNKNOWN:
            return self._selection.everyone
        return self._selection.host

    def _make(self, pairs: np.ndarray) -> tuple[tuple[Section, ...], bool]:
        """Sections of the pairs; they last unless a bundle may still be found."""
        parts = [self._part(pair) for pair in pairs.tolist()]
        lasting = not self._bundles.readable or all(
            part.names is not None or not part.known[2].pod_uid for part in parts
        )
        values: dict[str, object] = {
            **pair_columns(pairs),
            "policies": [part.policies for part in parts],
            "labels": [part.labels for part in parts],
            **{name: [part.texts[at] for part in parts] for at, name in enumerate(_TEXTS)},
        }
        pods = section_of(POD_IDENTITY, values, len(pairs), context=True)
        return (identity_section(pairs, [part.named for part in parts]), pods), lasting

    def _part(self, pair: int) -> _Part:
        known = self.cgroups.known(pair)
        identity = known[2]
        pod = self._pods.get(identity.pod_uid) if identity.pod_uid else None
        names = self._bundles.names(identity.container_id) if identity.pod_uid else None
        part = self._parts.get(pair)
        if (
            part is None
            or part.known is not known
            or part.pod is not pod
            or part.names is not names
            or part.selections != self._selections
        ):
            texts = _texts(pod, names)
            part = _Part(
                known,
                pod,
                names,
                self._selections,
                (known[0], known[1], _named(identity, pod, names)),
                self._selection.names(self._mask(identity, pod)),
                _pairs(pod.labels.items()) if pod is not None else b"",
                tuple(text_bytes(texts[name]) for name in _TEXTS),
            )
            while len(self._parts) >= _NOTED:
                del self._parts[next(iter(self._parts))]
            self._parts[pair] = part
        return part


def _named(identity: Identity, pod: PodIdentity | None, names: Names | None) -> Identity:
    """A cgroup's identity with what its pod's document and its container's bundle add."""
    if names is not None:
        workload = f"{names.namespace}/Pod/{names.pod}/{names.container}"
        identity = replace(identity, runtime=identity.runtime or names.runtime, workload=workload)
    if pod is not None:
        workload = pod.workload(names.container if names is not None else "")
        identity = replace(identity, state=RESOLVED, workload=workload)
    return identity


def _texts(pod: PodIdentity | None, names: Names | None) -> dict[str, str]:
    texts = dict.fromkeys(_TEXTS, "")
    if names is not None:
        texts |= {"image": names.image, "namespace": names.namespace, "pod": names.pod, "container": names.container}
    if pod is not None:
        texts |= {
            "namespace": pod.namespace,
            "pod": pod.name,
            "owner_kind": pod.owner_kind,
            "owner_name": pod.owner_name or pod.name,
            "service_account": pod.service_account,
            # The spec's own word; a bundle may have the image by its digest.
            "image": pod.images.get(texts["container"]) or texts["image"],
        }
    return texts


def _pairs(items: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(text_bytes(f"{key}={value}") + b"\0" for key, value in sorted(items))
