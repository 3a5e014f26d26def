"""Which workloads are one process's to judge, where several divide them.

Responsible for that division alone. Every process reads every batch, for what explains a row may be in any of them, and looks at the rows of its own
workloads: all of a workload's rows are judged in one place, on whatever nodes they happened, and nothing is sent on from one process to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye import subjects


@dataclass(frozen=True, slots=True)
class Share:
    """Part `part` of `parts`, counted from 0."""

    part: int = 0
    parts: int = 1

    @property
    def whole(self) -> bool:
        """Whether it is everything."""
        return self.parts == 1

    def workloads(self, hashes: np.ndarray) -> np.ndarray:
        """Which of n workloads are its own, by their `text_hash`, u64; bool, shape (n,). Rows of no known workload are part 0's."""
        mine: np.ndarray = hashes % np.uint64(self.parts) == np.uint64(self.part)
        return mine

    def node(self, name: str) -> bool:
        """Whether what is of a node and of no workload, such as a loss, is its own to count and to tell."""
        return subjects.shard_of(name, self.parts) == self.part

    def budget(self, limit: int) -> int:
        """Its portion of a number of findings, rounded up; 0 stays 0, which is no limit."""
        return -(-limit // self.parts)


WHOLE: Final = Share()
