"""Process trees that somebody found something in: what they do is not learned.

Responsible for remembering the newest ones, and for telling whoever holds examples of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from daemoneye.events.sets import isin

_MOST: Final = 10_000
_LOW: Final = np.uint64(0xFFFF)
"""Bits of a key, which is a hash, by which nearly all others are told apart from those that are remembered."""


class Flagged:
    """Process keys, the newest 10,000.

    Attributes:
        heard: Called with new ones, u64: what they did is no example any more.
    """

    def __init__(self) -> None:
        self._processes: dict[int, None] = {}
        self._marks: np.ndarray | None = None
        self.heard: list[Callable[[np.ndarray], None]] = []

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def processes(self) -> np.ndarray:
        """All of them, the oldest first, u64."""
        return np.fromiter(self._processes, np.uint64, len(self._processes))

    @processes.setter
    def processes(self, processes: np.ndarray) -> None:
        self._processes, self._marks = dict.fromkeys(processes.tolist()), None

    def add(self, processes: Iterable[int]) -> None:
        """Remember some; 0 is nobody."""
        new = [process for process in processes if process and process not in self._processes]
        if not new:
            return
        for hear in self.heard:
            hear(np.array(new, np.uint64))
        self._processes.update(dict.fromkeys(new))
        self._marks = None
        while len(self._processes) > _MOST:
            del self._processes[next(iter(self._processes))]

    def among(self, tree: np.ndarray) -> np.ndarray:
        """Which of n rows' process trees, u64, shape (n, d), hold one of them, bool, shape (n,)."""
        out = np.zeros(len(tree), bool)
        if not self._processes:
            return out
        if self._marks is None:
            self._marks = np.zeros(int(_LOW) + 1, bool)
            self._marks[self.processes & _LOW] = True
        # Asked of every row several times, and nearly always in vain.
        near = np.flatnonzero(self._marks.take((tree & _LOW).view(np.int64)))
        out[near[isin(tree.take(near), self.processes)] // tree.shape[1]] = True
        return out
