"""libpcap's own judgement of frames, expressions that people write, and frames for them: what holds our classic BPF against its source."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

EXPRESSIONS: Final = (
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp port 53",
    "tcp port 80 or tcp port 443",
    "tcp dst port 443 and not src net 10.0.0.0/8",
    "host 192.0.2.1",
    "src host 192.0.2.1 and dst host 192.0.2.2",
    "net 2001:db8::/32",
    "host 2001:db8::1 or host 192.0.2.9",
    "not host 10.0.0.1",
    "portrange 1000-2000",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] == tcp-syn|tcp-ack",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply",
    "icmp6",
    "vlan",
    "vlan 5",
    "vlan 5 and tcp port 80",
    "vlan and vlan 7 and ip",
    "ether host 02:00:00:00:00:01",
    "ether dst ff:ff:ff:ff:ff:ff",
    "ether multicast",
    "ip multicast or ether broadcast",
    "less 100",
    "greater 100",
    "len >= 60 and len <= 200",
    "ip[6:2] & 0x1fff != 0",
    "ip[8] < 64",
    "ip proto 47 or ip proto 50",
    "ip[2:2] % 3 == 1",
    "ip[2:2] / 7 > 20",
    "ip[12:4] ^ ip[16:4] & 0xff = 3",
    "ip[12:4] * 3 + 1 > 0x7fffffff",
    "ip[2:2] << 4 > 0x1000 or ip[2:2] >> 3 < 5",
    "ip[ip[9]] = 0",
    "ip[0:4] / (ip[8] - 64) > 2",
    "ip[0:4] % (ip[8] - 64) = 0",
    "udp[8:2] = 0x1234",
    "udp[10] & 0x80 = 0 and udp dst port 53",
    "sctp or pppoes or mpls",
    "ether proto 0x88cc",
    "tcp src port 1 or tcp src port 22 or udp src port 161 or udp src port 162 or tcp dst port 3306",
    "port 53 and not (host 192.0.2.1 and port 5353)",
    "ip6[6] = 44 or ip6[40] = 6",
    "ether[100:4] = 0x61616161",
    "ether[200:2] != 0",
)  # fmt: skip
"""Of pcap-filter(7), each for something else that a translator can get wrong."""

_A, _B = "02:00:00:00:00:01", "02:00:00:00:00:02"
_V4, _V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")


def frames() -> list[bytes]:
    """Frames of many kinds, some of which each of the expressions matches or not."""
    ether = Ether(src=_A, dst=_B)
    get = Raw(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    made = [
        Ether(src=_A, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="192.0.2.1", pdst="192.0.2.2"),
        ether / _V4 / TCP(sport=1234, dport=80, flags="S"),
        ether / _V4 / TCP(sport=80, dport=1234, flags="SA"),
        ether / _V4 / TCP(sport=40000, dport=443, flags="PA") / Raw(b"\x16\x03\x01" + b"a" * 300),
        ether / _V4 / TCP(sport=40000, dport=80, flags="PA", options=[("NOP", None)] * 4) / get,
        ether / IP(src="10.0.0.1", dst="192.0.2.9", ttl=63, options=[IPOption_NOP()] * 4) / TCP(dport=443) / get,
        ether / _V4 / UDP(sport=5353, dport=53) / DNS(id=0x1234, qd=DNSQR(qname="example.org")),
        ether / _V6 / UDP(sport=1000, dport=53) / DNS(qd=DNSQR(qname="example.org")),
        ether / _V6 / TCP(sport=22, dport=3306, flags="F"),
        ether / _V6 / IPv6ExtHdrHopByHop() / TCP(dport=80),
        ether / _V6 / IPv6ExtHdrFragment(offset=0, m=1) / UDP(dport=53) / Raw(bytes(64)),
        ether / _V4 / ICMP(type=8) / Raw(bytes(56)),
        ether / _V4 / ICMP(type=3, code=1) / _V4 / UDP(),
        ether / Dot1Q(vlan=5) / _V4 / TCP(sport=80, dport=80) / get,
        ether / Dot1Q(vlan=9) / Dot1Q(vlan=7) / _V4 / UDP(dport=53) / Raw(b"x" * 50),
        ether / Dot1Q(vlan=5) / ARP(),
        Ether(src=_A, dst="01:00:5e:00:00:fb") / IP(src="10.1.2.3", dst="224.0.0.251", ttl=255) / UDP(sport=5353, dport=5353),
        ether / IP(src="10.0.0.1", dst="10.255.255.255", proto=47) / Raw(bytes(40)),
        Ether(src=_B, dst=_A, type=0x88CC) / Raw(bytes(80)),
        Ether(src=_B, dst="02:00:00:00:00:03") / _V6 / ICMPv6EchoRequest(),
        ether / _V4 / SCTP(sport=1, dport=2) / Raw(bytes(20)),
        ether / _V4 / UDP(sport=161, dport=9, len=8) / Raw(b"\x12\x34" + b"z" * 240),
        ether / IP(src="0.0.0.1", dst="0.0.0.2", ttl=65, tos=0) / TCP(sport=1, dport=1),
        Ether(src=_B, dst="02:00:00:00:00:03") / IP(src="255.255.255.255", dst="10.9.8.7", ttl=6, len=1300) / UDP() / Raw(b"a" * 1200),
        *fragment(ether / _V4 / UDP(sport=1000, dport=2000) / Raw(b"a" * 400), fragsize=200),
    ]  # fmt: skip
    return [bytes(packet) for packet in made]


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


class _Header(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("micro", ctypes.c_long),
        ("captured", ctypes.c_uint),
        ("size", ctypes.c_uint),
    )


_LIBRARY: Final = ctypes.CDLL("libpcap.so.0.8")


def offline(instructions: Sequence[tuple[int, int, int, int]], frame: bytes, size: int | None = None) -> bool:
    """What `pcap_offline_filter` says of a frame; `size`: bytes that it had before it was cut."""
    made = (_Instruction * len(instructions))(*(_Instruction(*one) for one in instructions))
    header = _Header(0, 0, len(frame), len(frame) if size is None else size)
    program = _Program(len(instructions), made)
    return bool(_LIBRARY.pcap_offline_filter(ctypes.byref(program), ctypes.byref(header), frame))
