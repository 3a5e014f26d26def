"""The columns that rows about a socket share, and the words for their numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from daemoneye.events.network import ENDPOINTS
from daemoneye.events.schema import Field


class Direction(IntEnum):
    """Who opened a conversation, seen from the process beside it; append-only."""

    UNKNOWN = 0
    OUTBOUND = 1
    """The process: its address is the source."""
    INBOUND = 2
    """The other side: the process's address is the destination."""
    LISTEN = 3
    """Nobody yet, or (UDP without a peer) whoever likes: the process's address is the destination, the source is zero."""


class Ending(IntEnum):
    """Why a socket ended; append-only."""

    UNKNOWN = 0
    """The moment was missed; `time` is when that was noticed, and counters of TCP are not known."""
    CLOSED = 1
    """In order: closed, by FIN both ways, or given another peer."""
    ABORTED = 2
    """By this side, at once (RST, or before there was an answer)."""
    RESET = 3
    """By the other side's RST."""
    REFUSED = 4
    """Nobody listens there."""
    TIMEOUT = 5
    """No answer."""
    UNREACHABLE = 6
    """The network said that it cannot be reached."""
    IDLE = 7
    """UDP: nothing was sent or received for a minute; its end is not seen."""


class DropReason(IntEnum):
    """Why the kernel dropped a packet, by groups of its own reasons; append-only, and at most 31."""

    NONE = 0
    """Nothing was dropped."""
    OTHER = 1
    """One that has no word here."""
    NO_SOCKET = 2
    """Nobody has a socket there (any more)."""
    SOCKET_FILTER = 3
    """The socket's own filter."""
    RECEIVE_BUFFER = 4
    """The process reads too slowly: its socket is full."""
    MEMORY = 5
    """No memory, or none for this protocol."""
    FIREWALL = 6
    """Netfilter (iptables, nftables)."""
    CHECKSUM = 7
    """It was damaged."""
    LISTEN_QUEUE = 8
    """The process accepts too slowly."""
    OLD_DATA = 9
    """TCP has it already."""
    SEQUENCE = 10
    """It does not fit this connection of TCP."""
    ROUTE = 11
    """No way there, or an address that may not be."""
    NEIGHBOUR = 12
    """The next hop does not answer (ARP, neighbour discovery)."""
    QUEUE = 13
    """A queue of an interface or processor is full, or shapes the traffic."""
    PROGRAM = 14
    """An eBPF program: of a cgroup, of tc, or XDP."""
    SECURITY = 15
    """IPsec, a security module, or TCP's authentication."""
    MALFORMED = 16
    """Headers or fragments that make no packet, or one that is too big."""
    PROTOCOL = 17
    """Nobody speaks this protocol here."""


SOCKET: Final[tuple[Field, ...]] = (
    *ENDPOINTS,
    Field(
        30,
        "begin_time",
        "u64",
        "Begin of the connection (SYN sent, or handshake done), of listening, or first use (UDP).",
        unit="ns",
        ocsf="start_time",
    ),
    Field(31, "netns", "u32", "Network namespace of the socket (inode)."),
    Field(
        32,
        "direction",
        "u8",
        "Who opened it: 1 outbound (the process), 2 inbound (the other side), 3 listen.",
        ocsf="connection_info.direction",
    ),
    Field(33, "family", "u8", "Version of IP that the socket was made for: 4, or 6, which can speak both."),
)
"""The columns of ENDPOINTS and fields 30–33, 134 bytes. Records that begin with them declare their own fields from id 40 on."""
