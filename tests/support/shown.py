"""Frames as the capture shows them, and a program that remembers what is armed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from daemoneye.errors import MachineError
from tests.support.dissecting import ether

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Shown:
    """Some of one interface."""

    data: np.ndarray
    begin: np.ndarray
    captured: np.ndarray
    size: np.ndarray
    time: np.ndarray
    link: int = 1
    ifindex: int = 2


def shown(packets: Sequence[Packet], at: int = 0, link: int = 1, ifindex: int = 2) -> Shown:
    """Frames as the capture shows them, a second apart from `at` seconds after boot."""
    raw = [bytes(packet) for packet in packets]
    captured = np.array([len(frame) for frame in raw], np.int64)
    begin = np.cumsum(captured) - captured
    time = np.array([(at + n) * SECOND for n in range(len(raw))], np.int64)
    return Shown(np.frombuffer(b"".join(raw), np.uint8), begin, captured, captured + 7, time, link, ifindex)


def tcp(src: str, sport: int, dst: str, dport: int, load: bytes = b"x") -> Packet:
    """A segment."""
    return ether() / IP(src=src, dst=dst) / TCP(sport=sport, dport=dport) / load


class Program:
    """Remembers what is armed, as the kernel's map does."""

    def __init__(self, room: int = 100) -> None:
        self.armed: set[tuple] = set()
        self.room = room

    def arm(self, *conversation) -> None:
        if len(self.armed) == self.room:
            raise MachineError("as many conversations are armed as can be")
        self.armed.add(conversation)

    def disarm(self, *conversation) -> None:
        self.armed.discard(conversation)

    def arm_host(self, ip: bytes) -> None:
        self.arm(ip)

    def disarm_host(self, ip: bytes) -> None:
        self.disarm(ip)
