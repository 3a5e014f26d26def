"""The ClientHello of SSL 2.0's form, in which clients that also spoke SSL 2.0 offer SSL 3.0 and TLS (RFC 5246 E.2); some malware still does.

Responsible for that message, for whichever version it offers. What the server answers is TLS's own, or SSL 2.0's, which nobody here reads.
"""

from __future__ import annotations

import struct
from typing import Final

from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tls import VERSIONS, ClientHello

_HEADER: Final = struct.Struct("!HBHHHH")
"""Length with its highest bit set, type, version, lengths of cipher specs, session id and challenge."""
_LENGTH: Final = 2  # bytes that are not counted in it
_SPEC: Final = 3


def looks_like(data: bytes) -> bool:
    """Whether bytes begin with such a message: its lengths have to agree, for two of its bytes alone are in anything sooner or later."""
    return len(data) >= _HEADER.size and data[0] & 0x80 != 0 and data[2] == 1 and _specs(data) is not None


def client_hello(data: bytes) -> ClientHello | None:
    """The hello, without extensions; its ciphers are those of SSL 3.0 and TLS, for SSL 2.0's own have longer numbers.

    Returns:
        The message, or None if more bytes are needed.

    Raises:
        Malformed: These bytes do not begin with such a message.
    """
    if len(data) < _HEADER.size:
        return None
    if (specs := _specs(data)) is None:
        raise Malformed("no ClientHello of SSL 2.0's form: its lengths do not agree, or its version is none")
    length, _, version, *_ = _HEADER.unpack_from(data)
    length &= 0x7FFF
    if len(data) < _LENGTH + length:
        return None
    body = data[_HEADER.size : _HEADER.size + specs]
    ciphers = tuple(int.from_bytes(body[at + 1 : at + _SPEC]) for at in range(0, specs, _SPEC) if not body[at])
    return ClientHello(VERSIONS[version], version, (), "", False, (), ciphers, (), (), (), (), False, length)


def _specs(data: bytes) -> int | None:
    """Bytes of the cipher specs if the header is consistent."""
    length, kind, version, specs, session, challenge = _HEADER.unpack_from(data)
    known = kind == 1 and (0x0300 <= version <= 0x0304 or version == 0x0002)
    whole = _LENGTH + (length & 0x7FFF) == _HEADER.size + specs + session + challenge
    return (
        specs
        if known and whole and specs and not specs % _SPEC and session in {0, 16} and 16 <= challenge <= 32
        else None
    )
