"""From the first byte of a frame to that of its IP packet: link layers, VLAN tags, PPP, PPPoE, MPLS.

Link types are those of https://www.tcpdump.org/linktypes.html, under which capture files and sockets name them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from daemoneye_sensor.packets.columns import any_of, be16, be32

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
ETHERNET_IN: Final = 0x6558
"""Transparent Ethernet bridging: a whole frame in a tunnel (GRE, Geneve)."""
_VLAN: Final = (0x8100, 0x88A8, 0x9100)
_PPPOE: Final = 0x8864
_MPLS: Final = (0x8847, 0x8848)
_NONE: Final = 0
_SHORT: Final = -1
_TAGS: Final = 3

# Link type: bytes before the payload, and where among them the EtherType stands.
_TYPED: Final = {1: (14, 12), 104: (4, 2), 113: (16, 14), 276: (20, 0)}
# Link types whose frames are IP packets and nothing else.
RAW: Final = (12, 14, 101, 228, 229)
# BSD's loopback: an address family in the byte order of whoever wrote the file (0) or in that of the network (108).
_FAMILY: Final = (0, 108)
# PPP, with HDLC's address and control before it (RFC 1662, 3.1) or, in files, without; 50 may be Cisco's HDLC, whose type is an EtherType, instead.
_PPP: Final = (9, 50)
_PPP_FRAME: Final = 0xFF03
_CISCO: Final = (0x0F00, 0x8F00)
_PROTOCOLS: Final = {0x21: IPV4, 0x57: IPV6, 0x281: _MPLS[0], 0x283: _MPLS[1]}
_SESSION: Final = 51
"""PPPoE with nothing before it."""
_AF_INET: Final = 2
_AF_INET6: Final = (10, 24, 28, 30)

KNOWN: Final = frozenset((*_TYPED, *RAW, *_FAMILY, *_PPP, _SESSION))
"""Link types that can be read."""


def strip(data: np.ndarray, begin: np.ndarray, end: np.ndarray, link: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk over the link layer of n frames.

    Args:
        data: Bytes of the capture, uint8.
        begin: Offset of each frame, int64.
        end: Offset behind its captured bytes.
        link: Link type, one of `KNOWN`.

    Returns:
        EtherType of what follows (`IPV4`, `IPV6`, another, 0 for what has none, -1 for a frame that is cut before it), its offset, VLAN id.
    """
    if link in _TYPED:
        size, place = _TYPED[link]
        kind, at = _read(data, begin + place, end, begin + size), begin + size
    elif link in _FAMILY:
        at = begin + 4
        kind = np.full(len(begin), _SHORT)
        whole = np.flatnonzero(at < end)
        family = be32(data, begin[whole])
        family = np.where(family > 0xFFFF, _swapped(family), family)
        kind[whole] = np.select([family == _AF_INET, any_of(family, _AF_INET6)], [IPV4, IPV6], _NONE)
    elif link in _PPP:
        kind, at = _framed(data, begin, end)
    elif link == _SESSION:
        kind, at = np.full(len(begin), _PPPOE), begin
    else:
        at, kind = begin.copy(), by_version(data, begin, end)
    return _tags(data, kind, at, end)


def ethernet(data: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for Ethernet frames in a tunnel: EtherType and offset."""
    kind, at, _ = _tags(data, _read(data, begin + 12, end, begin + 14), begin + 14, end)
    return kind, at


def by_version(data: np.ndarray, at: np.ndarray, end: np.ndarray) -> np.ndarray:
    """EtherType by an IP packet's first four bits."""
    kind = np.full(len(at), _SHORT)
    whole = np.flatnonzero(at < end)
    version = data[at[whole]] >> 4
    kind[whole] = np.select([version == 4, version == 6], [IPV4, IPV6], _NONE)
    return kind


def _tags(
    data: np.ndarray, kind: np.ndarray, at: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = at.copy()
    vlan = np.zeros(len(at), np.uint16)
    for _ in range(_TAGS):
        tagged = np.flatnonzero(any_of(kind, _VLAN))
        if not len(tagged):
            break
        kind[tagged], tagged = _following(data, at, end, tagged, 2, 4)
        outer = tagged[vlan[tagged] == 0]
        vlan[outer] = be16(data, at[outer]) & 0xFFF
        at[tagged] += 4
    session = np.flatnonzero(kind == _PPPOE)
    if len(session):
        kind[session], session = _following(data, at, end, session, 6, 8)
        kind[session], short = _protocol(kind[session])
        at[session] += 8 - short
    for _ in range(_TAGS):
        labelled = np.flatnonzero(any_of(kind, _MPLS))
        if not len(labelled):
            break
        _, whole = _following(data, at, end, labelled, 0, 4)
        kind[labelled] = _SHORT
        kind[whole] = _MPLS[0]
        last = whole[data[at[whole] + 2] & 1 == 1]
        at[whole] += 4
        kind[last] = by_version(data, at[last], end[last])
    return kind, at, vlan


def _framed(data: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EtherType and offset of what PPP carries, or Cisco's HDLC."""
    head = _read(data, begin, end, begin + 2)
    at = begin + 2 * (head == _PPP_FRAME)
    kind = _read(data, at, end, at + 2)
    whole = np.flatnonzero(kind != _SHORT)
    kind[whole], short = _protocol(kind[whole])
    at[whole] += 2 - short
    cisco = any_of(head, _CISCO)
    kind[cisco] = _read(data, begin[cisco] + 2, end[cisco], begin[cisco] + 4)
    return kind, np.where(cisco, begin + 4, at)


def _protocol(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EtherType of PPP's protocols, and how many bytes less than two each takes: it may be one, which then is odd (RFC 1661, 2)."""
    short = number >> 8 & 1
    number = number >> 8 * short
    return np.select([number == it for it in _PROTOCOLS], [*_PROTOCOLS.values()], _NONE), short


def _following(
    data: np.ndarray, at: np.ndarray, end: np.ndarray, rows: np.ndarray, place: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The type that a header of `size` bytes names for each of some rows, and those rows whose header is whole."""
    return _read(data, at[rows] + place, end[rows], at[rows] + size), rows[at[rows] + size <= end[rows]]


def _read(data: np.ndarray, place: np.ndarray, end: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """A 16-bit type at `place` of each row whose header, which ends at `behind`, is whole; -1 for others."""
    kind = np.full(len(place), _SHORT)
    whole = behind <= end
    kind[whole] = be16(data, place[whole])
    return kind


def _swapped(number: np.ndarray) -> np.ndarray:
    return number.astype(np.uint32).byteswap().astype(np.int64)
