"""Frames as the capture shows them, as much as evidence needs of them (`daemoneye_sensor.packets.frames` has more)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Seen(Protocol):
    """n frames of one interface; every attribute but `data`, `link` and `ifindex` is an array of shape (n,)."""

    @property
    def data(self) -> np.ndarray:
        """Bytes that the offsets point into (uint8); nobody changes them."""

    @property
    def begin(self) -> np.ndarray:
        """Where each frame begins in it (int64)."""

    @property
    def captured(self) -> np.ndarray:
        """Bytes of it that are there (int64)."""

    @property
    def size(self) -> np.ndarray:
        """Bytes that it had (int64)."""

    @property
    def time(self) -> np.ndarray:
        """Its moment, CLOCK_BOOTTIME ns."""

    @property
    def link(self) -> int:
        """Link type."""

    @property
    def ifindex(self) -> int:
        """Index of the interface."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Chosen frames of one interface, one after another in bytes of their own; attributes as of `Seen`."""

    data: np.ndarray
    begin: np.ndarray
    captured: np.ndarray
    size: np.ndarray
    time: np.ndarray
    link: int
    ifindex: int

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.data.nbytes + 4 * self.begin.nbytes)


def pack(frames: Seen, rows: np.ndarray) -> Packed:
    """Copy these frames (int array, ascending)."""
    begin, captured = frames.begin[rows].astype(np.int64), frames.captured[rows].astype(np.int64)
    ends = np.cumsum(captured)
    place = ends - captured
    total = int(ends[-1]) if len(rows) else 0
    index = np.repeat(begin - place, captured) + np.arange(total)
    return Packed(
        frames.data[index], place, captured, frames.size[rows].astype(np.int64), frames.time[rows].astype(np.int64), frames.link, frames.ifindex
    )  # fmt: skip
