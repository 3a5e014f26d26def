"""Handshakes for tests: OpenSSL's own over memory, hellos out of parts, and QUIC's Initial packets."""

from __future__ import annotations

import contextlib
import hmac
import ssl
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

GREASE = (0x0A0A, 0x7A7A, 0xFAFA)


class Peers:
    """A client and a server that talk over memory."""

    def __init__(
        self,
        client: ssl.SSLContext,
        server: ssl.SSLContext | None = None,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname=name, session=session)
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True) if server else None

    def client_flight(self) -> bytes:
        step(self.client)
        return self.to_server.read()

    def server_flight(self) -> bytes:
        """What the server sends after the client's first flight."""
        step(self.client)
        step(self.server)
        return self.to_client.read()

    def finish(self) -> ssl.SSLSession:
        for _ in range(4):
            step(self.client)
            step(self.server)
        session = self.client.session
        assert session is not None
        return session


def step(side: Any) -> None:
    """Go on as far as the other side's bytes reach, or to the alert."""
    with contextlib.suppress(ssl.SSLError):
        side.do_handshake()


def client_context(
    highest: ssl.TLSVersion | None = None, alpn: Iterable[str] = (), lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = lowest
    if highest is not None:
        context.maximum_version = highest
    if names := list(alpn):
        context.set_alpn_protocols(names)
    return context


def server_context(certificate: Path, highest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if highest is not None:
        context.maximum_version = highest
    return context


def flight(name: str | None = None, **options: Any) -> bytes:
    """What OpenSSL sends first."""
    return Peers(client_context(**options), name=name).client_flight()


def u16s(numbers: Iterable[int]) -> bytes:
    return b"".join(number.to_bytes(2) for number in numbers)


def sized(data: bytes, width: int = 2) -> bytes:
    return len(data).to_bytes(width) + data


def message(
    ciphers: Iterable[int] = (0x1301,),
    extensions: Iterable[tuple[int, bytes]] | None = (),
    version: int = 0x0303,
    session: bytes = b"",
) -> bytes:
    """A ClientHello without records; extensions None: the message ends before them."""
    body = version.to_bytes(2) + bytes(32) + sized(session, 1) + sized(u16s(ciphers)) + b"\x01\x00"
    if extensions is not None:
        body += sized(b"".join(kind.to_bytes(2) + sized(content) for kind, content in extensions))
    return b"\x01" + sized(body, 3)


def message_2(ciphers: Iterable[int] = (0x010080, 0x00002F), version: int = 0x0301, session: bytes = b"") -> bytes:
    """A ClientHello of SSL 2.0's form (RFC 5246 E.2)."""
    specs = b"".join(cipher.to_bytes(3) for cipher in ciphers)
    sizes = u16s((len(specs), len(session), 16))
    body = b"\x01" + version.to_bytes(2) + sizes + specs + session + bytes(16)
    return (0x8000 | len(body)).to_bytes(2) + body


def server_name(name: bytes) -> tuple[int, bytes]:
    return 0, sized(b"\0" + sized(name))


def alpn(*names: bytes) -> tuple[int, bytes]:
    return 16, sized(b"".join(sized(name, 1) for name in names))


def numbers(kind: int, values: Iterable[int], width: int = 2) -> tuple[int, bytes]:
    return kind, sized(u16s(values), width)


def records(data: bytes, size: int = 1 << 14, kind: int = 22) -> bytes:
    """Records of at most `size` bytes each."""
    return b"".join(
        struct.pack("!BH", kind, 0x0301) + sized(data[at : at + size]) for at in range(0, max(len(data), 1), size)
    )


VERSIONS = {
    1: ("38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic", 0),
    0x6B3343CF: ("0dede3def700a6db819381be6e269dcbf9bd2ed9", "quicv2", 1),
    0xFF00001D: ("afbfec289993d24c9e9786f19c6111e04390a899", "quic", 0),
    0xFF000016: ("7fbcdb0e7c66bbe9193a96cd21519ebd7a02644a", "quic", 0),
    0xFF00001C: ("c3eef712c72ebb5a11a7d2432bb46365bef9f502", "quic", 0),
    0xFF000022: ("38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic", 0),
    0xFACEB002: ("c3eef712c72ebb5a11a7d2432bb46365bef9f502", "quic", 0),
}


def varint(number: int, size: int | None = None) -> bytes:
    size = size or next(n for n in (1, 2, 4, 8) if number < 1 << 8 * n - 2)
    return (number | {1: 0, 2: 1, 4: 2, 8: 3}[size] << 8 * size - 2).to_bytes(size)


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def label(secret: bytes, name: str, length: int) -> bytes:
    info = length.to_bytes(2) + sized(b"tls13 " + name.encode(), 1) + b"\0"
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def initial(
    payload: bytes,
    dcid: bytes = b"8 bytes!",
    number: int = 0,
    version: int = 1,
    *,
    token: bytes = b"",
    side: str = "client in",
    size: int = 1200,
    width: int = 4,
    first_dcid: bytes | None = None,
) -> bytes:
    """An Initial packet, padded so that the datagram has `size` bytes (RFC 9001 5); its keys are of `first_dcid` if that is not its own ID."""
    salt, prefix, kind = VERSIONS[version]
    secret = label(hmac.digest(bytes.fromhex(salt), first_dcid or dcid, "sha256"), side, 32)
    key, iv, header_key = (label(secret, f"{prefix} {name}", n) for name, n in (("key", 16), ("iv", 12), ("hp", 16)))
    header = version.to_bytes(4) + sized(dcid, 1) + b"\0" + varint(len(token)) + token
    payload = payload.ljust(max(4, size - 1 - len(header) - 2 - width - 16), b"\0")
    header = bytes((0xC0 | kind << 4 | width - 1,)) + header + varint(width + len(payload) + 16, 2)
    packet_number = number.to_bytes(width)
    nonce = (int.from_bytes(iv) ^ number).to_bytes(12)
    sealed = AESGCM(key).encrypt(nonce, payload, header + packet_number)
    packet = packet_number + sealed
    mask = Cipher(AES(header_key), ECB()).encryptor().update(packet[4:20])
    hidden = bytes(a ^ b for a, b in zip(packet_number, mask[1:], strict=False))
    return bytes((header[0] ^ mask[0] & 0x0F,)) + header[1:] + hidden + sealed


def other_long(kind: int, dcid: bytes = b"8 bytes!", version: int = 1, content: bytes = bytes(30)) -> bytes:
    """A 0-RTT (1) or Handshake (2) packet of version 1, of whose content nobody can tell anything."""
    return bytes((0xC0 | kind << 4,)) + version.to_bytes(4) + sized(dcid, 1) + b"\0" + varint(len(content)) + content
