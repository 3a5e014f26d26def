"""An exact map of 64-bit keys to weights that lives in numpy arrays: found, counted and forgotten by whole columns.

Open addressing with linear probing (Knuth, TAOCP 3, section 6.4, algorithm L) at a load of one half at most; every step is done for all keys at
once. What the keys stand for is `daemoneye_analytics.behaviour.counts`' affair.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from daemoneye.events.base import splitmix64

_SMALLEST: Final = 1 << 10
# When the table is full an eighth goes at once, so that the cost of forgetting is spread.
_KEEP: Final = 0.875
_EMPTY: Final = np.uint64(0)
_AHEAD: Final = np.arange(1, 9)


class Table:
    """Keys (u64), weights (float32), a second number of the user's (float32), and when each was last added to (u32).

    Attributes:
        capacity: Entries at most; the ones not seen for longest go first, of those the lightest.
        dropped: Entries that were dropped for want of room.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.dropped = 0
        self._used = 0
        self._allocate(_SMALLEST)

    def __len__(self) -> int:
        return self._used

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.key.nbytes + self.weight.nbytes + self.second.nbytes + self.last.nbytes

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Slot of each key, int64, shape (n,); -1 where it was never seen. Slots are valid until the next `add`."""
        keys = _real(keys)
        at = (splitmix64(keys) & self._mask).view(np.int64)
        held = self.key[at]
        hit = held == keys
        out = np.where(hit, at, -1)
        todo = np.flatnonzero(~hit & (held != _EMPTY))
        at = at[todo]
        while len(todo):
            # The next places lie beside each other in memory: several at once cost what one costs.
            ahead = (at[:, None] + _AHEAD) & int(self._mask)
            held = self.key[ahead]
            hit = held == keys[todo, None]
            ended = hit | (held == _EMPTY)
            row, step = np.arange(len(todo)), ended.argmax(axis=1)
            found, over = hit[row, step], ended[row, step]
            out[todo[found]] = ahead[row, step][found]
            todo, at = todo[~over], ahead[~over, -1]
        return out

    def values(self, keys: np.ndarray) -> np.ndarray:
        """Weight of each key, float32; 0 where it was never seen."""
        return self.at(self.weight, self.find(keys))

    @staticmethod
    def at(column: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """A column at slots that `find` gave; 0 where the slot is -1: the last place of each column stays empty."""
        return column[slots]

    def add(
        self,
        keys: np.ndarray,
        weights: np.ndarray,
        last: int,
        second: np.ndarray | None = None,
        *,
        slots: np.ndarray | None = None,
    ) -> np.ndarray:
        """Add to distinct keys, those never seen are entered; which ones were new, bool, shape (n,).

        Args:
            keys: u64, shape (n,), distinct.
            weights: Shape (n,), what is added.
            last: When, in a unit of the user's that rises.
            second: Shape (n,), what is added to the second number.
            slots: What `find` says of the keys, where the caller knows it.
        """
        keys = _real(keys)
        slots = self.find(keys) if slots is None else slots.copy()
        new = slots < 0
        count = int(new.sum())
        if count:
            if 2 * (self._used + count) > int(self._mask) + 1:
                self._rebuild(np.flatnonzero(self.key != _EMPTY), self._used + count)
                slots = self.find(keys)
            slots[new] = self._enter(keys[new])
        self.weight[slots] += weights.astype(np.float32)
        if second is not None:
            self.second[slots] += second.astype(np.float32)
        self.last[slots] = last
        if self._used > self.capacity:
            self._forget()
        return new

    def decay(self, factor: float, least: float) -> None:
        """Multiply all weights and second numbers; entries that fall below `least` are dropped."""
        self.weight *= np.float32(factor)
        self.second *= np.float32(factor)
        kept = np.flatnonzero((self.key != _EMPTY) & (self.weight >= least))
        if len(kept) < self._used:
            self._rebuild(kept, len(kept))

    def state(self) -> dict[str, Any]:
        """The entries as arrays, for a checkpoint."""
        slots = np.flatnonzero(self.key != _EMPTY)
        return {
            "key": self.key[slots], "weight": self.weight[slots], "second": self.second[slots], "last": self.last[slots], "dropped": self.dropped,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; entries beyond the capacity are dropped.

        Raises:
            ValueError: Columns are missing, of another type, of different lengths, or the keys are not distinct.
        """
        try:
            columns = [
                np.asarray(state[name]).astype(kind, casting="same_kind")
                for name, kind in (
                    ("key", np.uint64),
                    ("weight", np.float32),
                    ("second", np.float32),
                    ("last", np.uint32),
                )
            ]
            dropped = int(state["dropped"])
        except (KeyError, TypeError) as error:
            msg = f"not a table: {error!r}"
            raise ValueError(msg) from error
        key = columns[0]
        if any(c.shape != (len(key),) for c in columns) or len(np.unique(key)) != len(key) or not key.all():
            raise ValueError("not a table: columns do not fit each other")
        if not (np.isfinite(columns[1]).all() and np.isfinite(columns[2]).all()):
            raise ValueError("not a table: a weight is no number")
        self._fill(columns)
        self.dropped = dropped
        if self._used > self.capacity:
            self._forget()

    def _allocate(self, size: int) -> None:
        # One place more than keys are put in: see `at`.
        self.key = np.zeros(size + 1, np.uint64)
        self.weight = np.zeros(size + 1, np.float32)
        self.second = np.zeros(size + 1, np.float32)
        self.last = np.zeros(size + 1, np.uint32)
        self._mask = np.uint64(size - 1)

    def _enter(self, keys: np.ndarray) -> np.ndarray:
        """Slots for distinct keys that are not there; there is room."""
        at = (splitmix64(keys) & self._mask).view(np.int64)
        todo = np.arange(len(keys))
        while len(todo):
            place = at[todo]
            free = self.key[place] == _EMPTY
            # Several keys may want one slot: the last writer has it, the others go on.
            self.key[place[free]] = keys[todo[free]]
            todo = todo[self.key[place] != keys[todo]]
            at[todo] = (at[todo] + 1) & int(self._mask)
        self._used += len(keys)
        return at

    def _rebuild(self, slots: np.ndarray, expected: int) -> None:
        """Keep these slots' entries alone, with room for `expected` ones."""
        self._fill([self.key[slots], self.weight[slots], self.second[slots], self.last[slots]], expected)

    def _fill(self, columns: list[np.ndarray], expected: int = 0) -> None:
        size = _SMALLEST
        while size < 2 * max(len(columns[0]), expected) + 2:
            size *= 2
        self._allocate(size)
        self._used = 0
        at = self._enter(columns[0])
        self.weight[at], self.second[at], self.last[at] = columns[1:]

    def _forget(self) -> None:
        slots = np.flatnonzero(self.key != _EMPTY)
        excess = len(slots) - max(1, int(self.capacity * _KEEP))
        # Ties are broken by key, so that the same events always leave the same table.
        order = np.lexsort((self.key[slots], self.weight[slots], self.last[slots]))
        self._rebuild(np.sort(slots[order[excess:]]), len(slots) - excess)
        self.dropped += excess


def _real(keys: np.ndarray) -> np.ndarray:
    """Keys without 0, which marks what is empty."""
    return np.where(keys == _EMPTY, np.uint64(1), keys)
