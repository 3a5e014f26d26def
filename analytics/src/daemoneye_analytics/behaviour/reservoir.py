"""The rows that a model learns from: a bounded sample of all that came, and the newest ones.

Responsible for which rows are kept. There is no chance in it: the same rows in the same order give the same sample, however they come in batches.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

HORIZON: Final = 32
"""The sample reaches back over about this many times its size: after that, every row displaces one with probability 1/32."""
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


class Reservoir:
    """At most `capacity` sampled rows of `width` features, and the newest `recent` rows."""

    def __init__(self, width: int, capacity: int, recent: int, seed: int = 0) -> None:
        self.seen = 0
        self._sample = np.zeros((capacity, width))
        self._recent = np.zeros((recent, width))
        self._seed = np.uint64(seed & (2**64 - 1))

    @property
    def sample(self) -> np.ndarray:
        """The sampled rows, float64, shape (n, k); a copy."""
        return self._sample[: self.seen].copy()

    @property
    def recent(self) -> np.ndarray:
        """The newest rows, float64, shape (n, k), in no order; a copy."""
        return self._recent[: self.seen].copy()

    def offer(self, rows: np.ndarray) -> None:
        """Take in rows, float64, shape (n, k)."""
        index = self.seen + np.arange(len(rows), dtype=np.uint64)
        capacity = len(self._sample)
        drawn = _mixed(index ^ self._seed) % (np.minimum(index, np.uint64(HORIZON * capacity - 1)) + np.uint64(1))
        slot = np.where(index < capacity, index, drawn).astype(np.int64)
        _put(self._sample, slot, rows, slot < capacity)
        last = rows[-len(self._recent) :]
        position = (index[len(rows) - len(last) :] % np.uint64(len(self._recent))).astype(np.int64)
        self._recent[position] = last
        self.seen += len(rows)

    def state(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows seen, the sample, the newest rows."""
        return self.seen, self.sample, self.recent

    def restore(self, seen: int, sample: Any, recent: Any) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form; nothing changed.
        """
        for given, own in ((sample, self._sample), (recent, self._recent)):
            expected = (min(seen, len(own)), own.shape[1])
            if not isinstance(given, np.ndarray) or given.dtype != np.float64 or given.shape != expected:
                msg = f"rows of a model that are not float64 of shape {expected}"
                raise ValueError(msg)
        self._sample[: len(sample)] = sample
        self._recent[: len(recent)] = recent
        self.seen = seen


def _put(target: np.ndarray, slot: np.ndarray, rows: np.ndarray, taken: np.ndarray) -> None:
    """Rows into their slots; where several have one slot, the last."""
    chosen = np.flatnonzero(taken)[::-1]
    unique, first = np.unique(slot[chosen], return_index=True)
    target[unique] = rows[chosen[first]]


def _mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64 of each number."""
    x = (x + np.uint64(1)) * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
