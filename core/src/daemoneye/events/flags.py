"""The bits of the `flags` column: one declaration for C, numpy and people."""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class Flag(IntFlag):
    """Facts about a row; append-only."""

    EXE_DELETED = 1 << 0
    MEMFD = 1 << 1
    WRITABLE_LAYER = 1 << 2
    SETUID = 1 << 3
    SETGID = 1 << 4
    CAPS_GAINED = 1 << 5
    ARGV_TRUNCATED = 1 << 6
    STRINGS_SPILLED = 1 << 7
    STRINGS_TRUNCATED = 1 << 8
    SNAPSHOT = 1 << 9
    SCRIPT = 1 << 10
    PATH_TRUNCATED = 1 << 11
    CORE_DUMPED = 1 << 12
    IMAGE_INHERITED = 1 << 13
    ARGV_UNREADABLE = 1 << 14
    SNI_ABSENT = 1 << 15
    SNI_UNSEEN = 1 << 16
    ECH = 1 << 17
    RESPONSE_UNSEEN = 1 << 18
    PARTIAL = 1 << 19
    MID_STREAM = 1 << 20
    TRUNCATED = 1 << 21
    CERTIFICATE_HIDDEN = 1 << 22


FLAG_DOCS: Final[dict[Flag, str]] = {
    Flag.EXE_DELETED: "the executable had no name left when it was executed (link count 0)",
    Flag.MEMFD: "the executable is an anonymous memory file (memfd_create)",
    Flag.WRITABLE_LAYER: "the executable lies in the writable (upper) layer of an overlay file system",
    Flag.SETUID: "the set-user-id bit changed the effective user",
    Flag.SETGID: "the set-group-id bit changed the effective group",
    Flag.CAPS_GAINED: "the process holds permitted capabilities that its parent, in the same user namespace, does not",
    Flag.ARGV_TRUNCATED: "argv is longer than what was kept; argv_length is its true length",
    Flag.STRINGS_SPILLED: "the strings travelled through the blob ring (kernel detail)",
    Flag.STRINGS_TRUNCATED: "chunks of the strings were lost; what is missing is empty",
    Flag.SNAPSHOT: "read from /proc at the start of the sensor, not seen as it happened",
    Flag.SCRIPT: "a script: filename names it, interpreter and exe the program that reads it",
    Flag.PATH_TRUNCATED: "a path was deeper or longer than the kernel program follows; its beginning is missing",
    Flag.CORE_DUMPED: "the process dumped core",
    Flag.IMAGE_INHERITED: "the process has not executed anything since its parent forked it",
    Flag.ARGV_UNREADABLE: "the argument pages could not be read",
    Flag.SNI_ABSENT: "the ClientHello names no server",
    Flag.SNI_UNSEEN: "the flow carries TLS or QUIC, but its ClientHello was not seen: nothing is known about the server's name",
    Flag.ECH: "encrypted_client_hello is offered: the server's name, if there is one, is the outer one",
    Flag.RESPONSE_UNSEEN: "no response was seen",
    Flag.PARTIAL: "the capture or the sender cut the message: what follows the cut is missing",
    Flag.MID_STREAM: "the connection was open before the first packet that was seen: who opened it is a guess by the ports",
    Flag.TRUNCATED: "the response has the bit TC: the whole of it would have to be asked for by TCP",
    Flag.CERTIFICATE_HIDDEN: "TLS 1.3 encrypts the server's certificate",
}


def flag_names(value: int) -> list[str]:
    """Names of the set bits, lower case, in order of the bits; unknown bits as `bit_<n>`."""
    return [_NAMES.get(bit, f"bit_{bit}") for bit in range(32) if value >> bit & 1]


_NAMES: Final[dict[int, str]] = {flag.bit_length() - 1: str(flag.name).lower() for flag in Flag}


def flags_of(names: list[str]) -> int:
    """The inverse of `flag_names`.

    Raises:
        ValueError: A name is unknown.
    """
    value = 0
    for name in names:
        if name.startswith("bit_"):
            value |= 1 << int(name[4:])
        else:
            try:
                value |= Flag[name.upper()]
            except KeyError:
                msg = f"unknown flag {name!r}; known: {', '.join(str(f.name).lower() for f in Flag)}"
                raise ValueError(msg) from None
    return value
