"""The process table: the image of every running process, so that each batch can carry the ancestors of its rows.

It works on columns: a batch's forks, executions and exits are merged at once. Rows are `process_exec` rows; a process that has executed
nothing since its fork holds a copy of its parent's image (IMAGE_INHERITED), made only when it outlives its batch or has children in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from daemoneye.events.ancestry import MAX_DEPTH, Images
from daemoneye.events.codec import Section, concatenate, gather, section_of
from daemoneye.events.flags import Flag
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.registry import EVENTS
from daemoneye.events.sets import isin, unique

MAX_ROWS: Final = 65_536
"""Images that are kept; beyond, the oldest go first and are counted."""
ARGV_KEPT: Final = 512
"""Bytes of an ancestor's argv that a batch repeats."""
_SWEEP_EVERY: Final = 8
_SWEEP_ROWS: Final = 1024
_NO_ROWS: Final = np.zeros(0, np.int64)


class ProcessTable:
    """Images of processes by key.

    Attributes:
        evicted: Images dropped for want of room, in all.
    """

    def __init__(self) -> None:
        """Empty."""
        self._known = section_of(PROCESS_EXEC, {}, 0)
        self._images = Images(self._known)
        self._exited = np.zeros(0, np.uint64)
        self._held = np.zeros(0, np.uint64)
        self._updates = 0
        self._swept = 0
        self.evicted = 0

    def __len__(self) -> int:
        """Images."""
        return len(self._known.rows)

    @property
    def images(self) -> Images:
        """The images as of now, for what happened since the newest batch, or is told of only now."""
        if self._images.section is not self._known:
            self._images = Images(self._known)
        return self._images

    def seed(self, section: Section) -> None:
        """Add images read from /proc or from a recording; those whose process is known already are left out."""
        new = ~isin(section.rows["process_uid"], self._known.rows["process_uid"])
        self._known = concatenate([self._known, _clipped(section.take(new))])

    def hold(self, uids: np.ndarray, *, only: bool = False) -> None:
        """Keep the images of these processes although they end: rows about what is theirs still come. `only`: and of no others any more."""
        self._held = unique(uids if only else np.concatenate([self._held, uids]))

    def update(self, executed: Section | None, forked: np.ndarray | None, exited: np.ndarray | None) -> Images:
        """Merge one batch.

        Args:
            executed: Rows of process_exec.
            forked: Rows of process_fork, shape (n,).
            exited: Keys (u64) of processes that ended.

        Returns:
            Images as of this batch: those known before, its executions and what its forks inherited.
        """
        parts = [self._known]
        if executed is not None and len(executed.rows):
            parts.append(_clipped(executed))
        universe = concatenate(parts)
        gone = exited if exited is not None else np.zeros(0, np.uint64)
        if forked is not None and len(forked):
            universe = _inherit(universe, forked, executed, _without(gone, self._held))
        keep = _lasting(universe.rows, len(self._known.rows), _without(gone, self._held))
        self._known = universe if keep.all() else universe.take(keep)
        images = Images(universe)
        self._exited = np.concatenate([self._exited, gone])
        self._updates += 1
        if self._updates % _SWEEP_EVERY == 0 or len(self._known.rows) > 2 * self._swept + _SWEEP_ROWS:
            self._sweep()
            self._swept = len(self._known.rows)
        return images

    def explain(self, sections: Sequence[Section], kept: Sequence[Section] | None = None) -> Section:
        """Merge what happened and return the images that a batch must carry to explain itself.

        Args:
            sections: Sections of all events, at most one of each record.
            kept: Those of their rows that the batch has, in sections of the same order; all of them where it is not given.
        """
        return context(self.merge(sections), sections if kept is None else kept)

    def merge(self, sections: Sequence[Section]) -> Images:
        """Merge what happened: sections of all events, at most one of each record. Returns the images as of then."""
        by_name = {section.record.name: section for section in sections}
        executed = by_name.get("process_exec")
        rows = {name: section.rows for name, section in by_name.items() if len(section.rows)}
        ended = rows["process_exit"]["process_uid"] if "process_exit" in rows else None
        return self.update(executed, rows.get("process_fork"), ended)

    def _sweep(self) -> None:
        """Forget ended processes that no living one descends from, and images that a newer one of the same process replaced."""
        rows = self._known.rows
        keep = ~isin(rows["process_uid"], _without(self._exited, self._held))
        for _ in range(MAX_DEPTH):
            needed = keep | isin(rows["process_uid"], rows["parent_uid"][keep])
            if (needed == keep).all():
                break
            keep = needed
        order = np.lexsort((rows["time"], rows["process_uid"]))
        uid = rows["process_uid"][order]
        newest = np.ones(len(rows), bool)
        newest[order[:-1]] = uid[1:] != uid[:-1]
        keep &= newest
        index = np.flatnonzero(keep)
        if len(index) > MAX_ROWS:
            index = index[np.argsort(rows["time"][index])][-MAX_ROWS:]
            self.evicted += int(keep.sum()) - MAX_ROWS
        self._known = self._known.take(index)
        self._exited = self._exited[isin(self._exited, self._known.rows["process_uid"])]


def context(images: Images, sections: Sequence[Section]) -> Section:
    """The images that a batch of these sections must carry to explain itself: of processes that its rows name, and their ancestors."""
    by_name = {section.record.name: section for section in sections}
    executed = by_name.get("process_exec")
    rows = {name: section.rows for name, section in by_name.items() if len(section.rows)}
    asked = [(mine[key], mine["time"]) for name, mine in rows.items() for key in EVENTS[name].explained_keys]
    index = (
        _with_ancestors(images, *(np.concatenate(columns) for columns in zip(*asked, strict=True)))
        if asked
        else _NO_ROWS
    )
    known = images.section.rows
    if executed is not None:
        own = executed.rows["process_uid"] ^ executed.rows["time"]
        index = index[~isin(known["process_uid"][index] ^ known["time"][index], own)]
    return replace(images.section.take(index), context=True)


def _without(uids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Those keys that are none of the others."""
    return uids[~isin(uids, others)] if len(uids) and len(others) else uids


def _lasting(rows: np.ndarray, known: int, gone: np.ndarray) -> np.ndarray:
    """Which images outlast their batch: those known before, and new ones of processes that live on or that a living one descends from."""
    keep = np.ones(len(rows), bool)
    if not len(gone):
        return keep
    keep[known:] = ~isin(rows["process_uid"][known:], gone)
    for _ in range(MAX_DEPTH):
        left = np.flatnonzero(~keep)
        needed = left[isin(rows["process_uid"][left], rows["parent_uid"][keep])]
        if not len(needed):
            break
        keep[needed] = True
    return keep


def _with_ancestors(images: Images, uid: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Distinct rows of processes and of all their ancestors, as of the moments asked about: each level walks an image once, however many ask.

    Of all moments at which an image's parent is asked for, the first and the last are enough: what the parent executed in between is in the
    batch itself.
    """
    found: list[np.ndarray] = []
    first = last = time
    for _ in range(MAX_DEPTH + 1):
        at, moments = images.find(uid, first), first
        if last is not first:
            at, moments = np.concatenate([at, images.find(uid, last)]), np.concatenate([first, last])
        hit = at >= 0
        if not hit.any():
            break
        at, moments = at[hit], moments[hit]
        order = np.lexsort((moments, at))
        at, moments = at[order], moments[order]
        begin = np.flatnonzero(np.diff(at, prepend=-1))
        end = np.append(begin[1:], len(at)) - 1
        at = at[begin]
        first = moments[begin]
        last = first if (end == begin).all() else moments[end]
        found.append(at)
        uid = images.section.rows["parent_uid"][at]
    return unique(np.concatenate(found)) if found else _NO_ROWS


def _clipped(section: Section) -> Section:
    """The section with argv cut to what a table keeps. argv is the last heap field, so that a region is cut at its end."""
    long = section.rows["argv_len"] > ARGV_KEPT
    if not long.any():
        return section
    rows = section.rows.copy()
    begin = section.starts()
    rows["argv_len"][long] = ARGV_KEPT
    rows["flags"][long] |= np.uint32(Flag.ARGV_TRUNCATED)
    return Section(section.record, rows, gather(section.heap, begin, section.record.heap_lengths(rows)))


def _inherit(universe: Section, forked: np.ndarray, executed: Section | None, gone: np.ndarray) -> Section:
    """Give forked processes their parent's image where anybody may ask for it."""
    ran = executed.rows["process_uid"] if executed is not None else np.zeros(0, np.uint64)
    parents = np.concatenate([forked["parent_uid"], executed.rows["parent_uid"] if executed is not None else ran])
    brief = isin(forked["process_uid"], ran) | isin(forked["process_uid"], gone)
    pending = forked[~brief | isin(forked["process_uid"], parents)]
    for _ in range(MAX_DEPTH):
        if not len(pending):
            break
        at = Images(universe).find(pending["parent_uid"], pending["time"])
        hit = at >= 0
        if not hit.any():
            break
        children = universe.take(at[hit])
        rows = children.rows.copy()
        for name in (
            "time",
            "process_uid",
            "pid",
            "tid",
            "start_time",
            "parent_uid",
            "parent_start_time",
            "ppid",
            "uid",
            "cgroup_id",
            "cgroup_v1_id",
            "ns_pid",
        ):
            rows[name] = pending[name][hit]
        rows["ns_tid"] = rows["ns_pid"]
        rows["flags"] |= np.uint32(Flag.IMAGE_INHERITED)
        universe = concatenate([universe, Section(PROCESS_EXEC, rows, children.heap)])
        pending = pending[~hit]
    return universe
