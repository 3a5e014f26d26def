"""Community id: the same short text for a flow in every tool that watches it, so that two logs join by comparing it.

Version 1 of https://github.com/corelight/community-id-spec: "1:" and the base64 of SHA-1 over seed, addresses, protocol, a zero byte and
ports, all big-endian, the smaller address and port first. Not an identity: one network's 10.0.0.1 and another's give the same id.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Final

_ICMP, _TCP, _UDP, _ICMP6, _SCTP = 1, 6, 17, 58, 132
_PORTS: Final = frozenset({_ICMP, _TCP, _UDP, _ICMP6, _SCTP})
_MAPPED: Final = bytes(10) + b"\xff\xff"

# Types of questions and those of their answers, both ways, as the specification takes them from Zeek's ICMP.cc.
_ECHO: Final = {0: 8, 8: 0, 9: 10, 10: 9, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
_ECHO6: Final = {128: 129, 129: 128, 130: 131, 131: 130, 133: 134, 134: 133, 135: 136, 136: 135, 139: 140, 140: 139, 144: 145, 145: 144}  # fmt: skip
COUNTERPARTS: Final = {_ICMP: _ECHO, _ICMP6: _ECHO6}
"""By protocol, the type of ICMP that answers another, both ways: they are one flow."""


def community_id(src_ip: bytes, dst_ip: bytes, src_port: int, dst_port: int, proto: int, seed: int = 0) -> str:
    """Community id v1 of a flow, the same for both of its directions.

    Args:
        src_ip: Sender's address, 4 or 16 bytes in network order; IPv4-mapped ones (::ffff:a.b.c.d) count as IPv4.
        dst_ip: Receiver's address, of the same family.
        src_port: Port, 0-65535; for ICMP and ICMPv6 the type. Without meaning for protocols without ports.
        dst_port: Port, 0-65535; for ICMP and ICMPv6 the code. A type that has a counterpart (echo, neighbour solicitation)
            replaces it by that; the others are one-way, and the id then tells the directions apart.
        proto: IANA protocol number of the IP header, 0-255.
        seed: 0-65535; whoever joins logs by the id uses the same one everywhere.

    Raises:
        ValueError: An address has another length, the families differ, or a number does not fit.
    """
    source, destination = _unmapped(src_ip), _unmapped(dst_ip)
    if len(source) != len(destination):
        source, destination = src_ip, dst_ip  # a packet of IPv6 may carry one mapped address, whatever that means
    if len(source) != len(destination):
        raise ValueError("community id: one address is IPv4, the other IPv6; a flow has one family")
    one_way = False
    counterparts = COUNTERPARTS.get(proto)
    if counterparts is not None:
        counterpart = counterparts.get(src_port)
        if counterpart is None:
            one_way = True
        else:
            dst_port = counterpart
    elif proto not in _PORTS:
        src_port = dst_port = 0
    if not one_way and (destination, dst_port) < (source, src_port):
        source, destination, src_port, dst_port = destination, source, dst_port, src_port
    try:
        hashed = struct.pack("!H", seed) + source + destination + struct.pack("!Bx", proto)
        if proto in _PORTS:
            hashed += struct.pack("!HH", src_port, dst_port)
    except struct.error as error:
        raise ValueError(
            f"community id: seed {seed}, protocol {proto}, ports {src_port} and {dst_port}: {error}"
        ) from error
    digest = hashlib.sha1(hashed, usedforsecurity=False).digest()
    return "1:" + base64.b64encode(digest).decode("ascii")


def _unmapped(raw: bytes) -> bytes:
    if len(raw) == 16:  # bytes of an IPv6 address
        return raw[12:] if raw[:12] == _MAPPED else raw
    if len(raw) != 4:
        raise ValueError(f"community id: an address of {len(raw)} bytes; IPv4 has 4, IPv6 has 16")
    return raw
