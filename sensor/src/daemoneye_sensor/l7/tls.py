"""The two hellos and the certificate of TLS, as they stand on the wire before anything is encrypted.

Responsible for handshake messages from SSL 3.0 to TLS 1.3 (RFC 8446 4, RFC 5246 7.4). Not for which packets are TLS, nor for putting segments in
order; records are :mod:`daemoneye_sensor.l7.tlsrecords`'s, fingerprints :mod:`daemoneye_sensor.l7.ja`'s, names in certificates
:mod:`daemoneye_sensor.l7.der`'s, a hello of SSL 2.0's form :mod:`daemoneye_sensor.l7.sslv2`'s. DTLS is not read.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final, Literal, NamedTuple, TypeAlias

from daemoneye.escape import decode
from daemoneye_sensor.l7.der import names
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tlsrecords import HANDSHAKE, LONGEST, handshake_bytes, message_body, type_name

GREASE: Final = frozenset(0x0A0A + 0x1010 * i for i in range(16))
"""Numbers that clients strew in so that servers learn to ignore what they do not know (RFC 8701 2)."""
VERSIONS: Final = {
    0x0304: "1.3", 0x0303: "1.2", 0x0302: "1.1", 0x0301: "1.0", 0x0300: "SSL 3.0", 0x0002: "SSL 2.0",
    0xFEFC: "DTLS 1.3", 0xFEFD: "DTLS 1.2", 0xFEFF: "DTLS 1.0",
}  # fmt: skip
"""Text of versions; any other is hexadecimal, as in 0x7f1c."""

_U16: Final = struct.Struct("!H")
_EXTENSION: Final = struct.Struct("!HH")
_WARNING: Final = b"\0\x02\x01"  # of an alert: two bytes follow, the first of which is its level
_CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2
_CERTIFICATE: Final = 11
_SESSION_ID: Final = 34  # both hellos: version, 32 random bytes, then the session's id
_LONGEST_SESSION_ID: Final = 32
_TLS13: Final = 0x0304
_DRAFTS: Final = (b"\x7e", b"\x7f", b"\x03\x04")  # of TLS 1.3: how the version in their ServerHello begins

_SERVER_NAME: Final = 0
_GROUPS: Final = 10
_POINT_FORMATS: Final = 11
_SIGNATURE_ALGORITHMS: Final = 13
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_ECH: Final = 0xFE0D
_READ: Final = frozenset(
    {_SERVER_NAME, _GROUPS, _POINT_FORMATS, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS, _ECH}
)

Given: TypeAlias = Literal["sent", "hidden", "none"]


class ClientHello(NamedTuple):
    r"""What a client offers. Numbers are IANA's, in the order sent and with GREASE; text is UTF-8 with other bytes as \xNN.

    Attributes:
        version: Highest version that is offered and has a text in `VERSIONS`; if none has, the highest number but GREASE.
        legacy_version: The message's own version field, 0x0303 in TLS 1.3; it is the version where there are no supported_versions.
        supported_versions: Of the extension (RFC 8446 4.2.1), empty without it.
        sni: First host name of server_name (RFC 6066 3), case as sent; with ECH it is the outer, public one. Empty if there is none.
        sni_seen: Whether there is a server_name extension.
        protocols: Names of ALPN as sent (RFC 7301).
        ciphers: Cipher suites.
        extensions: Types of the extensions.
        groups: Of supported_groups (RFC 8446 4.2.7), formerly the elliptic curves.
        point_formats: Of ec_point_formats (RFC 8422 5.1.2).
        signature_algorithms: Of signature_algorithms (RFC 8446 4.2.3).
        ech: Whether there is encrypted_client_hello (0xfe0d). Browsers send a fake one where they have no key, which looks the same.
        length: Bytes of the message with its header of four.
    """

    version: str
    legacy_version: int
    supported_versions: tuple[int, ...]
    sni: str
    sni_seen: bool
    protocols: tuple[bytes, ...]
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    groups: tuple[int, ...]
    point_formats: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    ech: bool
    length: int

    @property
    def alpn(self) -> tuple[str, ...]:
        """Names of ALPN as text."""
        return tuple(map(decode, self.protocols))


class Certificate(NamedTuple):
    """What a server answers in plain text.

    Attributes:
        version: The version that it chose, see `VERSIONS`.
        cipher: The cipher suite that it chose.
        given: Whether its certificate was "sent", is "hidden" as TLS 1.3 encrypts it, or there is "none": a session is resumed, keys are
            shared beforehand, the cipher is anonymous, or the server ended the handshake.
        subject: Whose certificate it is, as RFC 4514 text; empty if none was sent or its name cannot be read.
        issuer: Who issued it, likewise.
        sha256: Of the certificate's DER bytes, 64 hexadecimal digits; empty if none was sent.
    """

    version: str
    cipher: int
    given: Given
    subject: str = ""
    issuer: str = ""
    sha256: str = ""


def looks_like(data: bytes) -> bool:
    """Whether bytes begin with a record that begins with a ClientHello, or are themselves the beginning of that."""
    if len(data) > 5:  # the usual case
        return data[0] == HANDSHAKE and data[1] == 3 and data[2] <= 4 and data[5] == _CLIENT_HELLO
    return bool(data) and b"\x16\x03".startswith(data[:2]) and data[2:3] <= b"\x04"


def client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello at the beginning of what a client sends.

    Args:
        data: The connection's first bytes from the client; whatever follows the message is not looked at.

    Returns:
        The message, or None if more bytes are needed.

    Raises:
        Malformed: These bytes do not begin with a ClientHello, or with one longer than `LONGEST`.
    """
    stream, ended = handshake_bytes(data)
    hello = handshake(stream)
    if hello is None and ended:
        raise Malformed(f"the ClientHello is not complete when a record of {type_name(ended)} follows")
    return hello


def handshake(data: bytes) -> ClientHello | None:
    """The ClientHello that a stream of handshake messages begins with (RFC 8446 4.1.2), without records, as QUIC has it.

    Returns:
        The message, or None if more bytes are needed.

    Raises:
        Malformed: The stream begins with another message, or with a ClientHello longer than `LONGEST`.
    """
    body = message_body(data, 0, _CLIENT_HELLO, "a ClientHello")
    if body is None:
        return None
    length = len(body)
    at = _after_session_id(body, "ClientHello")
    ciphers, at = _numbers(body, at, length, "cipher suites", width=2)
    if at >= length or at + 1 + body[at] > length:
        raise Malformed(f"the ClientHello of {length} bytes ends within its compression methods")
    at += 1 + body[at]
    extensions, found = _extensions(body, at, "ClientHello")
    (legacy,) = _U16.unpack_from(body)
    versions: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    formats: tuple[int, ...] = ()
    algorithms: tuple[int, ...] = ()
    protocols: tuple[bytes, ...] = ()
    name = b""
    if span := found.get(_SUPPORTED_VERSIONS):
        versions, _ = _numbers(body, *span, "supported_versions", width=1, whole=True)
    if span := found.get(_GROUPS):
        groups, _ = _numbers(body, *span, "supported_groups", width=2, whole=True)
    if span := found.get(_POINT_FORMATS):
        formats = _formats(body, *span)
    if span := found.get(_SIGNATURE_ALGORITHMS):
        algorithms, _ = _numbers(body, *span, "signature_algorithms", width=2, whole=True)
    if span := found.get(_ALPN):
        protocols = _protocols(body, *span)
    if span := found.get(_SERVER_NAME):
        name = _server_name(body, *span)
    return ClientHello(
        _highest(versions, legacy), legacy, versions, decode(name), _SERVER_NAME in found, protocols, ciphers, extensions, groups, formats, algorithms,
        _ECH in found, 4 + length,
    )  # fmt: skip


def server_certificates(data: bytes) -> Certificate | None:
    """What a server says of itself in plain text: the version and cipher of its ServerHello (RFC 5246 7.4.1.3) and its first certificate (7.4.2).

    Args:
        data: The connection's first bytes from the server. The rest of the chain of certificates need not be there.

    Returns:
        The answer, or None if more bytes are needed.

    Raises:
        Malformed: These bytes do not begin with a ServerHello, or its message or certificate is longer than `LONGEST`.
    """
    stream, ended = handshake_bytes(data[_after_warnings(data) :])
    read = _server_hello(stream)
    if read is None:
        if ended:
            raise Malformed(f"the ServerHello is not complete when a record of {type_name(ended)} follows")
        return None
    answer, at = read
    if answer.given == "hidden":
        return answer
    if at == len(stream):
        return answer if ended else None
    if stream[at] != _CERTIFICATE:
        return answer
    der = _first_certificate(stream, at)
    if der is None and ended:
        raise Malformed(f"the Certificate message is not complete when a record of {type_name(ended)} follows")
    if not der:
        return None if der is None else answer
    subject, issuer = names(der)
    return answer._replace(given="sent", subject=subject, issuer=issuer, sha256=sha256(der).hexdigest())


def server_hello(data: bytes) -> Certificate | None:
    """The ServerHello alone, for a certificate behind it that did not come or cannot be read; arguments and errors as of `server_certificates`."""
    read = _server_hello(handshake_bytes(data[_after_warnings(data) :])[0])
    return read and read[0]


def greets(data: bytes) -> bool:
    """Whether bytes begin with a record that begins with a ServerHello."""
    return data[:2] == b"\x16\x03" and data[5:6] == bytes((_SERVER_HELLO,))


def answers(data: bytes) -> bool:
    """Whether bytes from a server may begin its answer: a record of the handshake, or a warning before it."""
    return b"\x16\x03".startswith(data[:2]) or _after_warnings(data) > 0


def _server_hello(stream: bytes) -> tuple[Certificate, int] | None:
    """(what the ServerHello says, where its message ends), None if more bytes are needed."""
    body = message_body(stream, 0, _SERVER_HELLO, "a ServerHello")
    if body is None:
        return None
    length = len(body)
    # Drafts of TLS 1.3 up to the 21st had neither a session's id nor a compression method (draft-ietf-tls-tls13-21 4.1.3).
    draft = body.startswith(_DRAFTS)
    at = _SESSION_ID if draft else _after_session_id(body, "ServerHello")
    if at + 3 > length:
        raise Malformed(f"the ServerHello of {length} bytes ends within its cipher suite")
    (version,), (cipher,) = _U16.unpack_from(body), _U16.unpack_from(body, at)
    _, found = _extensions(body, at + (2 if draft else 3), "ServerHello")
    if span := found.get(_SUPPORTED_VERSIONS):
        if span[1] - span[0] != 2:
            raise Malformed(
                f"supported_versions at byte {span[0]} of the ServerHello has {span[1] - span[0]} bytes, not 2"
            )
        (version,) = _U16.unpack_from(body, span[0])
    return Certificate(_version(version), cipher, "hidden" if version >= _TLS13 else "none"), 4 + length


def _after_warnings(data: bytes) -> int:
    """Where alerts that end nothing (RFC 5246 7.2) are over: some servers say in one that they do not know the name (RFC 6066 3), and go on."""
    at = 0
    while (head := data[at : at + 6]) and b"\x15\x03".startswith(head[:2]) and _WARNING.startswith(head[3:]):
        at += 7
    return at


def _first_certificate(stream: bytes, at: int) -> bytes | None:
    """The first certificate of the Certificate message at `at`, empty if there is none; None if more bytes are needed.

    The message begins with four bytes of header, then have the chain and each certificate a length of three.
    """
    if len(stream) < at + 7:
        return None
    message, chain = int.from_bytes(stream[at + 1 : at + 4]), int.from_bytes(stream[at + 4 : at + 7])
    if not chain and message == 3:
        return b""
    if len(stream) < at + 10:
        return None
    length = int.from_bytes(stream[at + 7 : at + 10])
    if chain + 3 != message or length + 3 > chain:
        raise Malformed(
            f"lengths of the Certificate message disagree: message {message}, chain {chain}, first certificate {length} bytes"
        )
    if length > LONGEST:
        raise Malformed(f"a certificate of {length} bytes; more than {LONGEST} are not read")
    der = stream[at + 10 : at + 10 + length]
    return der if len(der) == length else None


def _highest(versions: tuple[int, ...], legacy: int) -> str:
    offered = [version for version in versions if version not in GREASE] or [legacy]
    return _version(max([version for version in offered if version in VERSIONS] or offered))


def _version(number: int) -> str:
    return VERSIONS.get(number) or f"0x{number:04x}"


def _after_session_id(body: bytes, message: str) -> int:
    """Where a hello goes on after its session's id."""
    if len(body) <= _SESSION_ID:
        raise Malformed(f"a {message} of {len(body)} bytes, which is too short for one")
    if (size := body[_SESSION_ID]) > _LONGEST_SESSION_ID:
        raise Malformed(f"the session's id in the {message} has {size} bytes; up to {_LONGEST_SESSION_ID} are allowed")
    return _SESSION_ID + 1 + size


def _extensions(body: bytes, at: int, message: str) -> tuple[tuple[int, ...], dict[int, tuple[int, int]]]:
    """(all types, where the content of those that are read begins and ends). There may be none at all."""
    end = len(body)
    kinds: list[int] = []
    found: dict[int, tuple[int, int]] = {}
    if at == end:
        return (), found
    if at + 2 > end or at + 2 + _U16.unpack_from(body, at)[0] != end:
        raise Malformed(
            f"the length of the extensions at byte {at} of the {message} does not end where the message does, at {end}"
        )
    at += 2
    unpack = _EXTENSION.unpack_from
    while at + 4 <= end:
        kind, length = unpack(body, at)
        at += 4
        kinds.append(kind)
        if kind in _READ and kind not in found:
            found[kind] = (at, at + length)
        at += length
    if at != end:
        raise Malformed(f"the {message}'s last extension ends at byte {at}, the message at {end}")
    return tuple(kinds), found


def _numbers(
    body: bytes, at: int, end: int, what: str, *, width: int, whole: bool = False
) -> tuple[tuple[int, ...], int]:
    """(numbers of 16 bits after a length of `width` bytes, where they end); `whole`: which has to be `end`."""
    start = at + width
    length = int.from_bytes(body[at:start])
    stop = start + length
    if start > end or stop > end or length & 1 or (whole and stop != end):
        raise Malformed(
            f"the list of {what} at byte {at} of the ClientHello says {length} bytes and has {max(end - start, 0)}"
        )
    return struct.unpack_from(f"!{length >> 1}H", body, start), stop


def _formats(body: bytes, at: int, end: int) -> tuple[int, ...]:
    if at == end or at + 1 + body[at] != end:
        raise Malformed(f"ec_point_formats at byte {at} of the ClientHello is not as long as it says")
    return tuple(body[at + 1 : end])


def _protocols(body: bytes, at: int, end: int) -> tuple[bytes, ...]:
    names: list[bytes] = []
    start = at
    if at + 2 <= end and at + 2 + _U16.unpack_from(body, at)[0] == end:
        at += 2
        while at < end:
            names.append(body[at + 1 : at + 1 + body[at]])
            at += 1 + body[at]
    if at != end:
        raise Malformed(f"ALPN at byte {start} of the ClientHello is not as long as it says")
    return tuple(names)


def _server_name(body: bytes, at: int, end: int) -> bytes:
    """The first host name, empty if there are only names of other types, of which none was ever defined."""
    start = at
    name = b""
    if at + 2 <= end and at + 2 + _U16.unpack_from(body, at)[0] == end:
        at += 2
        while at + 3 <= end:
            kind, length = body[at], _U16.unpack_from(body, at + 1)[0]
            at += 3
            if not kind and not name:
                name = body[at : at + length]
            at += length
    if at != end:
        raise Malformed(f"server_name at byte {start} of the ClientHello is not as long as it says")
    return name
