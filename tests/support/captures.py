"""Capture files and blocks of frames for tests, made by scapy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from daemoneye_sensor.packets.columns import Packets
from daemoneye_sensor.packets.layers import Decoder

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND
"""2026-01-01."""


def write(path: Path, packets: Sequence[Packet], step: float = 0.01, linktype: int | None = None) -> Path:
    """A pcap file with these packets, `step` seconds from one to the next but where a packet has a time of its own."""
    for number, packet in enumerate(packets):
        if packet.time > START / SECOND + 10**7:  # scapy's default: the moment at which it was made
            packet.time = START / SECOND + number * step
    wrpcap(str(path), list(packets), linktype=linktype)
    return path


def decode(
    frames: Sequence[bytes],
    link: int = 1,
    decoder: Decoder | None = None,
    times: Sequence[int] | None = None,
    captured: Sequence[int] | None = None,
) -> Packets:
    """Frames, one after another, as columns; of each only so many bytes where `captured` says so."""
    kept = [
        frame[: n if captured is not None else None]
        for frame, n in zip(frames, captured or [0] * len(frames), strict=True)
    ]
    data = np.frombuffer(b"".join(kept) + bytes(16), np.uint8)
    lengths = np.array([len(frame) for frame in kept], np.int64)
    begin = np.cumsum(lengths) - lengths
    moments = np.array(times if times is not None else [START + i * 1_000_000 for i in range(len(frames))], np.int64)
    sizes = np.array([len(frame) for frame in frames], np.int64)
    return (decoder or Decoder()).decode(data, begin, lengths, sizes, moments, link)


def decoded(packets: Sequence[Packet], link: int = 1, decoder: Decoder | None = None, **options: Any) -> Packets:
    """Packets as columns."""
    return decode([bytes(packet) for packet in packets], link, decoder, **options)


class Connection:
    """Two sides that talk TCP; every method gives frames of what it does."""

    def __init__(self, client: Packet, server: Packet, sport: int, dport: int) -> None:
        """`client` and `server` are layers 2 and 3 of frames that each of them sends."""
        self._sides = {True: (client, sport, dport), False: (server, dport, sport)}
        self._next = {True: 1000, False: 5000}

    def segment(self, *, out: bool, data: bytes = b"", flags: str = "PA") -> Packet:
        """One segment; the side's sequence number goes on."""
        below, sport, dport = self._sides[out]
        made = below.copy() / TCP(
            sport=sport, dport=dport, flags=flags, seq=self._next[out] % 2**32, ack=self._next[not out] % 2**32
        )
        self._next[out] += len(data) + ("S" in flags) + ("F" in flags)
        return made / Raw(data) if data else made

    def begin(self, sequence: int = 1000) -> list[Packet]:
        """The handshake."""
        self._next = {True: sequence, False: 5000}
        return [
            self.segment(out=True, flags="S"),
            self.segment(out=False, flags="SA"),
            self.segment(out=True, flags="A"),
        ]

    def send(self, data: bytes, *, out: bool = True, size: int = 1400) -> list[Packet]:
        """Data in segments of at most `size` bytes."""
        return [self.segment(out=out, data=data[at : at + size]) for at in range(0, len(data), size)]

    def end(self) -> list[Packet]:
        """FIN both ways."""
        return [
            self.segment(out=True, flags="FA"),
            self.segment(out=False, flags="FA"),
            self.segment(out=True, flags="A"),
        ]
