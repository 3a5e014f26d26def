"""The source `packets` over recorded blocks: a program and rings that hand out what scapy made; the real ones are tests/kernel's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from daemoneye.events.codec import Section
from daemoneye_sensor import bpfsys
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets import governor, taps
from daemoneye_sensor.packets.capture import FLOW
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.links import Link, Network
from daemoneye_sensor.packets.live import Watcher
from daemoneye_sensor.sources import packets as sources
from daemoneye_sensor.sources.packets import PacketSource
from tests.support.captures import START, Connection
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
        self.filters = filters
        self.problems = {i: "syntax error" for i, (text, _) in enumerate(filters) if text == "nonsense"}
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
        self.closed = False
        kernel.taps.append(self)

    def blocks(self) -> Iterator[Frames]:
        while self.ready:
            yield self.ready.popleft()

    def statistics(self) -> tuple[int, int, int]:
        return self.lost

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()

    class Loader:
        @staticmethod
        def load(_: Path, filters: list[tuple[str, int]]) -> Program:
            if any(text == "too much" for text, _ in filters):
                raise ProgramError("the verifier refuses it")
            made.programs.append(Program(filters))
            return made.programs[-1]

    class Asked:
        def read(self) -> Network:
            return made.network()

        def changed(self) -> bool:
            news, made.news = made.news, False
            return news

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr(sources, "CaptureProgram", Loader)
    monkeypatch.setattr(sources, "COUNT_S", 0.0)
    monkeypatch.setattr(bpfsys, "fdinfo", lambda _: {})
    monkeypatch.setattr(taps, "Links", lambda _: Asked())
    monkeypatch.setattr(taps, "Tap", lambda *place, **options: Ring(made, *place, **options))
    return made


@pytest.fixture
def begin(kernel: Kernel) -> Iterator[Callable[..., PacketSource]]:
    made: list[PacketSource] = []

    def start(*, watcher: Watcher | None = None, **settings: Any) -> PacketSource:
        made.append(PacketSource(bpf_dir=Path("bpf"), capture=Capture(**settings), watcher=watcher))
        made[-1].open({}, None)
        return made[-1]

    yield start
    for source in made:
        source.close(keep=False)
    assert all(tap.closed for tap in kernel.taps)
    assert all(program.closed for program in kernel.programs)


def sections(source: PacketSource) -> list[Section]:
    """Everything that is ready."""
    made: list[Section] = []
    while (drain := source.drain()) is not None:
        assert drain.lane == "bulk"
        assert drain.rows == sum(len(section.rows) for section in drain.sections)
        made += drain.sections
        source.commit(drain)
        if not drain.more:
            break
    return made


def texts(made: Sequence[Section], record: str, column: str) -> list[str]:
    return [value.decode() for section in made if section.record.name == record for value in section.values(column)]


def test_messages_come_at_once_and_conversations_when_they_are_over(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin()
    talk = Connection(A, B, 40000, 80)
    kernel.show([ASK, REPLY, *talk.begin(), *talk.send(GET), *talk.send(b"HTTP/1.1 200 OK\r\n\r\n", out=False)], 2)
    made = sections(source)
    assert texts(made, "dns_query", "query") == ["www.example.org"]
    assert texts(made, "dns_query", "interface") == ["eth0"]
    assert texts(made, "http_request", "host") == ["shop.example"]
    source.finish()
    made = sections(source)
    assert sorted(texts(made, "packet_flow", "service")) == ["dns", "http"]
    assert source.status()["records"] == {"packets": 4}
    assert source.drain() is None


def test_a_pod_is_captured_when_it_comes_and_its_conversations_are_told_when_it_goes(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin(interfaces=("auto",))
    kernel.add(7, "veth7", "veth")
    assert source.drain() is None
    kernel.show([ASK, REPLY], 2, 7)
    assert texts(sections(source), "dns_query", "query") == ["www.example.org"], "both show it, once it is told"
    kernel.remove(7)
    kernel.remove(2)
    assert texts(sections(source), "packet_flow", "state") == ["end"]
    assert source.problem() == (
        "NoSuchInterface",
        "there is no default route whose interface could be captured: it is captured when it comes",
    )
    kernel.add(9, "veth7", "veth")
    source.drain()
    kernel.show([ASK, REPLY], 9)
    made = sections(source)
    assert texts(made, "dns_query", "interface") == ["veth7"]


def test_an_interface_that_vanishes_is_said_and_captured_again_when_it_returns(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin(interfaces=("eth0",))
    assert source.problem() == ("", "")
    kernel.remove(2)
    source.drain()
    assert source.problem() == ("NoSuchInterface", "there is no interface 'eth0': it is captured when it comes")
    kernel.add(12, "eth0")
    source.drain()
    assert source.problem() == ("", "")
    kernel.show([ASK, REPLY], 12)
    assert texts(sections(source), "dns_query", "interface") == ["eth0"]


def test_the_same_index_that_comes_back_is_another_interface(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin(interfaces=("eth0",))
    kernel.show([ASK], 2)
    kernel.remove(2)
    kernel.add(2, "eth0")
    assert texts(sections(source), "packet_flow", "state") == ["end"], "what the former one showed is told first"
    source.drain()
    assert len([tap for tap in kernel.taps if not tap.closed]) == 1
    kernel.show([REPLY], 2)
    assert texts(sections(source), "dns_query", "query") == ["www.example.org"]


def test_what_is_missing_or_cannot_be_opened_is_said_and_tried_again(
    kernel: Kernel, begin: Callable[..., PacketSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taps, "RETRY_S", 0.0)
    kernel.refused.add("eth0")
    source = begin(interfaces=("eth0", "eth9"))
    assert source.problem() == ("MissingKernelFeature", "the ring does not fit into memory (fix: lower bufferSizeMb)")
    assert source.status()["interfaces"]["eth0"]["state"] == "failed"  # type: ignore[index]
    kernel.refused.clear()
    source.drain()
    assert source.problem() == ("NoSuchInterface", "there is no interface 'eth9': it is captured when it comes")
    kernel.add(9, "eth9")
    source.drain()
    assert source.problem() == ("", "")
    assert {name: one["state"] for name, one in source.status()["interfaces"].items()} == {"eth0": "up", "eth9": "up"}  # type: ignore[attr-defined]


def test_another_filter_goes_on_with_what_is_known_and_loses_nothing(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin()
    talk = Connection(A, B, 40000, 80)
    kernel.show([*talk.begin(), *talk.send(GET)], 2)
    sections(source)
    late = talk.send(b"HTTP/1.1 204 No Content\r\n\r\n", out=False)
    kernel.show(late, 2)
    source.change(Capture(filters=("tcp", "udp"), snaplen=200))
    former, now = kernel.programs
    assert (former.closed, now.closed, now.filters) == (True, False, [("tcp", 200), ("udp", 200)])
    assert now.settings["snaplen"] == 200
    assert now.settings["flows"] == now.settings["http"] == 1
    assert former.settings["flows"] == former.settings["http"] == 0, "it was silent before the other spoke"
    made = sections(source)
    assert [int(status) for section in made for status in section.rows["status"]] == [204]
    kernel.show(talk.end(), 2)
    source.finish()
    (row,) = [row for section in sections(source) if section.record.name == "packet_flow" for row in section.rows]
    assert (row["src_packets"], row["dst_packets"], row["flags"]) == (5, 3, 0)


def test_a_change_that_is_refused_leaves_the_former_capture(kernel: Kernel, begin: Callable[..., PacketSource]) -> None:
    source = begin()
    with pytest.raises(ProgramError):
        source.change(Capture(filters=("too much",)))
    assert source.capture == Capture()
    kernel.show([ASK, REPLY], 2)
    assert texts(sections(source), "dns_query", "query") == ["www.example.org"]


def test_interfaces_that_are_meant_no_more_are_told_and_another_budget_needs_no_other_program(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    kernel.add(3, "eth1")
    source = begin(interfaces=("eth0",))
    kernel.show([ASK], 2)
    sections(source)
    source.change(Capture(interfaces=("eth1",)))
    assert texts(sections(source), "packet_flow", "interface") == ["eth0"], "who is captured no more is told"
    source.change(Capture(interfaces=("eth1",), cpu_percent=5.0))
    assert len(kernel.programs) == 2
    assert [tap.interface for tap in kernel.taps if not tap.closed] == ["eth1"]
    assert source.status()["governor"]["budget_percent"] == 5.0  # type: ignore[index]


def test_a_filter_that_does_not_compile_is_said(begin: Callable[..., PacketSource]) -> None:
    source = begin(filters=("nonsense", "udp"))
    assert source.problem() == ("BadFilter", "captureFilter 'nonsense': syntax error")


def test_losses_are_told_once_each_with_stage_and_interface(kernel: Kernel, begin: Callable[..., PacketSource]) -> None:
    source = begin()
    assert source.lost() == []
    kernel.taps[0].lost = (100, 30, 2)
    kernel.programs[0].count |= {
        "exported": 130,
        "map_full": 7,
        "over_budget": 5,
        "malformed": 3,
        "fragments": 2,
        "not_ip": 50,
    }
    source.drain()
    told = {(lost.stage, lost.reason): (lost.count, lost.lane) for lost in source.lost()}
    assert told == {
        ("capture", "frames: the ring of eth0 had no room"): (30, "bulk"),
        ("capture", "packets of conversations for which the kernel's table had no room"): (7, "bulk"),
        ("capture", "packets that were not looked at: the CPU budget is used up"): (5, "bulk"),
        ("capture", "later fragments: they count for no conversation"): (2, "bulk"),
        ("decode", "frames: headers that contradict themselves"): (3, "bulk"),
    }
    assert source.lost() == []
    reason, sentence = source.problem()
    assert reason == "CaptureDegraded"
    assert "30 on eth0" in sentence
    kernel.taps[0].lost = (100, 31, 2)
    source.drain()
    assert [lost.count for lost in source.lost()] == [1]
    assert source.status()["dropped"] == 31


def test_the_budget_steps_down_and_each_step_is_done_and_said(
    kernel: Kernel, begin: Callable[..., PacketSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "WINDOW_S", 1e-9)
    source = begin(cpu_percent=1e-6)
    program = kernel.programs[0]
    assert (program.settings["follow"], program.settings["budget"]) == (32, 0)
    seen = []
    for number in range(6):
        kernel.show([ASK, REPLY], 2, times=[START + number * 10**9, START + number * 10**9 + 1])
        made = sections(source)
        seen.append((source.status()["governor"]["name"], texts(made, "dns_query", "answers")))  # type: ignore[index]
    names = [name for name, _ in seen]
    assert names[-1] == "flows_only"
    assert list(dict.fromkeys(names)) == [
        name for name in ("everything", "no_ja3", "no_answers", "few_segments", "flows_only") if name in names
    ]
    assert seen[0][1] == ["192.0.2.1\0"]
    assert seen[-1][1] == [""]
    assert (program.settings["follow"], program.settings["budget"]) == (4, 1)
    reason, sentence = source.problem()
    assert reason == "CaptureDegraded"
    assert "conversations are counted" in sentence


def test_rings_share_the_buffer(kernel: Kernel, begin: Callable[..., PacketSource]) -> None:
    for index in range(10, 300):
        kernel.add(index, f"veth{index}", "veth")
    source = begin(interfaces=("auto",), buffer_bytes=64 << 20)
    sizes = {tap.interface: tap.options["ring_bytes"] for tap in kernel.taps}
    assert sizes["eth0"] == 32 << 20
    assert len(sizes) == 256 or source.problem()[0] == "CaptureDegraded"
    assert sum(sizes.values()) <= 64 << 20
    assert min(sizes.values()) >= 1 << 16
    assert source.problem()[0] == "CaptureDegraded"
    source.close(keep=False)
    kernel.taps.clear()
    begin(interfaces=("eth0",), buffer_bytes=8 << 20)
    assert [tap.options["ring_bytes"] for tap in kernel.taps] == [8 << 20]


def test_without_flows_only_messages_are_told(kernel: Kernel, begin: Callable[..., PacketSource]) -> None:
    source = begin(flows=False)
    assert kernel.programs[0].settings["flows"] == 0
    kernel.show([ASK, REPLY], 2)
    source.finish()
    assert {section.record.name for section in sections(source)} == {"dns_query"}


def test_whoever_looks_on_is_shown_what_is_read_and_told_of_each_program(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    class Onlooker:
        def __init__(self) -> None:
            self.programs: list[Any] = []
            self.shown: list[tuple[int, str, int]] = []

        def follow(self, program: Any) -> None:
            self.programs.append(program)

        def look(self, shown: Sequence[Frames], names: Mapping[int, str], drops: Mapping[int, int]) -> None:
            self.shown += [(len(one.time), names[one.ifindex], drops[one.ifindex]) for one in shown]

    watcher = Onlooker()
    source = begin(watcher=watcher)
    kernel.taps[0].lost = (2, 4, 1)
    source.drain()
    kernel.show([ASK, REPLY], 2)
    sections(source)
    assert watcher.shown == [(2, "eth0", 4)]
    source.change(Capture(filters=("udp",)))
    source.close(keep=False)
    assert watcher.programs == [*kernel.programs, None]


def test_batches_are_bounded(
    kernel: Kernel, begin: Callable[..., PacketSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_ROWS", 100)
    source = begin()
    packets = [A / UDP(sport=1000 + i, dport=2000) for i in range(950)]
    for at in range(0, 950, 50):
        kernel.show(packets[at : at + 50], 2)
    source.finish()
    drains = []
    while (drain := source.drain()) is not None:
        drains.append(drain.rows)
        if not drain.more:
            break
    assert sum(drains) == 950
    assert max(drains) <= 100
