"""DNS messages by hand, byte by byte, for tests."""

from __future__ import annotations

import struct

QUESTION = b"\xc0\x0c"
"""A pointer to the first question's name."""
OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


def name(text: str | bytes) -> bytes:
    labels = (text.encode() if isinstance(text, str) else text).split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels if label) + b"\0"


def pointer(target: int) -> bytes:
    return struct.pack("!H", 0xC000 | target)


def record(rrtype: int, data: bytes, *, owner: bytes = QUESTION, ttl: int = 60, rrclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rrtype, rrclass, ttl, len(data)) + data


def message(
    *records: bytes,
    question: bytes | None = None,
    flags: int = 0x8180,
    counts: tuple[int, int, int] | None = None,
    questions: int = 1,
) -> bytes:
    """A response of the records as answers, to a question for A of www.example.com unless told otherwise."""
    asked = question if question is not None else name("www.example.com") + struct.pack("!HH", 1, 1)
    return struct.pack("!6H", 0xBEEF, flags, questions, *(counts or (len(records), 0, 0))) + asked + b"".join(records)


WHOLE = message(
    record(5, name("edge.example.net"), ttl=1),
    record(1, bytes([192, 0, 2, 1]), owner=pointer(45), ttl=2),
    record(16, b"\x03abc", ttl=3),
    record(6, b"\x02ns" + pointer(16) + b"\x05admin" + pointer(16) + bytes(20), owner=pointer(16)),
    OPT,
    record(1, bytes(4)),
    counts=(3, 1, 2),
)


def bomb_of_pointers(size: int) -> bytes:
    """One name of 127 labels, and as many records as fit whose owners are pointers into its middle, a label further each time."""
    labels = b"\x01a" * 120
    asked = labels + b"\0\0\x01\0\x01"
    count = (size - 12 - len(asked)) // 12
    owners = [pointer(12 + 2 * (number % 120)) for number in range(count)]
    return message(*[record(65280, b"", owner=owner) for owner in owners], question=asked)


def bomb_of_chains(size: int) -> bytes:
    """Records whose data are pointers, each to the one before, and whose owners are pointers to the last that can be reached."""
    at = 12 + 17 + 4
    records = []
    before = 12
    while at < size - 14:
        records.append(record(5, pointer(before), owner=pointer(before)))
        before = min(at + 12, 0x3FFF - 5) if at + 12 <= 0x3FFF else before
        at += 14
    return message(*records)


def bomb_of_labels(size: int) -> bytes:
    """Names of 120 labels of their own and a pointer to the one before: none may be longer than 255 bytes."""
    data = b"\x01a" * 120 + b"\0"
    return message(*[record(5, data) for _ in range((size - 40) // (len(data) + 12))])
