"""Packets that nobody could read or knows: which are chosen, how many, for whom, and what scapy makes of them."""

from __future__ import annotations

import asyncio

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from daemoneye.events.codec import Section
from daemoneye.events.policy_set import sets_of
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence import dissecting
from daemoneye_sensor.packets.askers import Askers
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.packets.oddities import MAX_WAITING, Oddities, Oddity
from tests.support.broker import until
from tests.support.captures import decoded

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
THERE, BACK = IP(src="10.0.0.1", dst="10.0.0.2"), IP(src="10.0.0.2", dst="10.0.0.1")
SIX = IPv6(src="fd00::1", dst="fd00::2")
BANNER = b"SSH-2.0-OpenSSH_9.2p1\r\n"
HELLO = b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03" + bytes(53)


def tcp(port: int, payload: bytes, *, sport: int = 4000, ip: Packet = THERE) -> Packet:
    return ETHER / ip / TCP(sport=sport, dport=port, flags="PA", seq=1) / Raw(payload)


def dns(payload: bytes) -> Packet:
    return ETHER / THERE / UDP(sport=4000, dport=53) / Raw(payload)


@pytest.fixture
def oddities() -> Oddities:
    made = Oddities()
    made.wanted = True
    return made


def chosen(oddities: Oddities, *packets: Packet) -> list[Oddity]:
    """Those of a capture."""
    inspector = Inspector("eth0")
    inspector.oddities = oddities
    inspector.inspect(decoded(packets))
    found = []
    while (one := oddities.take()) is not None:
        found.append(one)
    return found


async def row(oddities: Oddities) -> Section:
    """The first that scapy answered."""
    found: list[Section] = []

    def told() -> bool:
        found.extend(oddities.rows())
        return bool(found)

    await until("its row", told)
    return found[0]


def test_first_words_that_nobody_knows_at_a_well_known_port(oddities: Oddities):
    (one,) = chosen(oddities, tcp(443, BANNER), tcp(443, b"more of the same"))
    assert (one.reason, one.payload, one.ends.dst_port, one.out) == ("unknown_protocol", BANNER, 443, True)


@pytest.mark.parametrize(
    "packet",
    [
        tcp(22, BANNER), tcp(443, HELLO), tcp(80, b"GET / HTTP/1.1\r\n"), tcp(443, b"\x17\x03\x03\x00\x05abcde"), tcp(5432, b"\0\0\0\x08whatever"),
        tcp(80, b"PRI * HTTP/2.0\r\n\r\n"), tcp(80, b"\x16"), ETHER / BACK / TCP(sport=443, dport=4000, flags="PA") / Raw(b"a server's"),
    ],
)  # fmt: skip
def test_what_is_spoken_there_is_not_odd(packet: Packet, oddities: Oddities):
    assert chosen(oddities, packet) == []


def test_a_connection_that_goes_on_for_long_is_none_that_begins(oddities: Oddities):
    begun = [tcp(443, b"\x17\x03\x03\x00\x05abcde") for _ in range(9)]
    assert chosen(oddities, *begun, tcp(443, b"the middle of a record")) == []


@pytest.mark.parametrize(
    ("reason", "packet"),
    [
        ("malformed_dns", dns(b"\x12\x34\x01\0\0\5\0\0\0\0\0\0\xc0\x0c")),
        ("malformed_tls", tcp(443, b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c" + bytes(12))),
        ("malformed_quic", ETHER / THERE / UDP(sport=4000, dport=443) / Raw(b"\xc3\0\0\0\1\x15" + bytes(1195))),
    ],
)
def test_what_a_parser_refuses(reason: str, packet: Packet, oddities: Oddities):
    (one,) = chosen(oddities, packet)
    assert (one.reason, one.payload) == (reason, bytes(packet[Raw].load))


def test_nothing_is_chosen_where_nobody_allows_it():
    assert chosen(Oddities(), tcp(443, BANNER), dns(b"\x12\x34\x01\0\0\5\0\0\0\0\0\0\xc0\x0c")) == []


def test_so_many_a_second_and_no_more():
    now = [0.0]
    oddities = Oddities(rate=3, clock=lambda: now[0])
    oddities.wanted = True
    packets = [tcp(443, BANNER, sport=5000 + i) for i in range(5)]
    assert len(chosen(oddities, *packets)) == 3
    assert (oddities.chosen, oddities.skipped) == (3, 2)
    now[0] = 1.0
    assert len(chosen(oddities, *packets)) == 3
    wide = Oddities(rate=1000)
    wide.wanted = True
    assert len(chosen(wide, *(tcp(443, BANNER, sport=5000 + i) for i in range(60)))) == MAX_WAITING


def test_only_policies_that_allow_evidence_are_told(oddities: Oddities):
    def policy(name: str, *, evidence: bool, dns: bool = True) -> NodePolicy:
        network = {"enable_packet_capture": True, "evidence": {"enabled": evidence}, "enable_dns_events": dns}
        return NodePolicy(name, name, 1, network=network)

    policies = (policy("with", evidence=True), policy("without", evidence=False), policy("no-dns", evidence=True, dns=False))  # fmt: skip
    capture = Capture.from_config(NodeConfig(policies, network={"enable_packet_capture": True}))
    assert capture is not None
    assert capture.evidence
    askers = Askers(capture)
    number = askers.by_filters(1)
    for one in chosen(oddities, tcp(443, BANNER), dns(b"\x12\x34\x01\0\0\5\0\0\0\0\0\0\xc0\x0c")):
        oddities.tell(one._replace(policy_set=number if one.ends.dst_port == 443 else 0), ())
    sections = oddities.rows()
    askers.mark(sections)
    *_, sets = askers.named(sections)
    told = sets_of(sets)
    (section,) = sections
    by_port = dict(zip(section.rows["dst_port"].tolist(), section.rows["policy_set"].tolist(), strict=True))
    assert told[by_port[443]] == b"with\0no-dns\0"
    assert told[by_port[53]] == b"with\0"


@pytest.mark.parametrize(
    ("packet", "layers", "summary"),
    [
        (tcp(443, BANNER), b"Encrypted Content\0", b"begins with SSH-2.0-OpenSSH_9.2p1\r\n"),
        (tcp(80, b"\x13BitTorrent protocol", ip=SIX), b"HTTP 1\0Raw\0", b"begins with \x13BitTorrent protocol"),
        (dns(b"\x12\x34\x01\0\0\5\0\0\0\0\0\0\xc0\x0c"), b"DNS\0", b"DNS: id=4660, qr=0, opcode=QUERY"),
    ],
)
async def test_scapy_takes_them_apart(packet: Packet, layers: bytes, summary: bytes, oddities: Oddities):
    inspector, dissector = Inspector("eth0"), Dissector()
    inspector.oddities = oddities
    working = asyncio.create_task(dissecting.run(dissector, oddities))
    try:
        inspector.inspect(decoded([packet]))
        section = await row(oddities)
    finally:
        working.cancel()
        await dissector.close()
    assert section.values("layers") == [layers]
    assert section.values("summary")[0].startswith(summary)
    assert section.values("interface") == [b"eth0"]


async def test_one_that_scapy_cannot_take_apart_is_told_all_the_same(oddities: Oddities):
    dissector = Dissector(("/bin/false",))
    working = asyncio.create_task(dissecting.run(dissector, oddities))
    oddities.offer("unknown_protocol", chosen(oddities, tcp(443, BANNER))[0].ends, 5, BANNER, out=True)
    section = await row(oddities)
    working.cancel()
    assert section.values("summary") == [b"begins with SSH-2.0-OpenSSH_9.2p1\r\n"]
    assert section.values("expected") == [b"tls"]
