"""Rows of the network for tests of detectors, described by keyword, and detectors that judge them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events.addresses import packed
from daemoneye.events.base import derive
from daemoneye.events.codec import Section, section_of
from daemoneye.events.registry import BY_NAME
from daemoneye.findings import Finding
from daemoneye_analytics.detectors.base import Detector
from daemoneye_analytics.frame import Frame
from tests.unit.analytics.factory import OFFSET, SECOND

SYN, ACK, RST, FIN = 2, 16, 4, 1
Rows = Sequence[dict[str, Any]]


def flow(
    src: str, dst: str, port: int, at: float = 0.0, *, answer: int = SYN | ACK | FIN, **more: Any
) -> dict[str, Any]:
    """A conversation; `answer` holds the TCP flags that came back, 0 for none."""
    packets = {"src_packets": 1 if not answer else 5, "dst_packets": 5 if answer else 0}
    return {
        "src_ip": src,
        "dst_ip": dst,
        "dst_port": port,
        "time": at,
        "dst_tcp_flags": answer,
        "src_tcp_flags": SYN | ACK if answer & SYN else SYN,
        **packets,
        **more,
    }


def beats(dst: str, gaps: Sequence[float], port: int = 443, **more: Any) -> list[dict[str, Any]]:
    """Conversations that begin so far apart, half a second long each."""
    rows, at = [], 100.0
    for gap in gaps:
        at += gap
        rows.append(
            flow("10.0.0.5", dst, port, at + 0.5, begin_time=int(at * SECOND), state=b"closed", service=b"tls", **more)
        )
    return rows


def section(record: str, rows: Rows) -> Section:
    names = {name for row in rows for name in row}
    heap = {field.name for field in BY_NAME[record].heap_fields}
    values: dict[str, object] = {
        "event": BY_NAME[record].id,
        "proto": [row.get("proto", 6) for row in rows],
        "src_port": [row.get("src_port", 40_000) for row in rows],
    }
    for name in names - {"proto", "src_port"}:
        column = [row.get(name, b"" if name in heap else 0) for row in rows]
        if name in ("src_ip", "dst_ip"):
            values[name] = np.array([packed(value) for value in column], "V16")
        elif name == "time":
            values[name] = [int(value * SECOND) for value in column]
        else:
            values[name] = column
    made = section_of(BY_NAME[record], values, len(rows))
    derive(made.record, made.rows)
    return made


def frame(*sections: Section, first: int = 0) -> Frame:
    rows = sum(len(s.rows) for s in sections if not s.context)
    about = Envelope("node", "boot", 1, "bulk", first, rows, OFFSET, positions={})
    return Frame(envelope.decode(envelope.encode(about, [s for s in sections if len(s.rows)])))


def made(cls: type[Detector], **parameters: Any) -> Detector:
    return cls(cls.declaration.resolve(parameters))


def judged(detector: Detector, rows: Rows, size: int = 10_000, record: str = "packet_flow") -> list[Finding]:
    """Findings of rows in batches of `size`."""
    found = []
    for at in range(0, len(rows), size):
        found += detector.process(frame(section(record, rows[at : at + size]), first=at))
    return found


def request(
    uri: str, dst: str = "169.254.169.254", src: str = "10.0.0.5", at: float = 0.0, **more: Any
) -> dict[str, Any]:
    """A request to an address."""
    return {
        "src_ip": src,
        "dst_ip": dst,
        "dst_port": 80,
        "time": at,
        "method": b"GET",
        "uri": uri.encode(),
        "user_agent": b"curl/8",
        "status": 200,
        **more,
    }


def question(
    name: str, at: float = 0.0, rcode: str = "NOERROR", src: str = "10.0.0.5", kind: str = "TXT"
) -> dict[str, Any]:
    """A question for `name`."""
    return {
        "src_ip": src,
        "dst_ip": "10.0.0.53",
        "dst_port": 53,
        "time": at,
        "query": name.encode(),
        "type": kind.encode(),
        "rcode": rcode.encode(),
        "proto": 17,
    }


def drawn(number: int, length: int) -> str:
    """Letters and digits as if drawn; the same for the same number."""
    return base64.b32encode(hashlib.sha256(b"%d" % number).digest()).decode().lower()[:length]
