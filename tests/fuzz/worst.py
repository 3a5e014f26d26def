"""The most expensive inputs that somebody could think of, of any size: for each target, functions of a number of bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from tests.support.handshakes import alpn, crypto, message, numbers, records, sized

Bytes = Callable[[int], bytes]


def piece(data: bytes) -> bytes:
    """As targets take pieces."""
    return sized(data[:0xFFFF])


def _dns(questions: int, answers: int, body: bytes) -> bytes:
    return struct.pack("!6H", 1, 0x8180, questions, answers, 0, 0) + body


def _pointers(size: int) -> bytes:
    """Answers whose names are a label and a pointer to the answer before."""
    wire = b"\1a\0\0\1\0\1"
    before = 12
    while len(wire) < size:
        at = 12 + len(wire)
        wire += b"\1b" + struct.pack("!H", 0xC000 | min(before, 0x3FFF)) + b"\0\1\0\1\0\0\0\0\0\4abcd"
        before = at
    return wire


def _server(size: int, *, width: int = 1 << 14) -> bytes:
    """A ServerHello full of extensions, and a certificate that begins."""
    extensions = sized(struct.pack("!HH", 0xAAAA, 0) * (size // 8))
    body = b"\3\3" + bytes(33) + b"\x13\x01\0" + extensions
    return records(b"\2" + sized(body, 3) + b"\x0b" + (size // 2).to_bytes(3) + bytes(size // 2 - 80), width)


def _name(size: int) -> bytes:
    """A certificate of which both names have as many parts as there is room for."""

    def tlv(tag: int, content: bytes) -> bytes:
        return bytes((tag, 0x84)) + sized(content, 4)

    part = tlv(0x31, tlv(0x30, b"\6\3\x55\4\3" + b"\x0c\1a"))
    name = tlv(0x30, part * (size // 2 // len(part)))
    return tlv(0x30, tlv(0x30, b"\2\1\1" + b"\x30\0" + name + b"\x30\0" + name))


def _segments(data: bytes, width: int, kind: int = 0x05) -> bytes:
    """Segments of so many bytes, for the target `inspect`."""
    sent = (
        piece(bytes((kind,)) + struct.pack("!H", 4096 + at) + data[at : at + width])
        for at in range(0, len(data), width)
    )
    return b"".join(sent)


def _blocks(size: int) -> bytes:
    """pcapng of blocks that mean nothing."""
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    return section + struct.pack("<III", 5, 12, 12) * ((size - 28) // 12)


def _frames(size: int) -> bytes:
    """pcap of frames without bytes."""
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1) + bytes(16) * ((size - 24) // 16)


WORST: Final[dict[str, dict[str, Bytes]]] = {
    "dns": {
        "pointers": lambda size: _dns(1, size // 19, _pointers(size)),
        "questions": lambda size: _dns(size // 5, 0, b"\0\0\1\0\1" * (size // 5)),
        "zeros": bytes,
        "frames of no bytes": lambda size: b"\0\0" * (size // 2),
    },
    "tls_client": {
        "ciphers": lambda size: records(message(ciphers=range(min(size // 2 - 60, 0x7FF0)))),
        "extensions": lambda size: records(message(extensions=[(0xAAAA, b"")] * (size // 4 - 20))),
        "protocols": lambda size: records(message(extensions=[alpn(*[b""] * (size - 100))])),
        "groups": lambda size: records(message(extensions=[numbers(10, range(min(size // 2 - 60, 0x7FF0)))])),
        "records of one byte": lambda size: records(message(extensions=[(21, bytes(size - 99))]), 1)[:size],
    },
    "tls_server": {"extensions": _server, "records of one byte": lambda size: _server(size // 6, width=1)[:size]},
    "der": {"parts": _name},
    "quic": {
        "frames of one byte": lambda size: b"".join(piece(b"\0" + crypto(2 * at, b"x") * 200) for at in range(size // 900)),
        "packets": lambda size: piece(b"\0\1") * (size // 4),
    },
    "http": {
        "headers": lambda size: b"GET / HTTP/1.1\r\n" + b"Host: a\r\n" * (size // 9) + b"\r\n",
        "one header": lambda size: b"GET / HTTP/1.1\r\nHost: " + b" " * size + b"\r\n\r\n",
        "folds": lambda size: b"GET / HTTP/1.1\r\nHost: a" + b"\n " * (size // 2) + b"\r\n\r\n",
        "parameters": lambda size: b"GET /?" + b"token=a&" * (size // 8) + b" HTTP/1.1\r\n\r\n",
        "percents": lambda size: b"GET /?" + b"%25" * (size // 3) + b"=a HTTP/1.1\r\n\r\n",
        "line feeds": lambda size: b"\n" * size,
        "response": lambda size: b"HTTP/1.1 200 " + b"a" * (size - 40) + b"\r\nServer: b\r\n\r\n",
    },
    "stratum": {
        "members": lambda size: b'{"id":1' + b',"id":1' * (size // 7),
        "blanks": lambda size: b'{"id":' + b" " * size,
        "brackets": lambda size: b'{"params":' + b"[" * size,
    },
    "layers": {"short frames": lambda size: b"\1" + piece(b"") * (size // 2), "frames": lambda size: b"\1" + piece(bytes(60)) * (size // 62)},
    "capturefile": {"blocks": _blocks, "frames": _frames},
    "cbpf": {
        "loads": lambda size: piece(struct.pack("!HBBI", 0x30, 0, 0, 5) * 200 + struct.pack("!HBBI", 6, 0, 0, 1)) + piece(bytes(1000)) * (size // 1002),
    },
    "inspect": {
        "a hello byte by byte": lambda size: _segments(records(message(extensions=[(21, bytes(size - 99))]), 1)[: size // 6], 1),
        "a request byte by byte": lambda size: _segments(b"GET /" + b"a" * (size // 6), 1, 0x06),
        "DNS byte by byte": lambda size: _segments(b"\xff\xff" + bytes(size // 6), 1, 0x04),
        "requests": lambda size: _segments(b"GET / HTTP/1.0\n\n" * (size // 20), 1000, 0x06),
        "beginnings": lambda size: piece(bytes((0x05, 16, 0)) + b"\x16\x03\x01\0") * (size // 9),
    },
}  # fmt: skip
