"""Which packets of a block a parser is to see: by their first bytes, and those that go on what one of them began.

Packets that no capture filter took are seen for DNS alone, which has a switch of its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from daemoneye.events.sets import isin
from daemoneye_sensor.l7 import http, quic, stratum
from daemoneye_sensor.packets import columns as c
from daemoneye_sensor.packets.columns import Packets, any_of, be32
from daemoneye_sensor.packets.flows import Placed
from daemoneye_sensor.packets.oddities import EXPECTED

DNS_PORTS: Final = (53, 5353)
# How requests and responses begin.
_HTTP: Final = np.array([int.from_bytes(beginning) for beginning in sorted(http.BEGINNINGS)])
# A ClientHello of SSL 2.0's form for SSL 3 or TLS, and for SSL 2.0 itself, behind its length (`daemoneye_sensor.l7.sslv2`).
_SSL2: Final = (0x80000103, 0x80000100)
_CALLS: Final = tuple(int.from_bytes(beginning) for beginning in stratum.BEGINNINGS)
_SSH, _HTTP2 = (int.from_bytes(beginning) for beginning in (b"SSH-", b"PRI "))
_QUIC_VERSIONS: Final = np.array(sorted(quic.NUMBERS))
_QUIC_LEAST: Final = 1000
"""Datagrams with Initials are padded to 1,200 bytes (RFC 9000, 14.1)."""
_HANDSHAKE: Final = 0x16
"""How a record of TLS's handshake begins."""
_FOLLOWING: Final = 128
"""Segments of one conversation and block that are looked at from where it begins something on."""
_FIRST: Final = 8
"""Segments of one conversation and block that are looked at although they are too short to say what they begin, or are calls in JSON."""
SURE: Final = 5
"""Bytes that tell what a message is."""


def select(packets: Packets, placed: Placed, waiting: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions of the packets that are to be looked at, ascending.

    Args:
        packets: A block of n packets.
        placed: Where they belong; those that were shown before are passed over.
        waiting: Whether somebody waits for more bytes of a conversation, by slot of the table.
        known: Whether it is known what a conversation speaks, likewise.
    """
    filled = (packets.length > 0) & ~placed.again
    dns = any_of(packets.src_port, DNS_PORTS) | any_of(packets.dst_port, DNS_PORTS)
    if packets.taken is not None:
        filled &= (packets.taken != 0) | dns
    tcp, udp = filled & (packets.proto == c.TCP), filled & (packets.proto == c.UDP)
    begins = np.zeros(len(packets), bool)
    quads = np.flatnonzero((tcp | udp) & (packets.length >= SURE))
    word = be32(packets.data, packets.payload[quads])
    hello = ((word >> 16 == 0x1603) & (word >> 8 & 0xFF <= 4)) | any_of(word & 0x8000FFFF, _SSL2)
    begins[quads] = tcp[quads] & (hello | isin(word, _HTTP))
    initial = quads[udp[quads] & (word >> 30 == 3) & (packets.length[quads] >= _QUIC_LEAST)]
    chosen = dns & (tcp | udp)
    chosen[initial] |= isin(be32(packets.data, packets.payload[initial] + 1), _QUIC_VERSIONS)
    begins |= dns & tcp
    # Of a conversation of JSON a few calls tell whether it is a miner's; nothing follows from them.
    calls = quads[tcp[quads] & any_of(word, _CALLS) & ~known[placed.slot[quads]]]
    chosen[calls[_rank(placed.slot[calls]) < _FIRST]] = True
    # Whoever sends its first bytes singly must not hide behind that.
    short = np.flatnonzero(tcp & (packets.length < SURE) & ~known[placed.slot])
    begins[short[_rank(placed.slot[short]) < _FIRST]] = True
    interesting = waiting.copy()
    interesting[placed.slot[begins]] = True
    following = np.flatnonzero(tcp & interesting[placed.slot])
    chosen[following[_rank(placed.slot[following], begins[following]) < _FOLLOWING]] = True
    return np.flatnonzero(chosen | begins)


def alike(packets: Packets, placed: Placed, chosen: np.ndarray) -> np.ndarray:
    """The chosen positions in the order in which to look at them: conversations that begin alike one after another, the packets of each in order.

    A processor that does the same again and again knows the way: going from one parser to another with each message cost a quarter more.
    """
    begins = packets.data[packets.payload[chosen]]
    dns = any_of(packets.src_port[chosen], DNS_PORTS) | any_of(packets.dst_port[chosen], DNS_PORTS)
    kind = np.select([dns, packets.proto[chosen] == c.UDP, begins == _HANDSHAKE], [0, 1, 2], 3)
    slot = placed.slot[chosen]
    of_slot = np.zeros(int(slot.max(initial=0)) + 1, np.int8)
    of_slot[slot[::-1]] = kind[::-1]  # the first of each is written last
    return chosen[np.argsort(of_slot[slot], kind="stable")]


def odd(packets: Packets, placed: Placed, known: np.ndarray) -> np.ndarray:
    """Positions of packets to well-known ports of TCP that begin none of the protocols that are known, ascending; `known` as above."""
    filled = (packets.length >= SURE) & ~placed.again & (packets.proto == c.TCP) & ~known[placed.slot]
    if packets.taken is not None:
        filled &= packets.taken != 0
    at = np.flatnonzero(filled & any_of(packets.dst_port, EXPECTED))
    word = be32(packets.data, packets.payload[at])
    # Whatever TLS sends begins with a type of 20 to 23 and a version of 3.
    tls = (word >> 26 == 0x14 >> 2) & (word >> 16 & 0xFF == 3)
    ssh = (word == _SSH) & (packets.dst_port[at] == 22)
    return at[~(tls | ssh | isin(word, _HTTP) | any_of(word, (*_CALLS, _HTTP2)))]


def _rank(group: np.ndarray, anew: np.ndarray | None = None) -> np.ndarray:
    """How many of the same group come before each, counted from the last one that is marked by `anew` on; int64."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starting = np.append(True, ordered[1:] != ordered[:-1])[: len(group)]
    if anew is not None:
        starting |= anew[order]
    starts = np.flatnonzero(starting)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return rank
