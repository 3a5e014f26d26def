"""The ClientHello of QUIC, out of the Initial packets of a client.

Initial packets are encrypted with keys that anybody can derive from the client's first connection ID (RFC 9001 5.2), which keeps nobody from
reading them but those who do not know the version. Responsible for versions 1 (RFC 9000, 9001), 2 (RFC 9369), the drafts since the header has its
final form (22), and those of them that Facebook's apps speak under numbers of their own (mvfst). Google's own (Q046, T051) have frames of their own.
Not for cryptography itself, which is :mod:`daemoneye_sensor.l7.initialkeys`'s, nor for the server's packets, nor for which datagrams belong together.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tls import ClientHello, handshake
from daemoneye_sensor.l7.tlsrecords import LONGEST

if TYPE_CHECKING:
    from daemoneye_sensor.l7.initialkeys import Keys

PACKETS: Final = 100
"""Initial packets that are opened in search of one ClientHello; two are usual, and 56 hold the longest that is read."""
PIECES: Final = 1_024
"""Pieces of the stream that may wait for one before them. Chrome cuts its hello into some dozens and shuffles them."""
SMALLEST: Final = 1_200
"""Bytes that a client's datagram with an Initial packet has at least (RFC 9000 14.1)."""

_LONG: Final = 0x80
_FIXED: Final = 0x40
_LONGEST_ID: Final = 20
_TAG: Final = 16
_NOT_PADDING: Final = re.compile(rb"[^\0]")
_PING, _ACK, _ACK_ECN, _CRYPTO, _CLOSE = 0x01, 0x02, 0x03, 0x06, 0x1C


def _label(name: str, length: int) -> bytes:
    """HkdfLabel of RFC 8446 7.1 without context, and the counter of RFC 5869 2.3: no output here is longer than one block."""
    label = b"tls13 " + name.encode()
    return struct.pack("!HB", length, len(label)) + label + b"\0\x01"


class _Version(NamedTuple):
    """What differs between versions: name, salt, labels of secret, key, IV and header key, types of Initial and Retry in the first byte."""

    name: str
    salt: bytes
    labels: tuple[bytes, bytes, bytes, bytes]
    initial: int
    retry: int


_CLIENT: Final = _label("client in", 32)
_LABELS: Final = (_CLIENT, _label("quic key", 16), _label("quic iv", 12), _label("quic hp", 16))
_LABELS_2: Final = (_CLIENT, _label("quicv2 key", 16), _label("quicv2 iv", 12), _label("quicv2 hp", 16))
_SALT_1: Final = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
_SALT_2: Final = bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9")
_SALT_22: Final = bytes.fromhex("7fbcdb0e7c66bbe9193a96cd21519ebd7a02644a")
_SALT_23: Final = bytes.fromhex("c3eef712c72ebb5a11a7d2432bb46365bef9f502")
_SALT_29: Final = bytes.fromhex("afbfec289993d24c9e9786f19c6111e04390a899")


def _draft(number: int, name: str = "draft") -> _Version:
    """A draft (draft-ietf-quic-tls 5.2): since the 33rd it is as version 1."""
    salt = next(
        salt for first, salt in ((33, _SALT_1), (29, _SALT_29), (23, _SALT_23), (22, _SALT_22)) if number >= first
    )
    return _Version(f"{name}-{number}", salt, _LABELS, 0x00, 0x30)


_VERSIONS: Final = {
    1: _Version("1", _SALT_1, _LABELS, 0x00, 0x30),
    0x6B3343CF: _Version("2", _SALT_2, _LABELS_2, 0x10, 0x00),
    **{0xFF000000 + number: _draft(number) for number in range(22, 35)},
    0xFACEB001: _draft(22, "mvfst"),
    0xFACEB002: _draft(27, "mvfst"),
    0xFACEB00E: _draft(27, "mvfst"),
}
NUMBERS: Final = tuple(_VERSIONS)
"""Of versions that are read, as they stand in long headers."""


def looks_like(datagram: bytes) -> bool:
    """Whether a datagram begins with a client's Initial packet of a version that is read here."""
    if len(datagram) < SMALLEST or datagram[0] & (_LONG | _FIXED) != _LONG | _FIXED or datagram[5] > _LONGEST_ID:
        return False
    version = _VERSIONS.get(int.from_bytes(datagram[1:5]))
    return version is not None and datagram[0] & 0x30 == version.initial


class _Header(NamedTuple):
    """A long header's place: version, connection ID, type, and where packet number and packet end."""

    version: _Version
    dcid: bytes
    initial: bool
    start: int
    number: int
    end: int


class Initials:
    """Initial packets of one client's attempt to connect, until its ClientHello is complete.

    It holds at most `LONGEST` bytes in order and as many that wait, and gives up after `PACKETS`; how long it is kept is the caller's affair.

    Attributes:
        dcid: The connection ID that the keys are of: the client's first, or the one that a Retry packet gave it.
        hello: The ClientHello once it is complete.
    """

    def __init__(self) -> None:
        self.dcid = b""
        self.hello: ClientHello | None = None
        self._version: _Version | None = None
        self._keys: Keys | None = None
        self._stream = bytearray()
        self._ahead: dict[int, bytes] = {}
        self._packets = 0

    @property
    def version(self) -> str:
        """The version's name: "1", "2" or "draft-29"; empty before the first packet was opened."""
        return self._version.name if self._version else ""

    def add(self, datagram: bytes) -> ClientHello | None:
        """Read a datagram from the client. Packets of other types in it are passed over, with the datagrams that have no Initial packet.

        Returns:
            The ClientHello if it is complete with this datagram or was before, else None.

        Raises:
            Malformed: The datagram is no QUIC of a known version, its Initial packet does not open with the keys of its connection ID or holds
                what is not allowed there, or bounds were reached. What was read before stays; a forged datagram spoils nothing.
        """
        at = 0
        dcid: bytes | None = None
        while self.hello is None and at < len(datagram):
            if at and not _goes_on(datagram, at):
                break
            header = _long_header(datagram, at)
            if dcid not in {None, header.dcid}:
                break  # not of this connection (RFC 9000 12.2)
            dcid = header.dcid
            at = header.end
            if header.initial:
                self._take(_frames(self._open(datagram, header)))
        return self.hello

    def _open(self, datagram: bytes, header: _Header) -> bytes:
        self._packets += 1
        if self._packets > PACKETS:
            raise Malformed(f"no ClientHello in {PACKETS} QUIC Initial packets")
        version, place = header.version, (header.start, header.number, header.end)
        if self._keys and self._version is version and (payload := self._keys.open(datagram, *place)) is not None:
            return payload
        if (self._version, self.dcid) != (version, header.dcid):
            # The first packet, or the client begins anew: after a Retry with the ID that it names (RFC 9001 5.2), or with another version.
            from daemoneye_sensor.l7.initialkeys import Keys

            keys = Keys(version.salt, version.labels, header.dcid)
            if (payload := keys.open(datagram, *place)) is not None:
                self._keys, self._version, self.dcid = keys, version, header.dcid
                self._stream.clear()
                self._ahead.clear()
                return payload
        raise Malformed(
            f"a QUIC {version.name} Initial packet that the keys of connection ID {header.dcid.hex() or 'of no bytes'} do not open:"
            " not from the client, not of its first flight, or damaged"
        )

    def _take(self, pieces: list[tuple[int, bytes]]) -> None:
        """Put pieces of the CRYPTO stream where they belong, and see whether it holds the ClientHello now."""
        stream, ahead = self._stream, self._ahead
        for offset, piece in pieces:
            if offset + len(piece) > LONGEST + 4:
                raise Malformed(
                    f"QUIC CRYPTO data up to byte {offset + len(piece)}; a ClientHello of more than {LONGEST} bytes is not read"
                )
            if offset <= len(stream):
                stream += piece[len(stream) - offset :]
            elif len(piece) > len(ahead.get(offset, b"")):
                ahead[offset] = piece
        for offset in sorted(ahead):
            if offset > len(stream):
                break
            stream += ahead.pop(offset)[len(stream) - offset :]
        if len(ahead) > PIECES or sum(map(len, ahead.values())) > LONGEST:
            raise Malformed(f"{len(ahead)} pieces of QUIC CRYPTO data wait for what comes before them")
        self.hello = handshake(bytes(stream))
        if self.hello:
            self._keys = None
            self._stream = bytearray()
            self._ahead = {}


def _goes_on(datagram: bytes, at: int) -> bool:
    """Whether another packet with a long header is coalesced at `at` (RFC 9000 12.2). A short one reaches to the end, and some pad behind packets."""
    return datagram[at] & (_LONG | _FIXED) == _LONG | _FIXED and int.from_bytes(datagram[at + 1 : at + 5]) in _VERSIONS


def _long_header(datagram: bytes, at: int) -> _Header:
    """The long header at `at` (RFC 9000 17.2). Retry and Version Negotiation reach to the end of their datagram."""
    size = len(datagram)
    first = datagram[at]
    if not first & _LONG:
        raise Malformed("no QUIC Initial packet: the datagram does not begin with a long header")
    if at + 7 > size:
        raise Malformed(f"a QUIC long header at byte {at} of a datagram of {size} bytes")
    number = int.from_bytes(datagram[at + 1 : at + 5])
    if not number:
        raise Malformed("no QUIC Initial packet: Version Negotiation, which only servers send")
    if not (version := _VERSIONS.get(number)):
        raise Malformed(f"no QUIC, or of a version that is not read: 0x{number:08x}")
    dcid_end = at + 6 + datagram[at + 5]
    scid_end = dcid_end + 1 + datagram[dcid_end] if dcid_end < size else size + 1
    if datagram[at + 5] > _LONGEST_ID or scid_end > size or datagram[dcid_end] > _LONGEST_ID:
        raise Malformed(
            f"connection IDs of the QUIC packet at byte {at} are longer than {_LONGEST_ID} bytes or than the datagram"
        )
    dcid = datagram[at + 6 : dcid_end]
    kind = first & 0x30
    if kind == version.retry:
        return _Header(version, dcid, False, at, size, size)
    place = scid_end
    if kind == version.initial:
        token, place = _varint(datagram, place)
        place += token
    length, place = _varint(datagram, place)
    end = place + length
    if end > size or length < 4 + _TAG:
        raise Malformed(
            f"the QUIC packet at byte {at} says {length} bytes after its header; {size - place} are there, {4 + _TAG} the least"
        )
    return _Header(version, dcid, kind == version.initial, at, place, end)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends) of a number of variable length (RFC 9000 16)."""
    if at < len(data):
        size = 1 << (data[at] >> 6)
        if at + size <= len(data):
            return int.from_bytes(data[at : at + size]) & (1 << 8 * size - 2) - 1, at + size
    raise Malformed(f"a QUIC number at byte {at} is cut off: there are {len(data)} bytes")


def _frames(payload: bytes) -> list[tuple[int, bytes]]:
    """(offset, data) of the CRYPTO frames of an Initial packet; the others that are allowed there say nothing (RFC 9000 12.4, 19)."""
    pieces: list[tuple[int, bytes]] = []
    at = 0
    while at < len(payload):
        kind = payload[at]
        at += 1
        if not kind:
            rest = _NOT_PADDING.search(payload, at)
            at = rest.start() if rest else len(payload)
        elif kind == _CRYPTO:
            offset, at = _varint(payload, at)
            length, at = _varint(payload, at)
            if at + length > len(payload):
                raise Malformed(f"a QUIC CRYPTO frame of {length} bytes in a packet that has {len(payload) - at} left")
            pieces.append((offset, payload[at : at + length]))
            at += length
        elif kind in {_ACK, _ACK_ECN}:
            at = _after_ack(payload, at, counts=kind == _ACK_ECN)
        elif kind == _CLOSE:
            break  # nothing that counts follows
        elif kind != _PING:
            raise Malformed(
                f"a QUIC frame of type 0x{kind:02x} at byte {at - 1} of an Initial packet, where it is not allowed"
            )
    return pieces


def _after_ack(payload: bytes, at: int, *, counts: bool) -> int:
    """Where an ACK frame ends (RFC 9000 19.3)."""
    _, at = _varint(payload, at)
    _, at = _varint(payload, at)
    ranges, at = _varint(payload, at)
    for _ in range(1 + 2 * ranges + (3 if counts else 0)):
        _, at = _varint(payload, at)
    return at
