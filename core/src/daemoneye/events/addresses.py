"""IP addresses as the column type `ip` holds them: 16 bytes, IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2), so that one width fits all."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

MAPPED: Final = bytes(10) + b"\xff\xff"
"""The first 12 bytes of an IPv4 address."""

PROTOCOLS: Final[dict[int, str]] = {
    1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 89: "ospf", 132: "sctp",
}  # fmt: skip
"""Names of IP protocols (IANA protocol-numbers), as people write them; others are called by their number."""

_NUMBERS: Final = {name: number for number, name in PROTOCOLS.items()}


@lru_cache(maxsize=65_536)
def text(address: bytes) -> str:
    """The usual text of 16 bytes."""
    if address.startswith(MAPPED):
        return "{}.{}.{}.{}".format(*address[12:])
    return str(ipaddress.IPv6Address(address))


def packed(address: str) -> bytes:
    """The 16 bytes of an address's text.

    Raises:
        ValueError: It is no address.
    """
    made = ipaddress.ip_address(address)
    return MAPPED + made.packed if made.version == 4 else made.packed


def protocol_name(number: int) -> str:
    """The name of an IP protocol, or its number in decimal."""
    return PROTOCOLS.get(number, str(number))


def protocol_number(name: str | int) -> int:
    """The number of a protocol's name, or of the number itself.

    Raises:
        ValueError: There is no such protocol.
    """
    text = str(name)
    number = _NUMBERS.get(text, int(text) if text.isdecimal() else -1)
    if not 0 <= number <= 255:
        msg = f"{name!r} is no IP protocol; known: {', '.join(_NUMBERS)}, or a number up to 255"
        raise ValueError(msg)
    return number
