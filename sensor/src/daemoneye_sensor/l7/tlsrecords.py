"""Records of TLS, and the handshake messages in them.

Responsible for where a message begins and ends (RFC 8446 5, RFC 5246 6.2); what it says is :mod:`daemoneye_sensor.l7.tls`'s.
"""

from __future__ import annotations

import struct
from typing import Final

from daemoneye_sensor.l7.errors import Malformed

LONGEST: Final = 65_536
"""Longest ClientHello, ServerHello and first certificate in bytes. Real ones have 200 to 4,000."""
RECORDS: Final = 4_096
"""Records that are walked for one message: a call costs as much as there are records, and some clients send one byte in each."""
HANDSHAKE: Final = 22
"""Type of a record of the handshake."""
_RECORD: Final = struct.Struct("!BHH")
_LONGEST_RECORD: Final = 1 << 14
_KINDS: Final = {20: "ChangeCipherSpec", 21: "Alert", 23: "application data"}
_VERSIONS: Final = range(0x0300, 0x0305)


def handshake_bytes(data: bytes) -> tuple[bytes, int]:
    """(content of the handshake records from the beginning, also of one that is not all there; type of the record that follows them, 0 for none)."""
    pieces: list[bytes] = []
    at = size = 0
    while at < len(data) and size < 3 * LONGEST:
        if data[at] != HANDSHAKE:
            if not at:
                raise Malformed(f"no TLS handshake: begins with a record of {type_name(data[0])}")
            return b"".join(pieces), data[at]
        if at + 5 > len(data):
            break
        _, version, length = _RECORD.unpack_from(data, at)
        if version not in _VERSIONS:
            raise Malformed(f"no TLS: the record at byte {at} is of version 0x{version:04x}")
        if not 0 < length <= _LONGEST_RECORD:
            raise Malformed(
                f"the TLS record at byte {at} says that it has {length} bytes; 1 to {_LONGEST_RECORD} are allowed"
            )
        if len(pieces) == RECORDS:
            raise Malformed(f"one TLS message in more than {RECORDS} records")
        pieces.append(data[at + 5 : at + 5 + length])
        size += length
        at += 5 + length
    return b"".join(pieces), 0


def type_name(record: int) -> str:
    """Name of a record's type."""
    return _KINDS.get(record, f"type {record}")


def message_body(stream: bytes, at: int, wanted: int, text: str) -> bytes | None:
    """Body of the message at `at`, None if it is not all there."""
    if len(stream) > at and stream[at] != wanted:
        raise Malformed(f"the handshake begins with a message of type {stream[at]}, not with {text}")
    if len(stream) < at + 4:
        return None
    length = int.from_bytes(stream[at + 1 : at + 4])
    if length > LONGEST:
        raise Malformed(f"{text} of {length} bytes; more than {LONGEST} are not read")
    body = stream[at + 4 : at + 4 + length]
    return body if len(body) == length else None
