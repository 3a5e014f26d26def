"""Where an address is, and what of it is counted.

Responsible for classes and networks of addresses; each is looked at once.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from typing import Final

import numpy as np

from daemoneye.events.addresses import text
from daemoneye.events.sets import groups
from daemoneye_analytics.conversations import is_inside
from daemoneye_analytics.frame import combine

OWN, INSIDE, OUTSIDE, GROUP = 0.0, 1.0, 2.0, 3.0
_DISTINCT: Final = 65_536


def networks(peer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class of each address, float64, shape (n,), and what is counted of it, u64, shape (n, 2); addresses as two numbers, u64, shape (n, 2)."""
    first, inverse = groups(combine(peer[:, 0], peer[:, 1]))
    known = [network(hi, lo) for hi, lo in peer[first].tolist()]
    kind = np.array([kind for kind, _, _ in known], np.float64)
    return kind[inverse], np.array([key for _, *key in known], np.uint64).reshape(-1, 2)[inverse]


@lru_cache(maxsize=_DISTINCT)
def network(hi: int, lo: int) -> tuple[float, int, int]:
    """Class of an address, and what of it is counted: of this machine nothing, inside of one's networks all, of public ones /24 (IPv6: /48)."""
    packed = (hi << 64 | lo).to_bytes(16, "big")
    address = ip_address(text(packed))
    if address.is_loopback or address.is_unspecified:
        return OWN, 0, 0
    if address.is_multicast or (lo & 0xFFFFFFFF == 0xFFFFFFFF and isinstance(address, IPv4Address)):
        return GROUP, hi, lo
    if is_inside(packed):
        return INSIDE, hi, lo
    return (OUTSIDE, hi, lo & ~0xFF) if isinstance(address, IPv4Address) else (OUTSIDE, hi & ~0xFFFF, 0)
