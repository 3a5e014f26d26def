"""Rows of one kind as arrays of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np


class Columns:
    """What is common to frozen dataclasses with slots whose fields are columns: arrays of shape (n, …).

    Attributes:
        time: Wall time, ns, int64.
        workload: Hash of the workload with its image, u64.
        tree: Process keys of itself and its ancestors, u64, shape (n, d), 0 where they are unknown.
    """

    __slots__ = ()

    time: np.ndarray
    workload: np.ndarray
    tree: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the columns, in order."""
        return tuple(cls.__slots__)

    @property
    def columns(self) -> list[np.ndarray]:
        """All columns in order."""
        return [getattr(self, name) for name in self.names()]

    def take(self, index: np.ndarray) -> Self:
        """Some of them: int array."""
        return type(self)(*(column.take(index, axis=0) for column in self.columns))

    def span(self, first: int, last: int) -> Self:
        """Those from `first` to before `last`, not copied."""
        return type(self)(*(column[first:last] for column in self.columns))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several one after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))
