"""Who opened a conversation: by SYN, by the request of an echo, else by who was first or by the ports."""

from __future__ import annotations

from typing import Final

import numpy as np

from daemoneye.events.community import COUNTERPARTS
from daemoneye.events.flags import Flag
from daemoneye_sensor.packets import columns as c
from daemoneye_sensor.packets.columns import Packets, any_of

_KNOWN_PORTS: Final = 1024
# Answers of ICMP and ICMPv6 and the requests that they belong to (RFC 792, RFC 950, RFC 4443).
_REPLIES: Final = {c.ICMP: (0, 14, 16, 18), c.ICMPV6: (129,)}
_CODE: Final = 0x100
"""A code of ICMP as a port: none is a type."""


def oriented(packets: Packets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each packet is no answer of ICMP, and its ports; those of ICMP are its type and that of its counterpart, or else its code.

    That makes the conversations of ICMP those of the community id: who asks whom, and what is not answered by who sends it and its code.
    """
    src_port, dst_port = packets.src_port.copy(), packets.dst_port.copy()
    forward = np.ones(len(packets), bool)
    for proto, counterparts in _COUNTERPARTS.items():
        mine = np.flatnonzero(packets.proto == proto)
        if len(mine):
            kind = packets.src_port[mine] & 0xFF
            forward[mine] = ~any_of(kind, _REPLIES[proto])
            other = counterparts[kind]
            dst_port[mine] = np.where(other >= 0, other, packets.dst_port[mine] | _CODE)
    return forward, src_port, dst_port


def _table(counterparts: dict[int, int]) -> np.ndarray:
    return np.array([counterparts.get(kind, -1) for kind in range(256)])


_COUNTERPARTS: Final = {proto: _table(types) for proto, types in COUNTERPARTS.items()}


def turned_from(
    packets: Packets, at: np.ndarray, group: np.ndarray, forward: np.ndarray, src_port: np.ndarray, dst_port: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the receiver of each first packet opened the conversation, and the row's flags.

    Args:
        packets: A block of n packets.
        at: The first packet of each of m conversations.
        group: Conversation of each packet, shape (n,).
        forward: As `oriented` says.
        src_port: Likewise.
        dst_port: Likewise.
    """
    proto, flags, src_port, dst_port = packets.proto[at], packets.tcp_flags[at], src_port[at], dst_port[at]
    tcp = proto == c.TCP
    syn, ack = tcp & (flags & c.SYN != 0), flags & c.ACK != 0
    # Of many packets' flags SYN and ACK are either side's: whoever was first opened it, if the other side was seen as well.
    many = packets.count[at] > 1
    answered = _answered(packets, at, group) if many.any() else many
    opens, answers = syn & (~ack | (many & answered)), syn & ack & ~many
    # Whoever has the well-known port, or the lower one of a connection that was there before us, is taken for the server.
    guess = np.where(
        tcp, src_port < dst_port, (src_port < _KNOWN_PORTS) & (src_port < dst_port) & (dst_port >= _KNOWN_PORTS)
    )
    turned = np.select([opens, answers, any_of(proto, (c.ICMP, c.ICMPV6))], [False, True, ~forward[at]], guess)
    late = (tcp & ~opens & ~(syn & many)) | (turned & ~tcp)
    return turned, np.where(late, np.uint32(Flag.MID_STREAM), np.uint32(0))


def _answered(packets: Packets, at: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whether the block has a packet of the other side behind each first one, bool of the shape of `at`."""
    first = at[group]
    other = (packets.src_lo != packets.src_lo[first]) | (packets.src_hi != packets.src_hi[first])
    other = (other | (packets.src_port != packets.src_port[first])) & (packets.time > packets.time[first])
    answered = np.zeros(len(at), bool)
    answered[group[other]] = True
    return answered


def reused(packets: Packets) -> np.ndarray:
    """Positions of the packets of a block, in order of time, that open a connection anew whose ports another one had that was over (RST, or FIN of both)."""
    tcp = np.flatnonzero(packets.proto == c.TCP)
    flags = packets.tcp_flags[tcp]
    syn = (flags & (c.SYN | c.ACK)) == c.SYN
    if not (syn.any() and (flags & (c.FIN | c.RST)).any()):
        return tcp[:0]
    look = np.flatnonzero(syn | (flags & (c.FIN | c.RST) != 0))
    ends = [
        np.stack([getattr(packets, f"{side}_{what}")[tcp[look]].astype(np.uint64) for what in ("hi", "lo", "port")], 1)
        for side in ("src", "dst")
    ]
    found = []
    ended: dict[tuple[bytes, bytes], set[bytes]] = {}
    for at, sender, receiver, flag in zip(look.tolist(), *(map(bytes, side) for side in ends), flags[look].tolist(), strict=True):  # fmt: skip
        pair = (sender, receiver) if sender < receiver else (receiver, sender)
        if flag & c.RST:
            ended[pair] = {sender, receiver}
        elif flag & c.FIN:
            ended.setdefault(pair, set()).add(sender)
        elif len(ended.pop(pair, ())) > 1:
            found.append(at)
    return tcp[found]
