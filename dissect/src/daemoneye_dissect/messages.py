# SPDX-License-Identifier: GPL-2.0-only
"""Messages over the pipe: a JSON header and a body.

Responsible for their form and their largest size; not for what they ask.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Final

MAX_HEADER: Final = 64 << 10
MAX_BODY: Final = 16 << 20
_SIZES: Final = struct.Struct(">II")


class NoMessage(Exception):  # noqa: N818 - it names what happened
    """What came is no message: nobody can tell where the next one begins."""


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None at the end of the stream.

    Raises:
        NoMessage: It is too large, cut short, or its header is no JSON object.
    """
    sizes = stream.read(_SIZES.size)
    if not sizes:
        return None
    if len(sizes) < _SIZES.size:
        raise NoMessage("a message is cut short")
    header_size, body_size = _SIZES.unpack(sizes)
    if header_size > MAX_HEADER or body_size > MAX_BODY:
        raise NoMessage(
            f"a message of {header_size} and {body_size} bytes; at most {MAX_HEADER} and {MAX_BODY} are read"
        )
    raw, body = stream.read(header_size), stream.read(body_size)
    if len(raw) < header_size or len(body) < body_size:
        raise NoMessage("a message is cut short")
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise NoMessage("a message's header is no JSON object")
    return header, body


def write(stream: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    """Send a message; it is on its way when this returns."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    stream.write(_SIZES.pack(len(raw), len(body)) + raw)
    stream.write(body)
    stream.flush()
