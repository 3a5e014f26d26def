"""Who was whose parent, for whole columns: joins of rows with the process images that a batch (or a process table) knows.

A process may execute several programs; the image that counts is the newest one that is not newer than the moment asked about.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from daemoneye.envelope import Batch
from daemoneye.events.codec import Section, concatenate

MAX_DEPTH: Final = 8
"""Ancestors that a batch carries for each of its rows."""


class Images:
    """Process images by process key and time.

    Attributes:
        section: Rows of `process_exec`, executed or known from context.
    """

    def __init__(self, section: Section) -> None:
        """Index the rows: one sort, n log n."""
        self.section = section
        rows = section.rows
        self._order = np.lexsort((rows["time"], rows["process_uid"]))
        self._uid = rows["process_uid"][self._order]
        self._time = rows["time"][self._order]

    @classmethod
    def of_batch(cls, batch: Batch) -> Images | None:
        """All images that a batch carries: its ancestors and its own executions; None where it has neither."""
        known = [
            s for s in (batch.section("process_exec", context=True), batch.section("process_exec")) if s is not None
        ]
        return cls(concatenate(known)) if known else None

    def find(self, uid: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Row of the image of each process at each time, int64; -1 where it is unknown. Shapes (n,).

        An image newer than the moment is never taken: rather unknown than wrong.
        """
        return self._newest(*self._spans(uid), time)

    def ancestors(self, parent_uid: np.ndarray, time: np.ndarray, depth: int = MAX_DEPTH) -> np.ndarray:
        """Rows of the ancestors of n processes, nearest first, shape (n, depth), int64; -1 from where the chain is unknown."""
        out = np.full((depth, len(parent_uid)), -1, np.int64)
        left, right = self._spans(parent_uid)
        # Where the images' own parents are is looked up once for all levels.
        parents = self._spans(self.section.rows["parent_uid"])
        for level in range(depth):
            at = self._newest(left, right, time)
            out[level] = at
            known = at >= 0
            if not known.any():
                break
            left, right = (np.where(known, column[at], 0) for column in parents)
        return np.ascontiguousarray(out.T)

    def _spans(self, uid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where images of processes begin and end in the sorted columns, int64."""
        return np.searchsorted(self._uid, uid, "left"), np.searchsorted(self._uid, uid, "right")

    def _newest(self, left: np.ndarray, right: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Row of the newest image of each span that is not newer than a moment; -1 where there is none."""
        at = right - 1
        if not len(self._time):
            return np.full(len(at), -1, np.int64)
        while True:
            late = (at >= left) & (self._time[at] > time)
            if not late.any():
                break
            at = at - late
        return np.where(at >= left, self._order[at], -1)


def identity_rows(batch: Batch, rows: np.ndarray, record: str = "cgroup_identity", *, side: str = "") -> np.ndarray:
    """Row in the batch's section of a record of cgroups (`pod_identity` is the other) for each of n rows, int64; -1 where the batch has none.

    `side` is that of `cgroup_pairs`.
    """
    section = batch.section(record, context=True)
    out = np.full(len(rows), -1, np.int64)
    if section is None or not len(section.rows):
        return out
    known = cgroup_pairs(section.rows)
    order = np.argsort(known)
    wanted = cgroup_pairs(rows, side)
    at = np.minimum(np.searchsorted(known[order], wanted), len(order) - 1)
    hit = known[order][at] == wanted
    out[hit] = order[at[hit]]
    return out


def cgroup_pairs(rows: np.ndarray, side: str = "") -> np.ndarray:
    """Both cgroup ids of n rows in one u64, shape (n,): ids count up from 1, so that 32 bits of each are enough to tell cgroups of one boot apart.

    `side` is the columns' prefix: empty, or `peer_` for the other side's process.
    """
    return (rows[f"{side}cgroup_id"] << np.uint64(32)) ^ rows[f"{side}cgroup_v1_id"]
