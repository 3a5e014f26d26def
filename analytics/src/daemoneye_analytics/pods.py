"""Which pod a cgroup of a batch belongs to, and which policies.

Responsible for reading the context rows of `pod_identity` and `policy_set`, in words only for the few rows that become findings. Batches of one
machine, and those that an older sensor made, have none: nothing is known then, and nothing is wrong.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from daemoneye.envelope import Batch
from daemoneye.escape import decode
from daemoneye.events.ancestry import cgroup_pairs
from daemoneye.events.jsonform import split_argv
from daemoneye.events.policy_set import sets_of

_U64: Final = (1 << 64) - 1


class Pod(NamedTuple):
    """What Kubernetes knows; texts that are not known are empty. Cgroups outside of pods have policies alone."""

    namespace: str = ""
    name: str = ""
    container: str = ""
    image: str = ""
    owner_kind: str = ""
    owner_name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    policies: tuple[str, ...] = ()


NOBODY: Final = Pod()


class Pods:
    """The pods of one batch."""

    def __init__(self, batch: Batch) -> None:
        self._section = batch.section("pod_identity", context=True)
        self._named = batch.section("policy_set", context=True)

    def row(self, cgroup_id: int, cgroup_v1_id: int) -> int:
        """Row of a cgroup; -1 where nothing is known."""
        return self._rows.get((cgroup_id << 32 & _U64) ^ cgroup_v1_id, -1)

    def rows(self, events: np.ndarray) -> np.ndarray:
        """Row of the cgroup of each of n events, int64, shape (n,); -1 where nothing is known."""
        return np.fromiter((self._rows.get(pair, -1) for pair in cgroup_pairs(events).tolist()), np.int64, len(events))

    def of(self, cgroup_id: int, cgroup_v1_id: int) -> Pod:
        """The pod of a cgroup, `NOBODY` where nothing is known."""
        row = self.row(cgroup_id, cgroup_v1_id)
        if row < 0:
            return NOBODY
        namespace, pod, container, image, owner_kind, owner_name = (
            decode(self._bytes(name, row))
            for name in ("namespace", "pod", "container", "image", "owner_kind", "owner_name")
        )
        labels = (item.partition("=") for item in split_argv(self._bytes("labels", row)))
        pairs = tuple((key, value) for key, equals, value in labels if equals)
        return Pod(namespace, pod, container, image, owner_kind, owner_name, pairs, self.policies[row])

    @cached_property
    def sets(self) -> dict[int, tuple[str, ...]]:
        """Names of each set of policies that rows about packets belong to, by its number; an older sensor's rows have none."""
        return {number: tuple(split_argv(names)) for number, names in sets_of(self._named).items()}

    @cached_property
    def policies(self) -> list[tuple[str, ...]]:
        """Names of each row's policies."""
        return [] if self._section is None else [tuple(split_argv(raw)) for raw in self._section.values("policies")]

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {} if self._section is None else {p: i for i, p in enumerate(cgroup_pairs(self._section.rows).tolist())}

    @cached_property
    def _places(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def _bytes(self, name: str, row: int) -> bytes:
        assert self._section is not None  # noqa: S101 - there is a row, so there is a section
        if name not in self._places:
            self._places[name] = self._section.column(name)
        begin, length = (int(column[row]) for column in self._places[name])
        return self._section.heap[begin : begin + length].tobytes()
