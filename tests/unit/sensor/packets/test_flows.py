"""Conversations against a plain model: a dict of pairs of endpoints, packet by packet."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from daemoneye.events.codec import Section, concatenate
from daemoneye.events.flags import Flag
from daemoneye.events.netform import endpoints_json
from daemoneye_sensor.packets import flows
from daemoneye_sensor.packets.flows import FlowTable
from tests.support.captures import SECOND, START, Connection, decoded

COUNTED = ("src_packets", "src_bytes", "dst_packets", "dst_bytes")
NUMBERS = (*COUNTED, "src_tcp_flags", "dst_tcp_flags", "time", "begin_time")
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
A, B = ETHER / IP(src="10.0.0.1", dst="10.0.0.2"), ETHER / IP(src="10.0.0.2", dst="10.0.0.1")
SIX, SIX_BACK = ETHER / IPv6(src="fe80::1", dst="fe80::2"), ETHER / IPv6(src="fe80::2", dst="fe80::1")


def told(sections: list[Section]) -> list[dict[str, Any]]:
    """Rows as dicts."""
    out = []
    for section in sections:
        ends = endpoints_json(section.rows)
        states, services = section.values("state"), section.values("service")
        for i, row in enumerate(section.rows):
            texts = {"state": states[i].decode(), "service": services[i].decode(), "flags": Flag(int(row["flags"]))}
            out.append({**ends[i], **{name: int(row[name]) for name in NUMBERS}, **texts})
    return out


def run(packets: Sequence[Packet], size: int = 1000, times: list[int] | None = None) -> list[dict[str, Any]]:
    """All rows of a capture in blocks of `size`."""
    table, sections = FlowTable(), []
    times = times or [START + i * 1_000_000 for i in range(len(packets))]
    for at in range(0, len(packets), size):
        sections += [table.add(decoded(packets[at : at + size], times=times[at : at + size]))[1], table.due()]
    sections += [table.end()]
    assert len(table) == 0
    return told(sections)


def test_a_connection_is_one_row() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [*talk.begin(), *talk.send(b"x" * 3000), *talk.send(b"y" * 10, out=False), *talk.end()]
    for size in (1, 2, 1000):
        (row,) = run(packets, size)
        assert (row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"], row["proto"]) == (
            "10.0.0.1",
            40000,
            "10.0.0.2",
            80,
            "tcp",
        )
        assert (row["src_packets"], row["dst_packets"]) == (7, 3)
        assert (row["src_bytes"], row["dst_bytes"]) == (7 * 40 + 3000, 3 * 40 + 10)
        assert (row["src_tcp_flags"], row["dst_tcp_flags"]) == (0x1B, 0x1B)
        assert (row["state"], row["flags"]) == ("closed", Flag(0))
        assert (row["begin_time"], row["time"]) == (START, START + 9_000_000)


def test_whoever_asks_is_the_source() -> None:
    talk = Connection(A, B, 40000, 80)
    _, second, third = talk.begin()
    (row,) = run([second, third])
    assert (row["src_port"], row["dst_port"], row["flags"]) == (40000, 80, Flag.MID_STREAM), (
        "SYN and ACK come from the server"
    )
    (row,) = run([talk.segment(out=False, data=b"late")])
    assert (row["src_port"], row["dst_port"], row["flags"]) == (40000, 80, Flag.MID_STREAM), (
        "the lower port is the server's"
    )
    (row,) = run([B / UDP(sport=53, dport=40000), A / UDP(sport=40000, dport=53)])
    assert (row["src_port"], row["src_packets"], row["dst_packets"], row["flags"]) == (40000, 1, 1, Flag.MID_STREAM)
    (row,) = run([A / UDP(sport=123, dport=123), B / UDP(sport=123, dport=123)])
    assert (row["src_ip"], row["flags"]) == ("10.0.0.1", Flag(0))


def test_an_echo_and_its_answer_are_one_conversation() -> None:
    (row,) = run([A / ICMP(type=8), B / ICMP(type=0), A / ICMP(type=8)])
    assert (row["src_ip"], row["src_port"], row["dst_port"], row["src_packets"], row["dst_packets"]) == (
        "10.0.0.1",
        8,
        0,
        2,
        1,
    )
    (row,) = run([B / ICMP(type=0), A / ICMP(type=8)])
    assert (row["src_ip"], row["dst_packets"]) == ("10.0.0.1", 1)
    (row,) = run([A / ICMP(type=3, code=1)])
    assert (row["src_port"], row["dst_port"], row["proto"]) == (3, 1, "icmp")
    local = ETHER / IP(src="127.0.0.1", dst="127.0.0.1")
    (row,) = run([local / ICMP(type=8), local / ICMP(type=0)])
    assert (row["src_packets"], row["dst_packets"]) == (1, 1)


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        ([A / ICMP(type=8), B / ICMP(type=8), B / ICMP(type=0), A / ICMP(type=0)], [("10.0.0.1", 8, 1, 1), ("10.0.0.2", 8, 1, 1)]),
        ([A / ICMP(type=3, code=1), B / ICMP(type=3, code=1), A / ICMP(type=3, code=3)], [("10.0.0.1", 3, 1, 0)] * 2 + [("10.0.0.2", 3, 1, 0)]),
        ([SIX / ICMPv6ND_NS(), SIX_BACK / ICMPv6ND_NA(), SIX_BACK / ICMPv6ND_NS()], [("fe80::1", 135, 1, 1), ("fe80::2", 135, 1, 0)]),
        ([SIX_BACK / ICMPv6ND_NA()], [("fe80::2", 136, 1, 0)]),
    ],
    ids=["echo", "unreachable", "neighbour", "unsolicited"],
)  # fmt: skip
def test_conversations_of_icmp_are_those_of_the_community_id(
    packets: list[Packet], expected: list[tuple[str, int, int, int]]
) -> None:
    rows = run(packets)
    assert sorted((row["src_ip"], row["src_port"], row["src_packets"], row["dst_packets"]) for row in rows) == expected


def test_ports_that_are_used_again_are_another_connection() -> None:
    packets: list[Packet] = []
    for _ in range(3):
        talk = Connection(A, B, 40000, 80)
        packets += [*talk.begin(), *talk.end()]
    for size in (6, 4):
        rows = run(packets, size)
        assert sum(row["src_packets"] + row["dst_packets"] for row in rows) == 18
        assert len(rows) == 3 if size == 6 else rows
        assert {row["state"] for row in rows} == {"closed"}


def test_what_goes_on_is_told_every_minute_and_what_is_silent_once() -> None:
    packets = [A / UDP(sport=5000, dport=6000) / Raw(b"x") for _ in range(200)]
    quiet = [B / UDP(sport=7000, dport=8000)]
    times = [START, *(START + i * SECOND for i in range(200))]
    rows = run(quiet + packets, 10, times)
    steady = [row for row in rows if row["src_port"] == 5000]
    assert [row["state"] for row in steady] == ["active", "active", "active", "end"]
    assert sum(row["src_packets"] for row in steady) == 200
    assert [row["state"] for row in rows if row["src_port"] == 7000] == ["idle"]
    assert {row["begin_time"] for row in steady} == {START}


def test_a_reset_is_a_reset() -> None:
    talk = Connection(A, B, 40000, 80)
    (row,) = run([*talk.begin(), talk.segment(out=False, flags="RA")])
    assert row["state"] == "reset"


def test_vlans_are_apart() -> None:
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    rows = run([ETHER / inner, ETHER / Dot1Q(vlan=5) / inner, ETHER / Dot1Q(vlan=6) / inner])
    assert [row["src_packets"] for row in rows] == [1, 1, 1]


def test_a_scan_takes_bounded_room_and_loses_no_packet(monkeypatch: Any) -> None:
    monkeypatch.setattr(flows, "MAX_FLOWS", 500)
    packets = [A / TCP(sport=40000 + i % 7, dport=1 + i, flags="S") for i in range(6000)]
    table, sections = FlowTable(), []
    for at in range(0, len(packets), 200):
        sections += [
            table.add(decoded(packets[at : at + 200], times=[START + i for i in range(at, at + 200)]))[1],
            table.due(),
        ]
        assert len(table) <= 700
    assert len(table.rows) <= 2048
    rows = told([*sections, table.end()])
    assert len(rows) == 6000
    assert sum(row["src_packets"] for row in rows) == 6000
    assert table.evicted == sum(row["state"] == "evicted" for row in rows) > 5000
    assert {row["src_ip"] for row in rows} == {"10.0.0.1"}


def test_random_traffic_against_the_model() -> None:
    chance = random.Random(11)
    packets: list[Packet] = []
    model: defaultdict[frozenset[tuple[str, int]], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    opener: dict[frozenset[tuple[str, int]], tuple[str, int]] = {}
    for _ in range(3000):
        src, dst = (f"10.0.{chance.randint(0, 1)}.{chance.randint(1, 3)}" for _ in range(2))
        if src == dst:
            continue
        sport, dport = (chance.choice([2000, 2001, 50000, 50001]) for _ in range(2))
        size = chance.randint(0, 90)
        packets.append(ETHER / IP(src=src, dst=dst) / UDP(sport=sport, dport=dport) / Raw(bytes(size)))
        pair = frozenset({(src, sport), (dst, dport)})
        first = opener.setdefault(pair, (src, sport))
        counted = model[pair]
        way = 0 if first == (src, sport) else 2
        counted[way] += 1
        counted[way + 1] += size + 28
    for size in (1, 17, 3000):
        seen = {
            frozenset({(row["src_ip"], row["src_port"]), (row["dst_ip"], row["dst_port"])}): [
                row[name] for name in COUNTED
            ]
            for row in run(packets, size)
        }
        assert seen == model


def test_an_empty_block() -> None:
    table = FlowTable()
    placed, section = table.add(decoded([]))
    assert len(placed.slot) == len(section.rows) == 0
    assert len(concatenate([section, table.end()]).rows) == 0
    assert isinstance(placed.out, np.ndarray)
