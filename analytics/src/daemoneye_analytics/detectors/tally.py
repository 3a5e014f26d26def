"""A bounded table of things that were seen: how often, and when first and last.

Responsible for vectorised look-up, counting and forgetting; what the 64-bit keys stand for is the user's affair.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_COLUMNS: Final = (
    ("key", np.uint64),
    ("group", np.uint64),
    ("count", np.uint64),
    ("first", np.int64),
    ("last", np.int64),
)
# When the table is full a tenth goes at once, so that the cost of forgetting is spread.
_KEEP: Final = 0.9


class Tally:
    """Rows (key, group, count, first, last) sorted by key: 40 bytes an entry.

    Attributes:
        capacity: Entries at most; the ones seen longest ago are dropped.
        group_capacity: Entries at most that share a group.
        dropped: Entries that were dropped so far.
    """

    def __init__(self, capacity: int, group_capacity: int | None = None) -> None:
        self.capacity = capacity
        self.group_capacity = group_capacity or capacity
        self.dropped = 0
        self._columns: dict[str, np.ndarray] = {name: np.zeros(0, kind) for name, kind in _COLUMNS}

    def __len__(self) -> int:
        return len(self._columns["key"])

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Row of each key, int64; -1 where it was never seen. Rows are valid until the next `add`."""
        known = self._columns["key"]
        if not len(known):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[at] == keys, at, -1)

    def column(self, name: str, rows: np.ndarray, missing: int = 0) -> np.ndarray:
        """`count`, `first` or `last` of rows that `find` gave; `missing` where the row is -1."""
        values = self._columns[name]
        if not len(values):
            return np.full(len(rows), missing, values.dtype)
        return np.where(rows >= 0, values[rows], values.dtype.type(missing))

    def add(
        self, keys: np.ndarray, groups: np.ndarray, counts: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> None:
        """Count distinct keys; those never seen are entered, which may drop others. All arrays have the shape of `keys`."""
        at = self.find(keys)
        old = at >= 0
        columns = self._columns
        columns["count"][at[old]] += counts[old].astype(np.uint64)
        columns["last"][at[old]] = np.maximum(columns["last"][at[old]], last[old])
        new = np.flatnonzero(~old)
        if not len(new):
            return
        new = new[np.argsort(keys[new])]
        where = np.searchsorted(columns["key"], keys[new])
        for (name, kind), values in zip(_COLUMNS, (keys, groups, counts, first, last), strict=True):
            columns[name] = np.insert(columns[name], where, values[new].astype(kind))
        self._shrink(np.unique(groups[new]))

    def state(self) -> dict[str, Any]:
        """Arrays and counters for a checkpoint."""
        return {**{name: column.copy() for name, column in self._columns.items()}, "dropped": self.dropped}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; entries beyond the capacity are dropped.

        Raises:
            ValueError: Columns are missing, of different lengths, or not sorted.
        """
        try:
            columns = {name: np.asarray(state[name]).astype(kind, casting="safe") for name, kind in _COLUMNS}
            dropped = int(state["dropped"])
        except (KeyError, TypeError) as error:
            msg = f"not a tally: {error}"
            raise ValueError(msg) from error
        key = columns["key"]
        if any(c.shape != (len(key),) for c in columns.values()) or bool((key[1:] <= key[:-1]).any()):
            raise ValueError("not a tally: columns do not fit each other")
        self._columns, self.dropped = columns, dropped
        self._shrink(np.unique(columns["group"]))

    def _shrink(self, groups: np.ndarray) -> None:
        """Drop the oldest of the groups that have grown too large, then the oldest of all."""
        if len(self) > self.group_capacity:
            group = self._columns["group"]
            grown, sizes = np.unique(group[np.isin(group, groups)], return_counts=True)
            for name in grown[sizes > self.group_capacity]:
                self._drop_oldest(np.flatnonzero(group == name), self.group_capacity)
                group = self._columns["group"]
        if len(self) > self.capacity:
            self._drop_oldest(np.arange(len(self)), self.capacity)

    def _drop_oldest(self, rows: np.ndarray, capacity: int) -> None:
        excess = len(rows) - max(1, int(capacity * _KEEP))
        # Ties are broken by key, so that the same events always leave the same table.
        gone = rows[np.lexsort((self._columns["key"][rows], self._columns["last"][rows]))[:excess]]
        self._columns = {name: np.delete(column, gone) for name, column in self._columns.items()}
        self.dropped += len(gone)
