r"""Domain names of DNS messages: from the wire, with its compression, to text.

A name is kept as its labels on the wire, uncompressed and without the root's zero byte, until somebody wants its text. What a pointer
leads to is resolved once a message (`Names`), so that a message full of pointers to one long chain costs time linear in its size.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from daemoneye_sensor.l7.errors import Malformed

Names = dict[int, bytes]
"""Offset in a message → labels from there to the root, length bytes included: what was resolved before."""

_HEADER_BYTES: Final = 12
_LABEL_BYTES: Final = 63
_NAME_BYTES: Final = 255
_SPECIAL: Final = frozenset(b'".;\\()@$')
"""Printable characters with a meaning of their own in a zone file; BIND and dnspython escape the same ones."""
_SHOWN: Final = tuple(
    f"\\{chr(byte)}" if byte in _SPECIAL else chr(byte) if 0x21 <= byte <= 0x7E else f"\\{byte:03d}"
    for byte in range(256)
)  # fmt: skip


_PLAIN: Final = re.compile(rb"[\w.-]+").fullmatch


class CutOffError(Exception):
    """The bytes end, or the record's data does, before what is being read."""


def read(message: bytes, at: int, limit: int, names: Names) -> tuple[bytes, int]:
    """Read the name at an offset (RFC 1035 3.1, compression 4.1.4).

    Args:
        message: The message, from its header on.
        at: Where the name begins.
        limit: Where it has to end at the latest; what a pointer leads to may lie anywhere before.
        names: What was resolved of this message; read and added to.

    Returns:
        The labels, and the offset of what follows the name.

    Raises:
        CutOffError: The name goes on at `limit`.
        Malformed: A pointer that leads not strictly backwards, a label or name that is too long, a reserved type of label.
    """
    after = 0
    here = floor = at
    path: list[tuple[int, int]] = []
    labels = b""
    while True:
        if here >= limit:
            raise _beyond(at, followed=after > 0)
        length = message[here]
        if length == 0:
            after = after or here + 1
            break
        if length <= _LABEL_BYTES:
            path.append((here, length))
            here += 1 + length
        elif length >= 0xC0:
            if here + 1 >= limit:
                raise _beyond(at, followed=after > 0)
            target = (length & 0x3F) << 8 | message[here + 1]
            if not _HEADER_BYTES <= target < floor:
                raise Malformed(f"DNS: the name at byte {at} has a pointer to byte {target}, which is not before it")
            if not after:
                after, limit = here + 2, len(message)
            path.append((here, 0))
            here = floor = target
        else:
            raise Malformed(f"DNS: byte {here} is no label's length and no pointer: {length:#04x}")
        if after and here in names:
            labels = names[here]
            break
    for start, length in reversed(path):
        if length:
            labels = message[start : start + 1 + length] + labels
            if len(labels) >= _NAME_BYTES:
                raise Malformed(f"DNS: the name at byte {at} is longer than {_NAME_BYTES} bytes")
        names[start] = labels
    return labels, after


@lru_cache(maxsize=4096)
def text(labels: bytes) -> str:
    r"""Text of labels (RFC 1035 5.1): "." for the root, no dot at the end else, and \. or \DDD for what would be misread.

    Raises:
        Malformed: These are no labels that end where the bytes do, or too many.
    """
    parts = []
    at, end = 0, len(labels)
    while at < end:
        length = labels[at]
        start = at + 1
        at = start + length
        if length > _LABEL_BYTES or at > end or end >= _NAME_BYTES:
            raise Malformed("DNS: no name that stands by itself")
        parts.append(labels[start:at])
    whole = b".".join(parts)
    if _PLAIN(whole) and whole.count(b".") == len(parts) - 1:  # nearly always: nothing to escape
        return whole.decode("ascii")
    return ".".join(["".join([_SHOWN[byte] for byte in part]) for part in parts]) or "."


def _beyond(at: int, *, followed: bool) -> Exception:
    if followed:
        return Malformed(f"DNS: the name at byte {at} has a pointer to labels that go beyond the message")
    return CutOffError()
