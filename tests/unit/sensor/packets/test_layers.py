"""Frames → columns, against scapy, which builds every packet here and so knows what is in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, CookedLinux, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from daemoneye.events.addresses import packed, text
from daemoneye_sensor.packets import link as links
from daemoneye_sensor.packets.columns import Fate, Packets
from daemoneye_sensor.packets.layers import Decoder
from tests.support.captures import decode, decoded

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FOUR = IP(src="10.1.2.3", dst="192.0.2.200")
SIX = IPv6(src="2001:db8::1", dst="2001:db8:ffff::fffe")
DATA = Raw(b"what it carries")
TCP4 = FOUR / TCP(sport=40001, dport=443, seq=0xFEDCBA98, flags="PA") / DATA
UDP6 = SIX / UDP(sport=53000, dport=53) / DATA


def row(packets: Packets, i: int = 0) -> dict[str, Any]:
    address = lambda hi, lo: text(int(hi).to_bytes(8, "big") + int(lo).to_bytes(8, "big"))  # noqa: E731
    begin = int(packets.payload[i])
    return {
        "src": address(packets.src_hi[i], packets.src_lo[i]), "dst": address(packets.dst_hi[i], packets.dst_lo[i]),
        "ports": (int(packets.src_port[i]), int(packets.dst_port[i])), "proto": int(packets.proto[i]),
        "payload": packets.data[begin : begin + int(packets.length[i])].tobytes(), "wire": int(packets.wire[i]),
    }  # fmt: skip


IN4 = {"src": "10.1.2.3", "dst": "192.0.2.200", "ports": (40001, 443), "proto": 6, "payload": DATA.load, "wire": 55}
IN6 = {
    "src": "2001:db8::1",
    "dst": "2001:db8:ffff::fffe",
    "ports": (53000, 53),
    "proto": 17,
    "payload": DATA.load,
    "wire": 63,
}
OUTER = ETHER / IP(src="172.16.0.1", dst="172.16.0.2")
OUTER6 = ETHER / IPv6(src="fd00::1", dst="fd00::2")


@pytest.mark.parametrize(
    ("frame", "expected"),
    {
        "ethernet, IPv4, TCP": (ETHER / TCP4, IN4),
        "ethernet, IPv6, UDP": (ETHER / UDP6, IN6),
        "padding of a short frame": (ETHER / TCP4 / Raw(bytes(0)) , IN4),
        "a VLAN": (ETHER / Dot1Q(vlan=7) / TCP4, IN4),
        "two VLANs": (ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=8) / UDP6, IN6),
        "PPPoE": (ETHER / PPPoE() / PPP() / TCP4, IN4),
        "MPLS": (ETHER / MPLS(label=3, s=0) / MPLS(label=4, s=1) / TCP4, IN4),
        "options of IPv4": (ETHER / IP(src="10.1.2.3", dst="192.0.2.200", options=[IPOption_NOP()] * 8) / TCP4.payload, IN4 | {"wire": 63}),
        "options of TCP": (ETHER / FOUR / TCP(sport=40001, dport=443, options=[("MSS", 1400), ("NOP", None)] * 3) / DATA, IN4 | {"wire": 71}),
        "extension headers": (
            ETHER / SIX / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / IPv6ExtHdrDestOpt()
            / AH(nh=17, payloadlen=4, spi=1, icv=bytes(12)) / UDP6.payload,
            IN6 | {"wire": 63 + 8 + 24 + 8 + 24},
        ),
        "a first fragment of IPv6": (ETHER / SIX / IPv6ExtHdrFragment(offset=0, m=1, id=7) / UDP6.payload, IN6 | {"wire": 71}),
        "IP in IP": (OUTER / TCP4, IN4),
        "IPv6 in IPv4": (OUTER / UDP6, IN6),
        "IPv4 in IPv6": (OUTER6 / TCP4, IN4),
        "GRE": (OUTER / GRE() / TCP4, IN4),
        "GRE with key, sequence and checksum": (OUTER / GRE(key_present=1, seqnum_present=1, chksum_present=1) / UDP6, IN6),
        "ethernet in GRE": (OUTER / GRE(proto=0x6558) / ETHER / TCP4, IN4),
        "VXLAN": (OUTER / UDP(sport=50000, dport=4789) / VXLAN(vni=9, flags=8) / ETHER / TCP4, IN4),
        "VXLAN with a VLAN inside": (OUTER / UDP(sport=50000, dport=4789) / VXLAN(vni=9, flags=8) / ETHER / Dot1Q(vlan=3) / UDP6, IN6),
        "Geneve": (OUTER6 / UDP(sport=50000, dport=6081) / GENEVE(vni=9, proto=0x6558) / ETHER / TCP4, IN4),
        "VXLAN in GRE": (OUTER / GRE() / IP(src="1.1.1.1", dst="2.2.2.2") / UDP(dport=4789) / VXLAN(flags=8) / ETHER / UDP6, IN6),
        "SCTP": (ETHER / FOUR / SCTP(sport=40001, dport=443), IN4 | {"proto": 132, "payload": b"", "wire": 32}),
        "ICMP": (ETHER / FOUR / ICMP(type=8, code=0), IN4 | {"ports": (8, 0), "proto": 1, "payload": b"", "wire": 28}),
        "ICMPv6": (ETHER / SIX / ICMPv6EchoRequest(), IN6 | {"ports": (128, 0), "proto": 58, "payload": b"", "wire": 48}),
    }.values(),
    ids=lambda value: None,
)  # fmt: skip
def test_what_is_in_a_frame(frame: Packet, expected: dict[str, Any]) -> None:
    decoder = Decoder()
    assert row(decoded([frame], decoder=decoder)) == expected, dict(decoder.seen.passed)
    assert decoder.seen.frames == 1


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (113, CookedLinux(proto=0x0800) / TCP4), (101, TCP4), (228, TCP4), (0, Loopback(type=2) / TCP4), (276, Raw(b"\x08\x00" + bytes(18)) / TCP4),
        (9, Raw(b"\x00\x21") / TCP4), (9, Raw(b"\x21") / TCP4), (50, Raw(b"\xff\x03\x00\x21") / TCP4), (50, Raw(b"\x0f\x00\x08\x00") / TCP4),
        (9, Raw(b"\x02\x81") / MPLS(label=3, s=1) / TCP4), (51, PPPoE() / PPP() / TCP4), (104, Raw(b"\x0f\x00\x08\x00") / TCP4),
    ],
    ids=[
        "linux cooked", "raw", "IPv4", "loopback", "linux cooked 2", "PPP", "PPP, one byte", "PPP in frames", "Cisco in place of PPP", "MPLS in PPP", "PPPoE",
        "Cisco",
    ],
)  # fmt: skip
def test_link_types(link: int, frame: Packet) -> None:
    assert row(decoded([frame], link)) == IN4


@pytest.mark.parametrize("link", sorted(links.KNOWN))
def test_frames_cut_at_every_byte_of_a_link_layer(link: int) -> None:
    decoder = Decoder()
    for raw in (b"\xff\x03\x00\x21", b"\x0f\x00\x08\x00", b"\x11\0\0\1\0\x60\x00\x57", b"\x21" + bytes(20)):
        decode([raw[:n] for n in range(len(raw) + 1)], link, decoder)
    assert decoder.seen.frames == sum(decoder.seen.passed.values())


def test_an_unknown_link_type_is_counted() -> None:
    decoder = Decoder()
    assert len(decoded([ETHER / TCP4] * 3, 250, decoder)) == 0
    assert decoder.seen.passed == {Fate.LINK: 3}


def test_what_the_columns_say_beside() -> None:
    packets = decoded([ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=8) / TCP4, ETHER / UDP6])
    assert packets.vlan.tolist() == [7, 0]
    assert packets.sequence.tolist() == [0xFEDCBA98, 0]
    assert packets.tcp_flags.tolist() == [0x18, 0]
    assert np.diff(packets.time.astype(np.int64)).tolist() == [1_000_000]


def test_later_fragments_get_the_ports_of_their_first() -> None:
    whole = FOUR / UDP(sport=40001, dport=443) / Raw(bytes(4000))
    parts = [ETHER / part for part in fragment(whole, 1400)]
    decoder = Decoder()
    packets = decoded(parts, decoder=decoder)
    assert [row(packets, i)["ports"] for i in range(3)] == [(40001, 443)] * 3
    assert packets.length.tolist()[1:] == [0, 0], "nobody takes the middle of a datagram for its beginning"
    assert int(packets.wire.sum()) == 4000 + 8 + 3 * 20
    lonely = fragment(FOUR / UDP(sport=1, dport=2) / Raw(bytes(3000)), 1400)[1:]
    for part in lonely:
        part.id = 4711
    assert len(decoded([ETHER / part for part in lonely], decoder=decoder)) == 0
    assert decoder.seen.passed[Fate.FRAGMENT] == 2


def test_the_protocol_of_ppp_may_be_one_byte() -> None:
    """RFC 1661, 2: whoever compresses it leaves out the zero before it."""
    below = bytes(Ether(src=ETHER.src, dst=ETHER.dst, type=0x8864)) + b"\x11\0\0\1\0\x60"
    packets = decode(
        [
            below + b"\x21" + bytes(TCP4),
            below + b"\0\x21" + bytes(TCP4),
            below + b"\x57" + bytes(UDP6),
            below + b"\xc0\x21",
        ]
    )
    assert [row(packets, i) for i in range(len(packets))] == [IN4, IN4, IN6]


def test_what_is_not_ip_is_counted_as_such() -> None:
    decoder = Decoder()
    assert len(decoded([ETHER / ARP(), Ether(type=0x88CC) / Raw(b"lldp")], decoder=decoder)) == 0
    assert decoder.seen.passed == {Fate.NOT_IP: 2}


@pytest.mark.parametrize(
    ("damage", "fate"),
    [
        (lambda raw: raw[:14] + b"\x41" + raw[15:], Fate.MALFORMED),
        (lambda raw: raw[:14] + b"\x65" + raw[15:], Fate.MALFORMED),
        (lambda raw: raw[:16] + b"\x00\x10" + raw[18:], Fate.MALFORMED),
        (lambda raw: raw[:46] + b"\x10" + raw[47:], Fate.MALFORMED),
        (lambda raw: raw[:13], Fate.SHORT),
        (lambda raw: raw[:33], Fate.SHORT),
        (lambda raw: raw[:45], Fate.SHORT),
    ],
    ids=["header of 4 bytes", "version 6 in IPv4", "shorter than its header", "TCP header of 4 bytes", "cut in ethernet", "cut in IP", "cut in TCP"],
)  # fmt: skip
def test_bad_frames_are_counted_and_lose_nothing_else(damage: Callable[[bytes], bytes], fate: Fate) -> None:
    good = bytes(ETHER / TCP4)
    decoder = Decoder()
    packets = decode([good, damage(good), good], decoder=decoder)
    assert [row(packets, i) for i in range(len(packets))] == [IN4, IN4]
    assert decoder.seen.passed == {fate: 1}


def test_a_capture_of_few_bytes_keeps_what_the_packet_was() -> None:
    packets = decoded([ETHER / TCP4, ETHER / TCP4], captured=[60, 54])
    assert [row(packets, i)["payload"] for i in range(2)] == [DATA.load[:6], b""]
    assert packets.wire.tolist() == [55, 55]
    assert packets.cut.tolist() == [True, True]


def test_a_frame_that_the_card_will_cut_has_the_frames_length() -> None:
    raw = bytearray(bytes(ETHER / FOUR / TCP(sport=40001, dport=443) / Raw(bytes(30_000))))
    raw[16:18] = b"\0\0"
    packets = decode([bytes(raw)])
    assert (int(packets.wire[0]), int(packets.length[0])) == (30_040, 30_000)


_ADDRESSES = st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(
    st.ip_addresses(v=6), st.ip_addresses(v=6)
)


@given(
    st.lists(
        st.tuples(_ADDRESSES, st.integers(1, 65535), st.integers(1, 65535), st.booleans(), st.binary(max_size=40)),
        max_size=12,
    )
)
def test_any_packets_in_one_block(drawn: list[Any]) -> None:
    frames, expected = [], []
    for (src, dst), sport, dport, tcp, payload in drawn:
        if dport in (4789, 8472, 6081):
            continue
        layer = IP if src.version == 4 else IPv6
        above = TCP(sport=sport, dport=dport) if tcp else UDP(sport=sport, dport=dport)
        packet = layer(src=str(src), dst=str(dst)) / above / Raw(payload)
        frames.append(ETHER / packet)
        ends = {"src": text(packed(str(src))), "dst": text(packed(str(dst))), "ports": (sport, dport)}
        expected.append({**ends, "proto": 6 if tcp else 17, "payload": payload, "wire": len(packet)})
    packets = decoded(frames)
    assert [row(packets, i) for i in range(len(packets))] == expected


@given(st.binary(max_size=200), st.sampled_from([0, 1, 101, 108, 113, 276]))
def test_any_bytes(raw: bytes, link: int) -> None:
    decoder = Decoder()
    packets = decode([raw], link, decoder)
    assert len(packets) + sum(decoder.seen.passed.values()) == 1


def test_mutated_frames_stay_inside_their_bytes() -> None:
    chance = random.Random(7)
    frames = [
        bytes(ETHER / IP(src="1.1.1.1", dst="2.2.2.2") / GRE() / UDP6),
        bytes(OUTER / UDP(dport=4789) / VXLAN(flags=8) / ETHER / TCP4),
        bytes(ETHER / SIX / IPv6ExtHdrHopByHop() / UDP6.payload),
    ]
    for _ in range(300):
        mutated = []
        for frame in frames:
            raw = bytearray(frame)
            for _ in range(chance.randint(1, 4)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            mutated.append(bytes(raw[: chance.randint(1, len(raw))]))
        decoder = Decoder()
        packets = decode(mutated, decoder=decoder)
        assert len(packets) + sum(decoder.seen.passed.values()) == len(frames)
        assert bool((packets.payload + packets.length <= len(packets.data)).all())
