"""What somebody sends to hide or to harm: cut at every byte, with lengths that lie, in segments that contradict each other, far too large."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from daemoneye_sensor.l7 import dns, http, quic, tls
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.packets.layers import Decoder
from daemoneye_sensor.packets.stream import MAX_BYTES
from tests.support.captures import Connection, decode, decoded
from tests.support.handshakes import crypto, flight, initial, message, records, server_name

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FOUR, SIX = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
BACK = ETHER / IP(src="10.0.0.2", dst="10.0.0.1")
SEGMENT = TCP(sport=40000, dport=443, flags="PA", seq=1) / Raw(flight("shop.example"))
HELLO = message(extensions=(server_name(b"quic.example"),))
FRAMES = {
    "TLS": ETHER / FOUR / SEGMENT,
    "TLS over IPv6 with extension headers": ETHER / SIX / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / SEGMENT,
    "VLAN, PPPoE": ETHER / Dot1Q(vlan=5) / PPPoE() / PPP() / FOUR / SEGMENT,
    "MPLS": ETHER / MPLS(label=3, s=0) / MPLS(label=4, s=1) / FOUR / SEGMENT,
    "VXLAN": ETHER / FOUR / UDP(sport=9, dport=4789) / VXLAN(vni=3) / ETHER / FOUR / SEGMENT,
    "Geneve": ETHER / SIX / UDP(sport=9, dport=6081) / GENEVE(vni=3) / ETHER / SIX / SEGMENT,
    "GRE": ETHER / FOUR / GRE(key_present=1) / FOUR / SEGMENT,
    "a fragment": ETHER / SIX / IPv6ExtHdrFragment(id=7, m=1) / UDP(sport=4, dport=53) / DNS(qd=DNSQR(qname="a.example")),
    "DNS": BACK / UDP(sport=53, dport=4) / DNS(qr=1, qd=DNSQR(qname="a.example"), an=[DNSRR(rrname="a.example", ttl=1, rdata="192.0.2.1")] * 3),
    "HTTP": ETHER / FOUR / TCP(sport=4, dport=80, flags="PA") / Raw(b"GET /a?token=b HTTP/1.1\r\nHost: c\r\nUser-Agent: d\r\n\r\n"),
    "QUIC": ETHER / FOUR / UDP(sport=4, dport=443) / Raw(initial(crypto(0, HELLO))),
}  # fmt: skip


def inspected(packets: list[Packet]) -> Inspector:
    inspector = Inspector()
    inspector.inspect(decoded(packets))
    return inspector


def rows_of(packets: list[Packet], name: str) -> int:
    inspector = Inspector()
    sections = [*inspector.inspect(decoded(packets)), *inspector.end()]
    return sum(len(section.rows) for section in sections if section.record.name == name)


@pytest.mark.parametrize("how", ["sent", "captured"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_at_every_byte_is_counted_and_ends_nothing(name: str, how: str) -> None:
    """A frame that has no more bytes, and one of which no more were captured."""
    raw, good = bytes(FRAMES[name]), bytes(FRAMES["TLS"])
    lengths = [len(good), *range(1, len(raw)), len(good)]
    frames = [good, *[raw] * (len(raw) - 1), good]
    if how == "sent":
        frames = [frame[:length] for frame, length in zip(frames, lengths, strict=True)]
    decoder, inspector = Decoder(), Inspector()
    packets = decode(frames, decoder=decoder, captured=lengths)
    assert decoder.seen.frames == len(packets) + sum(decoder.seen.passed.values()) == len(frames)
    sections = [*inspector.inspect(packets), *inspector.end()]
    told = sum(len(section.rows) for section in sections if section.record.name == "tls_client_hello")
    assert told >= 1, "the good ones before and after are read"


def changed(raw: bytes, at: int, form: str, value: int) -> bytes:
    return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


@pytest.mark.parametrize(
    ("name", "at", "form"),
    [
        ("TLS", 14, "!B"), ("TLS", 16, "!H"), ("TLS", 20, "!H"), ("TLS", 23, "!B"), ("TLS", 46, "!B"), ("TLS", 57, "!H"), ("TLS", 60, "!H"),
        ("TLS over IPv6 with extension headers", 18, "!H"), ("TLS over IPv6 with extension headers", 20, "!B"),
        ("TLS over IPv6 with extension headers", 55, "!B"), ("TLS over IPv6 with extension headers", 63, "!B"),
        ("VLAN, PPPoE", 22, "!H"), ("VXLAN", 38, "!H"), ("VXLAN", 66, "!H"), ("Geneve", 62, "!B"), ("GRE", 34, "!H"), ("GRE", 36, "!H"),
        ("DNS", 38, "!H"), *(("DNS", at, "!H") for at in range(46, 54, 2)), ("DNS", 54, "!B"), ("DNS", 79, "!H"),
        ("QUIC", 47, "!B"), ("QUIC", 56, "!B"), ("QUIC", 58, "!H"),
    ],
)  # fmt: skip
def test_a_length_or_kind_that_lies_ends_nothing(name: str, at: int, form: str) -> None:
    """Every value of one byte, of two the remarkable ones: in headers of IP, tunnels, TCP, UDP, in records and messages."""
    raw, good = bytes(FRAMES[name]), bytes(FRAMES["TLS"])
    values = (
        range(256)
        if form == "!B"
        else sorted({*range(64), *(1 << n for n in range(16)), *((1 << n) - 1 for n in range(17)), len(raw)})
    )
    frames = [changed(raw, at, form, value) for value in values]
    decoder, inspector = Decoder(), Inspector()
    packets = decode([*frames, good], decoder=decoder)
    assert decoder.seen.frames == len(packets) + sum(decoder.seen.passed.values())
    ends = packets.payload + packets.length
    assert int(ends.max()) <= sum(map(len, frames)) + len(good)
    inspector.inspect(packets)
    inspector.end()


def test_overlapping_segments_that_contradict_each_other_are_read_as_the_first_one_said() -> None:
    """As receivers do that keep what they have (RFC 9293 3.10.7.4 leaves it open); a second story is not told."""
    said, other = flight("first.example"), flight("other.example")
    assert len(said) == len(other)
    assert said.index(b"first.example") < 180
    talk = Connection(ETHER / FOUR, BACK, 40000, 443)
    opening = talk.begin()
    first = talk.send(said, size=200)
    overlapping = [  # each covers the end of one segment and the beginning of the next
        ETHER / FOUR / TCP(sport=40000, dport=443, flags="PA", seq=1001 + at) / Raw(other[at : at + 200])
        for at in range(50, len(other) - 200, 100)
    ]
    inspector = Inspector()
    sections = [*inspector.inspect(decoded([*opening, first[0], *overlapping, *first[1:]])), *inspector.end()]
    hellos = [section for section in sections if section.record.name == "tls_client_hello"]
    assert len(hellos) == 1
    assert b"first.example" in hellos[0].heap.tobytes()
    assert b"other.example" not in hellos[0].heap.tobytes()


def test_a_hello_of_64_kib_is_bounded_and_counted() -> None:
    for size in (1, 700, 16_384):
        raw = records(message(extensions=(server_name(b"shop.example"), (21, bytes(65_000)))), size)
        talk = Connection(ETHER / FOUR, BACK, 40000, 443)
        inspector = inspected([*talk.begin(), *talk.send(raw, size=16_000)])
        held = [open_.reader for open_ in inspector._open.values()]
        assert (
            sum(len(stream.data) for reader in held for stream in vars(reader).values() if hasattr(stream, "data"))
            <= MAX_BYTES
        )
        inspector.end()
        assert (
            inspector.incomplete + inspector.malformed["tls"] == 1
        )  # in records of one byte it is none that anybody sends


def test_the_longest_hello_that_is_put_together_is_read() -> None:
    talk = Connection(ETHER / FOUR, BACK, 40000, 443)
    raw = records(message(extensions=(server_name(b"shop.example"), (21, bytes(MAX_BYTES - 200)))))
    assert len(raw) <= MAX_BYTES
    assert rows_of([*talk.begin(), *talk.send(raw)], "tls_client_hello") == 1


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "dns": (dns.parse, bytes(FRAMES["DNS"][DNS])),
    "client hello": (tls.client_hello, flight("shop.example")),
    "request": (http.request, bytes(FRAMES["HTTP"][Raw])),
    "response": (http.response, b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 5\r\n\r\n"),
    "initial": (lambda data: quic.Initials().add(data), bytes(FRAMES["QUIC"][Raw])),
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_message_with_any_two_bytes_changed_is_malformed_at_worst(name: str) -> None:
    parse, good = PARSERS[name]
    chance = random.Random(name)
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(2):
            bad[chance.randrange(len(bad))] = chance.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, chance.randrange(256)))
        with contextlib.suppress(Malformed):
            parse(bytes(bad))
