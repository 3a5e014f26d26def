"""How many different things there are of each of many groups, within windows of the events' own time.

Responsible for remembering them, once each, and for saying at which row a group got its n-th: that follows from the rows' order alone, never from
how they came in batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_ROW: Final = np.dtype([("window", "<i8"), ("group", "<u8"), ("item", "<u8"), ("weight", "<f8"), ("sequence", "<u8")])


@dataclass(frozen=True, slots=True)
class Added:
    """What n rows added; arrays of shape (n,).

    Attributes:
        first: Whether the row's item is new in its group and window.
        count: Items of the group up to this row, this one included, where it is new.
        total: Their weights' sum, likewise.
    """

    first: np.ndarray
    count: np.ndarray
    total: np.ndarray
    _rows: np.ndarray
    _items: np.ndarray

    def members(self, row: int) -> np.ndarray:
        """Items of the row's group and window up to the row, in the order in which they came; u64."""
        mine, items = self._rows[row], self._items
        same = (
            (items["window"] == mine["window"])
            & (items["group"] == mine["group"])
            & (items["sequence"] <= mine["sequence"])
        )
        return items["item"][same]

    def reached(self, count: int, weight: np.ndarray | None = None, total: float = 0.0) -> np.ndarray:
        """Rows at which a group first had so many items, and these so much weight together; `weight` is that of the rows."""
        now = self.first & (self.count >= count) & (self.total >= total)
        own = weight if weight is not None else np.zeros(len(self.first))
        return np.flatnonzero(now & ~((self.count - 1 >= count) & (self.total - own >= total)))


class Distinct:
    """Items by group and window; those of the newest two windows are kept.

    Attributes:
        dropped: Items that were forgotten for want of room.
    """

    def __init__(self, capacity: int) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._kept = np.zeros(0, _ROW)
        self._next = 0

    def __len__(self) -> int:
        """Items that are kept, 40 bytes each."""
        return len(self._kept)

    def add(self, window: np.ndarray, group: np.ndarray, item: np.ndarray, weight: np.ndarray | None = None) -> Added:
        """Rows in order of time: number of the window (i64), group and item (u64), weight (f64, 0 where there is none); shapes (n,)."""
        new = np.zeros(len(window), _ROW)
        new["window"], new["group"], new["item"] = window, group, item
        new["weight"] = 0.0 if weight is None else weight
        new["sequence"] = self._next + np.arange(len(new), dtype=np.uint64)
        self._next += len(new)
        before = len(self._kept)
        rows = np.concatenate([self._kept, new])
        order = np.lexsort([rows[name] for name in ("sequence", "item", "group", "window")])
        first = np.zeros(len(rows), bool)
        first[order] = group_starts(rows[order], "window", "group", "item") == np.arange(len(rows))
        mine = np.flatnonzero(first)
        order = mine[np.lexsort([rows[name][mine] for name in ("sequence", "group", "window")])]
        start = group_starts(rows[order], "window", "group")
        running = np.cumsum(rows["weight"][order])
        count, total = np.zeros(len(rows), np.int64), np.zeros(len(rows))
        count[order] = np.arange(len(order)) - start + 1
        total[order] = running - (running - rows["weight"][order])[start]
        self._trim(rows[mine])
        return Added(first[before:], count[before:], total[before:], new, rows[mine])

    def state(self) -> dict[str, Any]:
        """Arrays and counters for a checkpoint."""
        return {
            **{name: self._kept[name].copy() for name in _ROW.names or ()},
            "next": self._next,
            "dropped": self.dropped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        kept = np.zeros(len(state["window"]), _ROW)
        for name in _ROW.names or ():
            kept[name] = state[name]
        self._kept, self._next, self.dropped = kept, int(state["next"]), int(state["dropped"])

    def _trim(self, rows: np.ndarray) -> None:
        """Forget windows that are over, and beyond the bound what came first."""
        if len(rows):
            rows = rows[rows["window"] >= int(rows["window"].max()) - 1]
        beyond = len(rows) - self._capacity
        if beyond > 0:
            self.dropped += beyond
            rows = rows[beyond:]
        self._kept = rows


def group_starts(ordered: np.ndarray, *names: str) -> np.ndarray:
    """Position of the first row of each row's group, int64, shape (n,); a group are rows one after another that are equal in these columns."""
    fresh = np.ones(len(ordered), bool)
    if len(ordered) > 1:
        fresh[1:] = ~np.logical_and.reduce([ordered[name][1:] == ordered[name][:-1] for name in names])
    return np.maximum.accumulate(np.where(fresh, np.arange(len(ordered)), 0))
