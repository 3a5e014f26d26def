"""Frames for the dissecting process: the table of a pcapng request, and the pipe's messages as bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from scapy.layers.l2 import Ether
from scapy.packet import Packet


def ether(**fields: Any) -> Packet:
    """Ethernet with addresses: without, scapy asks the network for them."""
    return Ether(**{"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02", **fields})


def message(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A request as it goes through the pipe."""
    raw = json.dumps(header).encode()
    return struct.pack(">II", len(raw), len(body)) + raw + body


def table(frames: Iterable[tuple[int, bytes, int, int]]) -> bytes:
    """Body of a pcapng request: (ns since 1970, bytes, interface, comment) each."""
    frames = list(frames)
    rows = b"".join(struct.pack("<qIIHHI", t, len(raw), len(raw), i, c, 0) for t, raw, i, c in frames)
    return rows + b"".join(raw for _, raw, _, _ in frames)


def messages(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """What came out of the pipe."""
    found, at = [], 0
    while at < len(data):
        header, body = struct.unpack_from(">II", data, at)
        at += 8
        found.append((json.loads(data[at : at + header]), data[at + header : at + header + body]))
        at += header + body
    return found
