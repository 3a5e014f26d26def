"""The source `packets` over recorded blocks: a program and rings that hand out what scapy made; the real ones are tests/kernel's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import UDP

from daemoneye_sensor import bpfsys
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets import governor, taps
from daemoneye_sensor.packets.capturing import Asking, Capture
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.links import Network
from daemoneye_sensor.packets.live import Watcher
from daemoneye_sensor.sources import packets as sources
from daemoneye_sensor.sources.packets import PacketSource
from tests.support.captures import START, Connection
from tests.unit.sensor.packetkernel import (
    ASK,
    GET,
    REPLY,
    A,
    B,
    Kernel,
    Program,
    Ring,
    asking,
    sections,
    texts,
)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()

    class Loader:
        @staticmethod
        def load(_: Path, filters: list[tuple[str, int]], *, xdp: bool = False) -> Program:
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
    monkeypatch.setattr(sources, "READ_S", 0.0)
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


def test_rings_are_read_after_a_pause_or_when_one_fills(
    kernel: Kernel, begin: Callable[..., PacketSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(sources, "READ_S", 0.9)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    source = begin()

    def shown() -> list[str]:
        kernel.show([ASK, REPLY], 2)
        return texts(sections(source), "dns_query", "query")

    assert shown() == ["www.example.org"]
    clock[0] += 0.6
    assert shown() == []
    clock[0] += 0.5
    assert shown() == ["www.example.org"] * 2
    kernel.taps[0].full = True
    assert shown() == ["www.example.org"]
    kernel.taps[0].full = False
    assert shown() == []
    source.finish()
    assert texts(sections(source), "dns_query", "query") == ["www.example.org"]


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


def test_frames_that_were_cut_count_for_their_interface(kernel: Kernel, begin: Callable[..., PacketSource]) -> None:
    source = begin(interfaces=("eth0",))
    kernel.show([ASK, REPLY], 2)
    whole = kernel.taps[0].ready[-1]
    kernel.taps[0].ready.append(replace(whole, captured=whole.captured - np.array([0, 9])))
    source.drain()
    assert source.status()["interfaces"]["eth0"]["cut"] == 1  # type: ignore[index]


def test_an_interface_that_vanishes_is_said_and_captured_again_when_it_returns(
    kernel: Kernel, begin: Callable[..., PacketSource], caplog: pytest.LogCaptureFixture
) -> None:
    source = begin(interfaces=("eth0",))
    assert source.problem() == ("", "")
    kernel.remove(2)
    source.drain()
    assert source.problem() == ("NoSuchInterface", "there is no interface 'eth0': it is captured when it comes")
    kernel.add(11, "eth7")  # another look
    source.drain()
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["there is no interface 'eth0': it is captured when it comes"], "to whoever reads the log, once"
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
    assert (former.closed, now.closed, now.asked) == (True, False, [("tcp", 200), ("udp", 200)])
    assert now.settings["snaplen"] == 200
    assert now.settings["flows"] == now.settings["http"] == 1
    assert former.settings["flows"] == former.settings["http"] == 0, "it was silent before the other spoke"
    made = sections(source)
    assert [int(status) for section in made for status in section.rows["status"]] == [204]
    kernel.show(talk.end(), 2)
    source.finish()
    (row,) = [row for section in sections(source) if section.record.name == "packet_flow" for row in section.rows]
    assert (row["src_packets"], row["dst_packets"], row["flags"]) == (5, 3, 0)


WEB, OTHER, EVERY = "tcp dst port 80", "tcp port 8080", ""
POLICIES = (
    Asking("web", WEB, dns=False),
    Asking("other", OTHER, flows=False),
    Asking("twin", WEB, flows=False, dns=False),
    Asking("every", EVERY),
)


def test_a_policy_asks_for_what_its_own_filter_takes_and_its_switches_say(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin(filters=(EVERY, WEB, OTHER), policies=POLICIES)
    here, there = Connection(A, B, 40000, 80), Connection(A, B, 40001, 8080)
    for talk in (here, there):
        kernel.show([*talk.begin(), *talk.send(GET), *talk.send(b"HTTP/1.1 200 OK\r\n\r\n", out=False), *talk.end()], 2)
    kernel.show([ASK, REPLY], 2)
    made = sections(source)
    assert sorted(asking(made, "http_request")) == ["other every", "web twin every"]
    assert asking(made, "dns_query") == ["other every"]
    source.finish()
    assert set(asking(sections(source), "packet_flow")) == {"web every"}


def test_each_message_of_a_connection_belongs_to_whose_filter_took_its_first_packet(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    gets = "tcp[20:4] = 0x47455420"
    source = begin(filters=(EVERY, gets), policies=(Asking("every", EVERY), Asking("gets", gets)))
    talk = Connection(A, B, 40000, 80)
    kernel.show(talk.begin(), 2)
    for request in (b"POST /b HTTP/1.1\r\nContent-Length: 0\r\n\r\n", GET):
        kernel.show([*talk.send(request), *talk.send(b"HTTP/1.1 204 No Content\r\n\r\n", out=False)], 2)
    made = sections(source)
    assert texts(made, "http_request", "method") == ["POST", "GET"]
    assert asking(made, "http_request") == ["every", "every gets"]


def test_what_no_filter_took_is_not_read_although_it_was_shown(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin(filters=(OTHER,), policies=(Asking("other", OTHER),))
    talk = Connection(A, B, 40000, 80)
    kernel.show([*talk.begin(), *talk.send(GET), *talk.end(), ASK, REPLY], 2)  # as of a conversation that is evidence
    made = sections(source)
    assert {section.record.name for section in made} == {"dns_query", "policy_set"}
    source.finish()
    assert sorted(texts(sections(source), "packet_flow", "service")) == ["", "dns"]


def test_who_asks_may_change_without_another_program_and_what_began_before_stays_the_formers(
    kernel: Kernel, begin: Callable[..., PacketSource]
) -> None:
    source = begin(filters=(WEB,), policies=(Asking("former", WEB),))
    first, second = Connection(A, B, 40000, 80), Connection(A, B, 40001, 80)
    kernel.show([*first.begin(), *first.send(GET)], 2)
    sections(source)
    source.change(Capture(filters=(WEB,), policies=(Asking("latter", WEB),)))
    assert len(kernel.programs) == 1
    kernel.show([*second.begin(), *second.send(GET)], 2)
    sections(source)
    source.change(Capture(filters=(EVERY, WEB), policies=(Asking("latter", WEB), Asking("last", EVERY))))
    source.finish()
    assert asking(sections(source), "http_request") == ["former", "latter"]


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


def test_a_filter_that_does_not_compile_is_said(kernel: Kernel, begin: Callable[..., PacketSource]) -> None:
    source = begin(filters=("nonsense", "udp"))
    assert source.problem() == ("BadFilter", f"captureFilter 'nonsense': {kernel.programs[0].problems[0]}")


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
        ("capture", "frames: headers that contradict themselves"): (3, "bulk"),
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
