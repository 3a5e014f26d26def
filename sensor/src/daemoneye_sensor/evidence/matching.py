"""Which frames belong to a conversation or to a host: columns against a few endpoints.

Responsible for the comparison; a tunnel's inside counts, as everywhere (`daemoneye_sensor.packets.layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye.events.addresses import packed, protocol_number
from daemoneye.evidence import Conversation
from daemoneye_sensor.evidence.seen import Seen
from daemoneye_sensor.packets.columns import SCTP, TCP, UDP, Packets
from daemoneye_sensor.packets.layers import Decoder

_WITH_PORTS: Final = (TCP, UDP, SCTP)


@dataclass(frozen=True, slots=True)
class Pair:
    """A conversation; port and protocol 0 fit any, an empty second address everybody. Addresses have 16 bytes, IPv4 mapped."""

    src_ip: bytes
    dst_ip: bytes = b""
    src_port: int = 0
    dst_port: int = 0
    proto: int = 0

    @property
    def exact(self) -> bool:
        """Whether nothing of it is open, so that the kernel's program can be armed for it alone."""
        return bool(self.dst_ip and self.proto and ((self.src_port and self.dst_port) or self.proto not in _WITH_PORTS))


def pairs(conversations: Sequence[Conversation], hosts: Sequence[bytes]) -> tuple[Pair, ...]:
    """What a request is about: its conversations, and everything of these hosts (16 bytes each)."""
    talked = (
        Pair(packed(c.src_ip), packed(c.dst_ip) if c.dst_ip else b"", c.src_port, c.dst_port, protocol_number(c.proto) if c.proto else 0)
        for c in conversations
    )  # fmt: skip
    return (*talked, *map(Pair, hosts))


def decoded(decoder: Decoder, frames: Seen) -> Packets:
    """The packets among frames; `time` of each is the row of its frame."""
    rows = np.arange(len(frames.begin), dtype=np.int64)
    return decoder.decode(frames.data, frames.begin, frames.captured, frames.size, rows, frames.link)


def matching(packets: Packets, wanted: Sequence[Pair]) -> np.ndarray:
    """Whether each of n packets belongs to one of them, bool (n,)."""
    found = np.zeros(len(packets), bool)
    for pair in wanted:
        for source, target in (("src", "dst"), ("dst", "src")):
            found |= _end(packets, source, pair.src_ip, pair.src_port) & _end(packets, target, pair.dst_ip, pair.dst_port) & (
                packets.proto == pair.proto if pair.proto else True
            )  # fmt: skip
    return found


def _end(packets: Packets, side: str, address: bytes, port: int) -> np.ndarray:
    fits = np.ones(len(packets), bool)
    if address:
        high, low = (np.uint64(int.from_bytes(half, "big")) for half in (address[:8], address[8:]))
        fits &= (getattr(packets, f"{side}_hi") == high) & (getattr(packets, f"{side}_lo") == low)
    if port:
        fits &= getattr(packets, f"{side}_port") == port
    return fits
