"""Rows of one kind as arrays of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np


class Columns:
    """What is common to frozen dataclasses with slots whose fields are columns: arrays of shape (n, …), the first of shape (n,)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.columns[0])

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
