"""Packets as columns, and what was seen of packets that are none of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Final

import numpy as np

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10
TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132
ICMP: Final = 1
ICMPV6: Final = 58


class Fate(IntEnum):
    """What became of a frame."""

    PACKET = 0
    NOT_IP = 1
    SHORT = 2
    MALFORMED = 3
    FRAGMENT = 4
    LINK = 5


@dataclass(slots=True)
class Packets:
    """n rows that stand for IP packets; every attribute but `data` is an array of shape (n,).

    A row is a captured packet, or what the kernel counted of one direction of a conversation for a while: that has no payload.

    Attributes:
        data: Bytes of the capture (uint8) that the offsets below point into.
        time: Moment of the packet, of the first one that the row stands for, ns (u64).
        last: Moment of the last one (u64).
        count: Packets that the row counts for (i64): 1, or 0 of a captured packet that the kernel counted already.
        interface: Number of the interface on which it was seen (u16).
        src_hi, src_lo, dst_hi, dst_lo: Halves of the 16-byte addresses as numbers (u64), IPv4 mapped.
        src_port, dst_port: Ports (u16); of ICMP type and code; 0 where there are none.
        proto: IP protocol (u8).
        tcp_flags: Flags of TCP (u8), of all packets or-ed.
        sequence: Sequence number of TCP (u32).
        vlan: VLAN id of the outermost tag (u16).
        wire: Bytes of the IP packets, headers included (i64).
        payload: Where the payload of TCP or UDP begins (i64).
        length: Captured bytes of it (i64).
        cut: Whether the capture has not all of it.
        taken: Which capture filters took the frame, a bit each (u64); None: nobody filters, or it is a count.
    """

    data: np.ndarray
    time: np.ndarray
    last: np.ndarray
    count: np.ndarray
    interface: np.ndarray
    src_hi: np.ndarray
    src_lo: np.ndarray
    dst_hi: np.ndarray
    dst_lo: np.ndarray
    src_port: np.ndarray
    dst_port: np.ndarray
    proto: np.ndarray
    tcp_flags: np.ndarray
    sequence: np.ndarray
    vlan: np.ndarray
    wire: np.ndarray
    payload: np.ndarray
    length: np.ndarray
    cut: np.ndarray
    taken: np.ndarray | None = None

    def __len__(self) -> int:
        """Packets."""
        return len(self.time)

    def part(self, first: int, stop: int) -> Packets:
        """Those from one position to another; all of them are these themselves."""
        if (first, stop) == (0, len(self)):
            return self
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return replace(self, **{name: column[first:stop] for name, column in columns.items() if column is not None})


_COLUMNS: Final = tuple(one.name for one in fields(Packets) if one.name != "data")


@dataclass(slots=True)
class Seen:
    """What became of frames.

    Attributes:
        frames: All of them.
        passed: Frames that became no packet, by fate.
        tunnelled: Packets that were taken out of a tunnel.
    """

    frames: int = 0
    passed: Counter[Fate] = field(default_factory=Counter)
    tunnelled: int = 0


REASONS: Final[dict[Fate, str]] = {
    Fate.NOT_IP: "not IP",
    Fate.SHORT: "cut before the end of the headers",
    Fate.MALFORMED: "headers that contradict themselves",
    Fate.FRAGMENT: "later fragments whose first one was not seen",
    Fate.LINK: "a link type that is not known",
}
"""In words, for people."""


def any_of(values: np.ndarray, numbers: Iterable[int]) -> np.ndarray:
    """Whether each value is one of a few numbers, bool of its shape; for few, a comparison with each is quicker than numpy's search."""
    found = np.zeros(len(values), bool)
    for number in numbers:
        found |= values == number
    return found


def be16(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Big-endian 16-bit numbers at byte offsets, int64, shape (n,). Every offset must be inside."""
    return data[at].astype(np.int64) << 8 | data[at + 1]


def be32(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Big-endian 32-bit numbers at byte offsets, int64."""
    return be16(data, at) << 16 | be16(data, at + 2)


def be64(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Big-endian 64-bit numbers at byte offsets, u64."""
    index = at[:, None] + np.arange(8)
    return np.ascontiguousarray(data[index]).view(">u8").reshape(-1).astype(np.uint64)
