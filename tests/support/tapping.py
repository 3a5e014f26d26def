"""Ends of cables that tests tap, and reading what a tap shows."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.namespace import within
from daemoneye_sensor.packets.tap import Tap
from tests.support.namespaces import Namespace

DEADLINE_S: Final = 120.0


@dataclass
class End:
    """One end of a cable."""

    space: Namespace
    name: str
    index: int

    @property
    def netns(self) -> Path:
        return Path(f"/run/netns/{self.space.name}")

    def socket(self, make: Callable[[], socket.socket]) -> socket.socket:
        """A socket of this end's namespace."""
        return within(self.netns, make)

    def send(self, *frames: bytes) -> None:
        """Send frames as they are."""
        with self.socket(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
            raw.bind((self.name, 0))
            for frame in frames:
                raw.send(frame)


def end_of(space: Namespace, name: str = "") -> End:
    """The interface of that name, or the only one that is not the loopback."""
    links = {link["ifname"]: link["ifindex"] for link in space.links()}
    name = name or next(other for other in links if other != "lo")
    return End(space, name, links[name])


def until(done: Callable[[], Any]) -> Any:
    """What it says as soon as it says anything."""
    deadline = time.monotonic() + DEADLINE_S
    while not (said := done()):
        if time.monotonic() > deadline:
            pytest.fail(f"not seen within {DEADLINE_S} s")
        os.sched_yield()
    return said


def read(tap: Tap, count: int) -> list[tuple[Frames, int]]:
    """Frames, waited for; each with its number."""
    found: list[tuple[Frames, int]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        select.select([tap.fd], [], [], DEADLINE_S)
        found += [(frames, i) for frames in tap.blocks() for i in range(len(frames.begin))]
        if time.monotonic() > deadline:
            pytest.fail(f"{len(found)} frames of {count} within {DEADLINE_S} s")
    return found


def bytes_of(frames: Frames, i: int) -> bytes:
    begin = int(frames.begin[i])
    return frames.data[begin : begin + int(frames.captured[i])].tobytes()


def between(flows: np.ndarray, src_port: int, dst_port: int) -> np.ndarray:
    return flows[(flows["src_port"] == src_port) & (flows["dst_port"] == dst_port)]


def pour(sender: socket.socket, receiver: socket.socket, amount: int) -> None:
    """Send so many bytes through a connection of which the test holds both ends; neither waits for the other."""
    sender.setblocking(False)
    left, got = memoryview(bytes(amount)), 0
    while got < amount:
        readable, writable, _ = select.select([receiver], [sender] if left else [], [], DEADLINE_S)
        assert readable or writable
        if writable:
            left = left[sender.send(left) :]
        if readable:
            got += len(receiver.recv(1 << 20))
    sender.setblocking(True)
