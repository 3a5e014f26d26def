"""What the machine shows to the source `packets` in its unit tests: links, a program and rings that hand out what scapy made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from daemoneye.events.codec import Section
from daemoneye.events.policy_set import POLICY_SET, sets_of
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets.capture import FLOW
from daemoneye_sensor.packets.compiling import Filters
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.links import Link, Network
from daemoneye_sensor.sources.packets import PacketSource
from tests.support.counted import counted, frames

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
A, B = ETHER / IP(src="10.0.0.1", dst="10.0.0.2"), ETHER / IP(src="10.0.0.2", dst="10.0.0.1")
ASK = A / UDP(sport=40000, dport=53) / DNS(id=7, rd=1, qd=DNSQR(qname="www.example.org"))
REPLY = (
    B
    / UDP(sport=53, dport=40000)
    / DNS(id=7, qr=1, qd=DNSQR(qname="www.example.org"), an=DNSRR(rrname="www.example.org", rdata="192.0.2.1"))
)
GET = b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"


class Kernel:
    """What the machine is to show. Programs and taps that a source makes are remembered."""

    def __init__(self) -> None:
        self.links = {2: Link(2, "eth0")}
        self.uplinks = (2,)
        self.news = False
        self.programs: list[Program] = []
        self.taps: list[Ring] = []
        self.refused: set[str] = set()

    def network(self) -> Network:
        return Network(dict(self.links), self.uplinks)

    def add(self, index: int, name: str, kind: str = "") -> None:
        self.links[index] = Link(index, name, kind, away=kind == "veth")
        self.news = True

    def remove(self, index: int) -> None:
        del self.links[index]
        self.news = True
        for tap in self.taps:
            tap.alive = tap.alive and tap.ifindex != index

    def show(self, packets: Sequence[Packet], *indexes: int, times: Sequence[int] | None = None) -> None:
        """Packets that are exported and counted on these interfaces."""
        for index in indexes:
            for tap in self.taps:
                if tap.ifindex == index and not tap.closed:
                    tap.ready.append(frames(packets, times, index))
                    tap.program.counted.append(counted(packets, times, index))


class Program:
    """In place of `CaptureProgram`."""

    def __init__(self, filters: list[tuple[str, int]]) -> None:
        self.fd = self.raw_fd = 0
        self.xdp: tuple[int, ...] = ()
        self.asked = filters
        self.filters = Filters.of(filters)
        self.problems = self.filters.problems
        self.settings: dict[str, int] = {}
        self.counted: list[np.ndarray] = []
        self.count: dict[str, int] = {"frames": 0, "exported": 0, "map_full": 0}
        self.closed = False

    def set(self, **settings: int) -> None:
        self.settings.update(settings)

    def flows(self) -> np.ndarray:
        flows, self.counted = np.concatenate([np.zeros(0, FLOW), *self.counted]), []
        return flows

    def counters(self) -> dict[str, int]:
        return dict(self.count)

    def close(self) -> None:
        self.closed = True


class Ring:
    """In place of `Tap`."""

    def __init__(self, kernel: Kernel, name: str, ifindex: int, program: Program, **options: Any) -> None:
        if name in kernel.refused:
            raise ProgramError(
                "the ring does not fit into memory", fix="lower bufferSizeMb", reason="MissingKernelFeature"
            )
        self.interface, self.ifindex, self.program, self.options = name, ifindex, program, options
        self.ready: deque[Frames] = deque()
        self.ring_bytes = int(options["ring_bytes"])
        self.lost = (0, 0, 0)
        self.alive = True
        self.closed = self.full = False
        kernel.taps.append(self)

    def blocks(self) -> Iterator[Frames]:
        while self.ready:
            yield self.ready.popleft()

    def filling(self) -> bool:
        return self.full

    def statistics(self) -> tuple[int, int, int]:
        return self.lost

    def close(self) -> None:
        self.closed = True


def sections(source: PacketSource) -> list[Section]:
    """Everything that is ready."""
    made: list[Section] = []
    while (drain := source.drain()) is not None:
        assert drain.lane == "bulk"
        assert drain.rows == sum(len(section.rows) for section in drain.sections if not section.context)
        made += drain.sections
        source.commit(drain)
        if not drain.more:
            break
    return made


def texts(made: Sequence[Section], record: str, column: str) -> list[str]:
    return [value.decode() for section in made if section.record.name == record for value in section.values(column)]


def asking(made: Sequence[Section], record: str) -> list[str]:
    """The policies of each row of a record."""
    sets: dict[int, bytes] = {}
    for section in made:
        sets |= sets_of(section) if section.record is POLICY_SET else {}
    numbers = [n for section in made if section.record.name == record for n in section.rows["policy_set"].tolist()]
    return [sets.get(number, b"").decode().replace("\0", " ").strip() for number in numbers]
