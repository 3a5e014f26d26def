"""Conversations that the kernel counted, and packets that several interfaces show."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from daemoneye.events.codec import Section
from daemoneye.events.flags import Flag
from daemoneye.events.netform import endpoints_json
from daemoneye_sensor.packets.compiling import Filters
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.packets.layers import Decoder
from daemoneye_sensor.packets.live import packets_from, packets_of
from tests.support.captures import SECOND, START, Connection
from tests.support.counted import counted, frames
from tests.support.handshakes import Peers, client_context, records, sized

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
A, B = ETHER / IP(src="10.0.0.1", dst="10.0.0.2"), ETHER / IP(src="10.0.0.2", dst="10.0.0.1")
GET = b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"
COUNTED = (
    "src_packets",
    "src_bytes",
    "dst_packets",
    "dst_bytes",
    "src_tcp_flags",
    "dst_tcp_flags",
    "begin_time",
    "time",
)

TEXTS = ("state", "service", "interface", "query")


class Node:
    """Interfaces whose packets the kernel counts, and shows some of."""

    def __init__(self, *names: str) -> None:
        self.inspector = Inspector()
        self.inspector.flows.names.clear()
        self.numbers = {index: self.inspector.flows.join(name) for index, name in enumerate(names, 1)}
        self.decoder = Decoder()
        self.rows: list[Section] = []

    def show(self, packets: Sequence[Packet], times: Sequence[int] | None = None, *, on: Sequence[int] = (1,)) -> None:
        """Packets are exported on these interfaces."""
        shown = [frames(packets, times, index) for index in on]
        for block in packets_of(self.decoder, shown, self.numbers, Filters()):
            self.rows += self.inspector.read(block)

    def count(self, *flows: np.ndarray, now: int = 0) -> None:
        """The kernel's counts are taken."""
        self.rows += self.inspector.count(packets_from(np.concatenate(flows), self.numbers))
        self.rows += self.inspector.turn(now)

    def events(self, name: str = "packet_flow") -> list[dict[str, Any]]:
        """Rows so far as dicts."""
        made = []
        for section in self.rows:
            if section.record.name != name:
                continue
            ends = endpoints_json(section.rows)
            shown = [field.name for field in section.record.heap_fields if field.name in TEXTS]
            texts = {name: section.values(name) for name in shown}
            for i, row in enumerate(section.rows):
                numbers = {n: int(row[n]) for n in COUNTED if n in (section.rows.dtype.names or ())}
                made.append(
                    {
                        **ends[i],
                        **numbers,
                        **{name: values[i].decode() for name, values in texts.items()},
                        "flags": Flag(int(row["flags"])),
                    }
                )
        return made

    def end(self) -> list[dict[str, Any]]:
        """All conversations."""
        self.rows += self.inspector.end()
        return self.events()


def talk(*, sport: int = 40000) -> list[Packet]:
    made = Connection(A, B, sport, 80)
    return [*made.begin(), *made.send(GET), *made.send(b"HTTP/1.1 200 OK\r\n\r\n", out=False), *made.end()]


def test_counts_of_the_kernel_are_a_conversation_as_if_each_packet_had_been_seen() -> None:
    node = Node("eth0")
    packets = talk()
    node.count(counted(packets))
    (row,) = node.end()
    assert row == {
        **row, "src_ip": "10.0.0.1", "src_port": 40000, "dst_ip": "10.0.0.2", "dst_port": 80, "src_packets": 5, "dst_packets": 3,
        "src_bytes": sum(len(p) - 14 for p in packets if p[IP].src == "10.0.0.1"), "dst_bytes": sum(len(p) - 14 for p in packets if p[IP].src == "10.0.0.2"),
        "src_tcp_flags": 0x1B, "dst_tcp_flags": 0x1B, "begin_time": START, "time": START + 7_000_000, "state": "closed", "flags": Flag(0), "interface": "eth0",
    }  # fmt: skip


def test_who_opened_is_said_by_whose_first_packet_came_first_although_all_flags_are_or_ed() -> None:
    node = Node("eth0")
    made = Connection(A, B, 80, 40000)  # the client has the lower port
    node.count(counted([*made.begin(), *made.send(GET)]))
    (row,) = node.end()
    assert (row["src_port"], row["dst_port"], row["flags"]) == (80, 40000, Flag(0))


@pytest.mark.parametrize("sport", [40000, 80])
def test_a_conversation_that_began_with_a_captured_packet_is_settled_by_the_counts(sport: int) -> None:
    node = Node("eth0")
    made = Connection(A, B, sport, 8080)
    packets = [*made.begin(), *made.send(GET), *made.send(b"HTTP/1.1 200 OK\r\n\r\n", out=False)]
    node.show(packets[3:], [START + 3_000_000, START + 4_000_000])
    node.count(counted(packets))
    (row,) = node.end()
    assert (row["src_ip"], row["src_port"], row["dst_port"], row["flags"], row["service"]) == (
        "10.0.0.1",
        sport,
        8080,
        Flag(0),
        "http",
    )
    assert (row["src_packets"], row["dst_packets"], row["begin_time"]) == (3, 2, START), (
        "shown packets count for nothing"
    )
    (request,) = node.events("http_request")
    assert (request["src_port"], request["interface"]) == (sport, "eth0")


def test_a_hello_that_nobody_saw_is_still_said_when_the_counts_come() -> None:
    node = Node("eth0")
    made = Connection(A, B, 40000, 443)
    greeting = records(b"\x02" + sized(b"\x03\x03" + bytes(33) + b"\xc0\x2f\0", 3))
    packets = [*made.begin(), *made.send(greeting, out=False)]
    node.show(packets[3:])
    node.count(counted(packets))
    (row,) = node.end()
    assert (row["service"], row["flags"]) == ("tls", Flag.SNI_UNSEEN)


def test_a_connection_that_was_there_before_is_said_to_be_so() -> None:
    node = Node("eth0")
    made = Connection(A, B, 40000, 80)
    made.begin()
    later = [*made.send(b"x" * 100), *made.send(b"y" * 100, out=False)]
    node.show(later)
    node.count(counted(later))
    (row,) = node.end()
    assert (row["src_port"], row["flags"]) == (40000, Flag.MID_STREAM)


def test_parts_of_a_conversation_are_one_row_and_what_goes_on_is_told_every_minute() -> None:
    node = Node("eth0")
    made = Connection(A, B, 40000, 80)
    moments = [START + i * SECOND // 10 for i in range(3)]
    node.count(counted(made.begin(), moments), now=START)
    for second in range(5, 150, 5):
        now = START + second * SECOND
        node.count(counted(made.send(b"x" * 100), [now - 1]), now=now)
    rows = node.end()
    assert [row["state"] for row in rows] == ["active", "active", "end"]
    assert sum(row["src_packets"] for row in rows) == 2 + 29
    assert {row["flags"] for row in rows} == {Flag(0)}


def test_ports_that_are_used_anew_between_two_looks_are_two_connections() -> None:
    node = Node("eth0")
    node.count(counted(talk(), [START + i for i in range(8)]), now=START + SECOND)
    node.count(counted(talk(), [START + 4 * SECOND + i for i in range(8)]), now=START + 5 * SECOND)
    rows = node.end()
    assert [(row["state"], row["src_packets"], row["dst_packets"]) for row in rows] == [("closed", 5, 3)] * 2


def test_a_clock_ends_what_is_silent() -> None:
    node = Node("eth0")
    node.count(counted([A / UDP(sport=5000, dport=6000)]), now=START + SECOND)
    node.count(counted([]), now=START + 200 * SECOND)
    assert [row["state"] for row in node.events()] == ["idle"]


def test_icmp_and_ipv6_and_vlans_are_counted_as_captured_ones_are() -> None:
    six = ETHER / IPv6(src="fd00::1", dst="fd00::2")
    packets = [
        A / ICMP(type=8), B / ICMP(type=0), A / ICMP(type=3, code=1), six / UDP(sport=1, dport=2),
        ETHER / Dot1Q(vlan=7) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2),
    ]  # fmt: skip
    node = Node("eth0")
    node.count(counted(packets))
    rows = {
        (row["proto"], row["src_ip"], row["src_port"], row["dst_port"], row["src_packets"], row["dst_packets"])
        for row in node.end()
    }
    assert rows == {
        ("icmp", "10.0.0.1", 8, 0, 1, 1), ("icmp", "10.0.0.1", 3, 1, 1, 0), ("udp", "fd00::1", 1, 2, 1, 0), ("udp", "10.0.0.1", 1, 2, 1, 0),
    }  # fmt: skip


# ── several interfaces ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_veth_bridge_and_uplink_show_counts_once_and_belongs_to_the_first() -> None:
    node = Node("veth1", "br0", "eth0")
    packets = talk()
    flows = [counted(packets, [START + 1_000_000 * i + 10_000 * index for i in range(8)], index) for index in (3, 2, 1)]
    node.count(*flows)
    (row,) = node.end()
    assert (row["src_packets"], row["dst_packets"], row["interface"]) == (5, 3, "veth1")
    assert node.inspector.flows.again == 16


def test_an_answer_that_three_interfaces_show_is_told_once() -> None:
    ask = A / UDP(sport=40000, dport=53) / DNS(id=7, rd=1, qd=DNSQR(qname="www.example.org"))
    reply = (
        B
        / UDP(sport=53, dport=40000)
        / DNS(id=7, qr=1, qd=DNSQR(qname="www.example.org"), an=DNSRR(rrname="www.example.org", rdata="192.0.2.1"))
    )
    node = Node("veth1", "br0", "eth0")
    node.show([ask, reply], on=(1, 2, 3))
    node.show([ask, reply], [START + SECOND, START + SECOND + 5], on=(3, 2, 1))
    assert [(row["query"], row["interface"]) for row in node.events("dns_query")] == [("www.example.org", "veth1")] * 2


def test_a_hello_is_told_once_whichever_interface_shows_which_part() -> None:
    node = Node("veth1", "eth0")
    made = Connection(A, B, 40000, 80)
    made.begin()
    parts = made.send(GET, size=9)
    node.show(parts[:2], on=(2, 1))
    node.show(parts[2:], on=(1, 2))
    node.inspector.end()
    node.count(counted([*made.begin(), *parts]), counted([*made.begin(), *parts], ifindex=2))
    node.end()
    assert len(node.events("packet_flow")) == 1


def test_each_direction_belongs_to_the_interface_that_shows_it() -> None:
    """A pod's answers may be handed past the veth (redirect), so that the uplink alone shows them."""
    node = Node("veth1", "eth0")
    packets = talk()
    out = [packet for packet in packets if packet[IP].src == "10.0.0.1"]
    node.count(counted(out, [START + i for i in range(5)]), counted(packets, [START + 50 + i for i in range(8)], 2))
    (row,) = node.end()
    assert (row["src_packets"], row["dst_packets"], row["interface"]) == (5, 3, "veth1")


def test_a_conversation_that_takes_another_way_goes_on_there() -> None:
    node = Node("eth0", "eth1")
    packet = A / UDP(sport=5000, dport=6000)

    def at(*seconds: float) -> list[int]:
        return [START + int(second * SECOND) for second in seconds]

    node.count(
        counted([packet] * 3, at(0, 1, 2)), counted([packet] * 3, at(0.001, 1.001, 2.001), 2), now=START + 5 * SECOND
    )
    node.count(counted([packet] * 2, at(5.001, 6), 2), counted([packet], at(5.0)), now=START + 10 * SECOND)
    node.count(counted([packet] * 4, at(10, 11, 12, 13), 2), now=START + 15 * SECOND)
    (row,) = node.end()
    assert (row["src_packets"], row["interface"]) == (8, "eth1"), (
        "what was shown twice counts once, also where it changes"
    )


def test_conversations_of_an_interface_that_went_are_told_and_those_of_others_go_on() -> None:
    node = Node("veth1", "eth0")
    both, own = A / UDP(sport=5000, dport=6000), A / UDP(sport=5001, dport=6000)
    node.count(counted([both, own]), counted([both], [START + 5], 2))
    node.rows.append(node.inspector.flows.leave(node.numbers.pop(1)))
    assert [(row["src_port"], row["state"], row["interface"]) for row in node.events()] == [
        (5000, "end", "veth1"),
        (5001, "end", "veth1"),
    ]
    node.numbers[3] = node.inspector.flows.join("veth2")
    assert node.numbers[3] == 0, "numbers are used again"
    node.count(counted([both], [START + SECOND], 2), counted([own], [START + SECOND], 3))
    rows = node.end()[2:]
    assert {(row["src_port"], row["interface"], row["src_packets"]) for row in rows} == {
        (5000, "eth0", 1),
        (5001, "veth2", 1),
    }


def test_random_traffic_over_three_interfaces_counts_each_packet_once() -> None:
    chance = random.Random(5)
    node = Node("veth1", "br0", "eth0")
    sent: dict[tuple[str, int, int], int] = {}
    for look in range(12):
        packets, times = [], []
        for i in range(200):
            src, dst = chance.sample(["10.0.0.1", "10.0.0.2", "10.0.0.3"], 2)
            sport, dport = chance.choice([(1000, 2000), (2000, 1000), (1001, 2001)])
            packets.append(ETHER / IP(src=src, dst=dst) / UDP(sport=sport, dport=dport) / Raw(bytes(10)))
            times.append(START + look * 5 * SECOND + i * 20_000_000)
            sent[src, sport, dport] = sent.get((src, sport, dport), 0) + 1
        node.show(packets[::7], times[::7], on=chance.sample([1, 2, 3], 3))
        flows = [counted(packets, [time + 1000 * index for time in times], index) for index in (1, 2, 3)]
        chance.shuffle(flows)
        node.count(*flows, now=times[-1])
    rows = node.end()
    assert sum(row["src_packets"] + row["dst_packets"] for row in rows) == sum(sent.values())
    assert {row["interface"] for row in rows} <= {"veth1", "br0", "eth0"}


def test_a_syn_alone_is_an_attempt() -> None:
    node = Node("eth0")
    node.count(counted([A / TCP(sport=40000, dport=80, flags="S"), B / TCP(sport=80, dport=40000, flags="RA")]))
    (row,) = node.end()
    assert (row["src_port"], row["state"], row["flags"]) == (40000, "reset", Flag(0))


def test_what_an_unknown_interface_counted_is_left_out() -> None:
    node = Node("eth0")
    node.count(counted([A / UDP(sport=1, dport=2)], ifindex=99))
    assert node.end() == []


def test_steps_down_leave_out_what_they_say_and_nothing_else() -> None:
    ask = A / UDP(sport=40000, dport=53) / DNS(id=7, rd=1, qd=DNSQR(qname="www.example.org"))
    records = [DNSRR(rrname="www.example.org", ttl=60, rdata=f"192.0.2.{i}") for i in range(2)]
    reply = B / UDP(sport=53, dport=40000) / DNS(id=7, qr=1, qd=DNSQR(qname="www.example.org"), an=records)
    hello = Connection(A, B, 40001, 443)
    packets = [ask, reply, *hello.begin(), *hello.send(Peers(client_context(), name="shop.example").client_flight())]
    told = {}
    for less in (False, True):
        node = Node("eth0")
        node.inspector.answers = node.inspector.ja3 = not less
        node.show(packets)
        node.end()
        (query,) = [section for section in node.rows if section.record.name == "dns_query"]
        (tls,) = [section for section in node.rows if section.record.name == "tls_client_hello"]
        told[less] = (
            query.values("answers"),
            query.rows["answer_count"].tolist(),
            tls.values("ja3"),
            tls.values("ja4"),
        )
        assert query.values("rcode") == [b"NOERROR"]
        assert tls.values("sni") == [b"shop.example"]
    assert told[False][0] == [b"192.0.2.0\x00192.0.2.1\0"]
    assert told[True][0] == [b""]
    assert told[True][1] == told[False][1] == [2]
    assert (told[True][2], len(told[False][2][0])) == ([b""], 32)
    assert told[True][3] == told[False][3]
