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
