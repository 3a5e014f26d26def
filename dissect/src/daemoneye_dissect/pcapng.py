# SPDX-License-Identifier: GPL-2.0-only
"""Blocks of pcapng files (draft-ietf-opsawg-pcapng): section, interfaces, packets with comments, statistics.

Responsible for turning a request into blocks. scapy's own writer knows neither comments of a section, nor nanoseconds, nor what was dropped, which is half of
what makes a capture evidence; nothing of scapy is used here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_BLOCKS: Final = 32 << 20
MAX_FRAME: Final = 1 << 19
MAX_FRAMES: Final = 1 << 16
MAX_INTERFACES: Final = 256
MAX_COMMENTS: Final = 4096
MAX_COMMENT: Final = 4096
APPLICATION: Final = "DaemonEye"
_TABLE: Final = struct.Struct("<qIIHHI")
_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_END, _COMMENT = 0, 1
_SHB_USERAPPL: Final = 4
_IF_NAME, _IF_TSRESOL = 2, 9
_ISB_IFRECV, _ISB_IFDROP = 4, 5
_NANOSECONDS: Final = bytes([9])
_U64: Final = (1 << 64) - 1


class BadRequest(Exception):  # noqa: N818 - it says whose mistake it is
    """A request that cannot be answered; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class _Interface:
    name: str
    link: int
    snaplen: int
    received: int | None
    dropped: int | None


def blocks(request: Mapping[str, Any], body: bytes) -> tuple[int, bytes]:
    """How many frames, and the blocks that a request asks for (`daemoneye_dissect` has its form).

    Raises:
        BadRequest: It contradicts itself or goes beyond a bound.
    """
    interfaces = [_interface(entry) for entry in _list(request, "interfaces", MAX_INTERFACES)]
    comments = [_text(entry, "comments", MAX_COMMENT) for entry in _list(request, "comments", MAX_COMMENTS)]
    count = _whole(request.get("frames", 0), "frames", MAX_FRAMES)
    out = bytearray()
    if request.get("begin", True):
        out += _section(_text(request.get("comment", ""), "comment", MAX_COMMENT))
        for interface in interfaces:
            out += _described(interface)
    last = _packets(out, body, count, len(interfaces), comments)
    if request.get("end", True):
        for number, interface in enumerate(interfaces):
            out += _statistics(number, interface, last)
    return count, bytes(out)


def _packets(out: bytearray, body: bytes, count: int, interfaces: int, comments: Sequence[str]) -> int:
    """Append the packets; the latest moment among them."""
    at = count * _TABLE.size
    if at > len(body):
        raise BadRequest(f"a table of {count} frames does not fit into {len(body)} bytes")
    options = [b"", *(_options((_COMMENT, comment.encode())) for comment in comments)]
    last = 0
    for moment, captured, size, interface, comment, _ in _TABLE.iter_unpack(body[:at]):
        if captured > MAX_FRAME or at + captured > len(body):
            raise BadRequest(f"a frame of {captured} bytes goes beyond what came, or beyond {MAX_FRAME}")
        if interface >= interfaces or comment >= len(options) or moment < 0:
            raise BadRequest("a frame names an interface or a comment that there is not, or a moment before 1970")
        head = struct.pack("<IIIII", interface, moment >> 32, moment & 0xFFFFFFFF, captured, max(size, captured))
        out += _block(_PACKET, head + _padded(body[at : at + captured]) + options[comment])
        if len(out) > MAX_BLOCKS:
            raise BadRequest(f"blocks of more than {MAX_BLOCKS} bytes: ask for fewer frames, or for fewer comments")
        at += captured
        last = max(last, moment)
    if at != len(body):
        raise BadRequest(f"{len(body) - at} bytes belong to no frame")
    return last


def _section(comment: str) -> bytes:
    options = _options((_COMMENT, comment.encode()), (_SHB_USERAPPL, APPLICATION.encode()))
    return _block(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options)


def _described(interface: _Interface) -> bytes:
    options = _options((_IF_NAME, interface.name.encode()), (_IF_TSRESOL, _NANOSECONDS))
    return _block(_INTERFACE, struct.pack("<HHI", interface.link, 0, interface.snaplen) + options)


def _statistics(number: int, interface: _Interface, moment: int) -> bytes:
    known = ((_ISB_IFRECV, interface.received), (_ISB_IFDROP, interface.dropped))
    options = _options(*((code, struct.pack("<Q", value)) for code, value in known if value is not None))
    return _block(_STATISTICS, struct.pack("<III", number, moment >> 32, moment & 0xFFFFFFFF) + options)


def _block(kind: int, content: bytes) -> bytes:
    size = len(content) + 12
    return struct.pack("<II", kind, size) + content + struct.pack("<I", size)


def _options(*options: tuple[int, bytes]) -> bytes:
    given = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options if value)
    return given + struct.pack("<HH", _END, 0) if given else b""


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _interface(entry: Any) -> _Interface:
    if not isinstance(entry, dict):
        raise BadRequest("an interface is no object")
    counts = [entry.get(key) for key in ("received", "dropped")]
    received, dropped = (None if count is None else _whole(count, "a count", _U64) for count in counts)
    return _Interface(
        _text(entry.get("name", ""), "name", 256),
        _whole(entry.get("link", 1), "link", 0xFFFF),
        _whole(entry.get("snaplen", 0), "snaplen", 0xFFFFFFFF),
        received,
        dropped,
    )


def _list(request: Mapping[str, Any], name: str, most: int) -> list[Any]:
    value = request.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise BadRequest(f"{name} is no list of at most {most}")
    return value


def _whole(value: Any, name: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise BadRequest(f"{name} is {str(value)[:40]}, not a whole number from 0 to {most}")
    return value


def _text(value: Any, name: str, most: int) -> str:
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > most:
        raise BadRequest(f"{name} is no text of at most {most} bytes")
    return value.encode("utf-8", "replace").decode()
