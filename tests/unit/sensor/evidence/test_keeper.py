"""What is kept of recorded frames: the moments before, the conversation and the pod that are asked for, within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q
from scapy.layers.vxlan import VXLAN

from daemoneye.api.v1alpha1.policy import Evidence, NetworkMonitoring
from daemoneye.events.addresses import packed
from daemoneye.evidence import Arm, Conversation
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye_sensor.evidence import keeper
from daemoneye_sensor.evidence.keeper import Collected, Keeper
from daemoneye_sensor.evidence.matching import Pair, pairs
from daemoneye_sensor.evidence.service import wanted
from tests.support.dissecting import ether
from tests.support.shown import SECOND, Program, shown, tcp

ID = "0123456789abcdef" * 2
TALK = Conversation("10.0.0.1", "10.0.0.2", 4711, 443, "tcp")
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def kept(clock: Clock, program: Program) -> Keeper:
    made = Keeper(clock=clock)
    made.enable(on=True)
    made.follow(program)
    return made


def arm(kept: Keeper, *conversations: Conversation, hosts: Sequence[str] = (), **changes: Any) -> str:
    request = replace(Arm(ID, "n1", 10, 1 << 20, conversations), **changes)
    return kept.arm(request, pairs(conversations, [packed(host) for host in hosts]))


def loads(one: Collected) -> list[bytes]:
    """The last bytes of every frame that was kept."""
    return [
        part.data[begin : begin + captured].tobytes()[-1:]
        for part in one.parts
        for begin, captured in zip(part.begin.tolist(), part.captured.tolist(), strict=True)
    ]


MIXED = [
    tcp(A, 4711, B, 443, b"1"), tcp(B, 443, A, 4711, b"2"), tcp(A, 4712, B, 443, b"3"), tcp(C, 4711, B, 443, b"4"),
    ether() / IP(src=A, dst=B) / UDP(sport=4711, dport=443) / b"5",
    ether() / Dot1Q(vlan=7) / IP(src=A, dst=B) / TCP(sport=4711, dport=443) / b"6",
    ether() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=4789) / VXLAN() / tcp(A, 4711, B, 443, b"7"),
    ether() / IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(sport=4711, dport=443) / b"8",
    ether(type=0x9999) / b"9",
]  # fmt: skip


@pytest.mark.parametrize(
    ("conversations", "hosts", "expected"),
    [
        ([TALK], [], b"1267"),
        ([Conversation(B, A, 443, 4711, "tcp")], [], b"1267"),
        ([Conversation(A, B)], [], b"123567"),
        ([Conversation(A, B, proto="udp")], [], b"5"),
        ([], [C], b"4"),
        ([], ["2001:db8::2"], b"8"),
        ([TALK], [C], b"12467"),
        ([Conversation("198.51.100.1")], [], b""),
    ],
)
def test_what_belongs_to_it_is_kept_in_either_direction_and_in_tunnels(kept, clock, conversations, hosts, expected):
    assert arm(kept, *conversations, hosts=hosts) == ""
    kept.look([shown(MIXED)], {2: "eth0"})
    clock.now += 10
    (one,) = kept.due()
    assert b"".join(loads(one)) == expected
    assert one.complete
    assert one.frames == len(expected)


def test_the_moments_before_are_kept_too_and_no_more_than_a_minute_of_them(kept, clock):
    for number in range(4):
        kept.look([shown([tcp(A, 4711, B, 443, b"%d" % number)], at=number)], {2: "eth0"})
        clock.now += 25
    assert arm(kept, TALK) == ""
    kept.look([shown([tcp(A, 4711, B, 443, b"4")], at=100)], {2: "eth0"})
    clock.now += 10
    (one,) = kept.due()
    assert b"".join(loads(one)) == b"1234"
    assert [int(part.time[0]) // SECOND for part in one.parts] == [1, 2, 3, 100]
    assert one.names == {2: "eth0"}


def test_the_look_back_has_bounds_of_bytes(clock, program):
    kept = Keeper(look_back=10_000, clock=clock)
    kept.enable(on=True)
    kept.follow(program)
    for number in range(100):
        kept.look([shown([tcp(A, 4711, B, 443, bytes(900) + b"%d" % (number % 10))])], {})
        assert kept.bytes <= 10_000 + 1000
    kept.enable(on=False)
    assert kept.bytes == 0


def test_time_and_program_end_with_it(kept, clock, program):
    arm(kept, TALK, Conversation(A, B, proto="tcp"), hosts=[C])
    assert program.armed == {(packed(A), 4711, packed(B), 443, 6), (packed(A),), (packed(C),)}
    clock.now += 9.9
    assert kept.due() == []
    clock.now += 0.1
    assert len(kept.due()) == 1
    assert program.armed == set()
    kept.look([shown(MIXED)], {})
    assert kept.due() == []


def test_frames_that_are_read_late_belong_to_it_too(clock, program):
    kept = Keeper(late=1.5, clock=clock)
    kept.enable(on=True)
    kept.follow(program)
    arm(kept, TALK)
    clock.now += 11
    kept.look([shown(MIXED)], {})
    assert kept.due() == []
    clock.now += 0.5
    assert kept.due()[0].frames > 0


def test_what_two_requests_are_about_stays_armed_until_both_are_over(kept, clock, program):
    arm(kept, TALK, hosts=[C])
    clock.now += 5
    arm(kept, TALK, hosts=[C], finding="ab" * 16)
    clock.now += 5
    assert len(kept.due()) == 1
    assert len(program.armed) == 2
    clock.now += 5
    assert len(kept.due()) == 1
    assert program.armed == set()


def test_another_program_is_armed_with_what_is_in_force(kept, program):
    arm(kept, TALK)
    other = Program()
    kept.follow(other)
    assert other.armed == program.armed


def test_a_program_without_room_keeps_what_the_parsers_want(kept, clock):
    kept.follow(Program(room=0))
    assert arm(kept, TALK) == ""
    kept.look([shown(MIXED)], {})
    clock.now += 10
    assert kept.due()[0].frames == 4


def test_it_ends_when_its_room_is_used_up(kept):
    arm(kept, TALK, max_bytes=5000)
    for _ in range(20):
        kept.look([shown([tcp(A, 4711, B, 443, bytes(1000))])], {})
    (one,) = kept.due()
    assert (one.frames, one.complete) == (4, False)
    assert one.bytes <= 5000


def test_small_frames_are_bounded_by_number(kept, monkeypatch):
    monkeypatch.setattr(keeper, "MAX_FRAMES", 5)
    arm(kept, TALK)
    kept.look([shown([tcp(A, 4711, B, 443)] * 9)], {})
    (one,) = kept.due()
    assert (one.frames, one.complete) == (5, False)


def test_losses_meanwhile_are_counted(kept, clock):
    kept.look([], {2: "eth0"}, {2: 100})
    arm(kept, TALK)
    kept.look([shown(MIXED)], {2: "eth0"}, {2: 103, 3: 0})
    kept.look([], {2: "eth0"}, {2: 110, 3: 2})
    clock.now += 10
    (one,) = kept.due()
    assert one.dropped == {2: 10, 3: 2}


def test_interfaces_that_come_and_go_are_forgotten_and_those_that_stay_are_not(kept, clock, monkeypatch):
    monkeypatch.setattr(keeper, "_INTERFACES", 3)
    for index in range(10, 30):
        kept.look([], {2: "eth0", index: f"pod{index}"}, {2: 100, index: 1})
    assert len(kept._names) == len(kept._drops) == 3
    arm(kept, TALK)
    kept.look([shown(MIXED)], {2: "eth0"}, {2: 103})
    clock.now += 10
    (one,) = kept.due()
    assert (one.names, one.dropped) == ({2: "eth0"}, {2: 3})


def test_why_a_request_is_not_taken(clock, program, monkeypatch):
    kept = Keeper(memory=100_000, clock=clock)
    assert "off on this node" in arm(kept, TALK)
    kept.enable(on=True)
    assert "no packets are captured" in arm(kept, TALK)
    kept.follow(program)
    assert "no conversation" in arm(kept)
    assert arm(kept, TALK, max_bytes=50_000) == ""
    assert "already" in arm(kept, TALK)
    assert "no memory" in arm(kept, TALK, finding="ab" * 16)
    monkeypatch.setattr(keeper, "MAX_REQUESTS", 1)
    assert "1 findings" in arm(kept, TALK, finding="ab" * 16)
    assert kept.refused == 6


def test_pairs_of_a_request():
    assert pairs([TALK], [packed(C)]) == (Pair(packed(A), packed(B), 4711, 443, 6), Pair(packed(C)))


def test_whether_a_node_keeps_anything_its_policies_say():
    def config(*networks: dict) -> NodeConfig:
        return NodeConfig(tuple(NodePolicy(f"p{n}", "u", 1, network=network) for n, network in enumerate(networks)))

    asked = NetworkMonitoring(enable_packet_capture=True, evidence=Evidence(enabled=True)).model_dump(mode="json")
    assert wanted(config({}, asked))
    assert not wanted(config())
    assert not wanted(config({**asked, "enable_packet_capture": False}))
    assert not wanted(config({**asked, "evidence": {**asked["evidence"], "enabled": False}}))
    assert not wanted(config({**asked, "evidence": "on"}))


def test_whoever_waits_is_told_when_something_is_due(kept, clock):
    woken = []
    kept.woken = lambda: woken.append(clock.now)
    assert kept.due_in() is None
    arm(kept, TALK)
    assert kept.due_in() == 10.0
    clock.now += 4
    assert kept.due_in() == 6.0
    arm(kept, TALK, finding="f" * 32, max_bytes=100)
    kept.look([shown([tcp(A, 4711, B, 443, bytes(900))])], {})
    assert kept.due_in() == 0.0, "its budget is spent"
    assert len(woken) == 3
    assert [one.complete for one in kept.due()] == [False]
    assert kept.due_in() == 6.0
