"""Fingerprints of TLS clients: JA3 and JA4.

JA4 is the client's alone (FoxIO's technical_details/JA4.md, BSD-3-Clause). What FoxIO calls JA4+ (JA4S, JA4H, JA4L, JA4X, JA4SSH, JA4T and so on) is
under a licence that forbids what we do, and must not be added here. GREASE (RFC 8701) counts nowhere, in signature algorithms and ALPN neither.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import md5, sha256
from typing import Final, Literal

from daemoneye_sensor.l7.tls import GREASE, ClientHello

_NOTHING: Final = "0" * 12
_VERSIONS: Final = {
    0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2", 0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3",
}  # fmt: skip
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_CACHED: Final = 512
"""Lists that are remembered. A client sends the same ones in each hello, so that most are known."""
_CLIENTS: Final = 128
"""Whole offers that are remembered: most clients of a node send the same one in each hello."""
_LONGEST_CACHED: Final = 128
"""Numbers of a list that is remembered: nobody real sends more, and a peer must not fill our memory."""


def ja3(hello: ClientHello) -> str:
    """The JA3 fingerprint of a ClientHello: 32 hexadecimal digits (MD5)."""
    lists = hello.ciphers, hello.extensions, hello.groups, hello.point_formats
    return (_ja3 if _short(*lists) else _ja3.__wrapped__)(hello.legacy_version, *lists)


def ja3_string(hello: ClientHello) -> str:
    """What JA3 is the hash of: version, ciphers, extensions, groups, point formats, as decimal numbers."""
    return _ja3_text(hello.legacy_version, hello.ciphers, hello.extensions, hello.groups, hello.point_formats)


def ja4(hello: ClientHello, transport: Literal["t", "q", "d"]) -> str:
    """The JA4 fingerprint of a ClientHello, as in t13d1516h2_8daaf6152771_e5627efa2ab1.

    Args:
        hello: The ClientHello.
        transport: What it came over: "t" for TCP, "q" for QUIC, "d" for DTLS.
    """
    lists = hello.ciphers, hello.extensions, hello.signature_algorithms
    counts, hashes = (_offer if _short(*lists) else _offer.__wrapped__)(*lists)
    # The highest number, known or not: a client that offers drafts beside 1.3 has "00" everywhere.
    version = _VERSIONS.get(max(_real(hello.supported_versions), default=hello.legacy_version), "00")
    sni = "d" if hello.sni_seen else "i"
    return f"{transport}{version}{sni}{counts}{_alpn(hello.protocols)}_{hashes}"


@lru_cache(_CLIENTS)
def _ja3(version: int, *lists: tuple[int, ...]) -> str:
    return md5(_ja3_text(version, *lists).encode(), usedforsecurity=False).hexdigest()


def _ja3_text(
    version: int,
    ciphers: tuple[int, ...],
    extensions: tuple[int, ...],
    groups: tuple[int, ...],
    formats: tuple[int, ...],
) -> str:
    parts = _real(ciphers), _real(extensions), _real(groups), formats
    return f"{version}," + ",".join([(_decimals if _short(part) else _decimals.__wrapped__)(part) for part in parts])


@lru_cache(_CLIENTS)
def _offer(ciphers: tuple[int, ...], extensions: tuple[int, ...], algorithms: tuple[int, ...]) -> tuple[str, str]:
    """What JA4 counts of an offer, and its two hashes. Browsers give each hello another order, so these are remembered by the sorted lists as well."""
    ciphers, extensions, algorithms = _real(sorted(ciphers)), _real(sorted(extensions)), _real(algorithms)
    if _short(ciphers, extensions, algorithms):
        b, c = _cipher_hash(ciphers), _extension_hash(extensions, algorithms)
    else:
        b, c = _cipher_hash.__wrapped__(ciphers), _extension_hash.__wrapped__(extensions, algorithms)
    return f"{min(len(ciphers), 99):02d}{min(len(extensions), 99):02d}", f"{b}_{c}"


def _short(*lists: tuple[int, ...]) -> bool:
    """Whether lists are such as may be remembered."""
    return max(map(len, lists)) <= _LONGEST_CACHED


def _real(numbers: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return tuple([number for number in numbers if number not in GREASE])


@lru_cache(_CACHED)
def _decimals(numbers: tuple[int, ...]) -> str:
    return "-".join(map(str, numbers))


@lru_cache(_CACHED)
def _cipher_hash(ciphers: tuple[int, ...]) -> str:
    return _hash(_hexadecimals(ciphers)) if ciphers else _NOTHING


@lru_cache(_CACHED)
def _extension_hash(extensions: tuple[int, ...], algorithms: tuple[int, ...]) -> str:
    """Of sorted extensions without those that the fingerprint's first part tells, and algorithms in the order sent."""
    told = _hexadecimals(tuple(number for number in extensions if number not in {_SERVER_NAME, _ALPN}))
    if not told:
        return _NOTHING
    return _hash(f"{told}_{_hexadecimals(algorithms)}" if algorithms else told)


def _hexadecimals(numbers: tuple[int, ...]) -> str:
    return ",".join([f"{number:04x}" for number in numbers])


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]


def _alpn(protocols: tuple[bytes, ...]) -> str:
    """First and last character of the first protocol, of its hexadecimal digits where either is neither letter nor digit."""
    first = next((name for name in protocols if len(name) != 2 or int.from_bytes(name) not in GREASE), b"")
    if not first:
        return "00"
    text = (first[:1] + first[-1:]).decode("latin-1")
    if text.isascii() and text.isalnum():
        return text
    digits = first.hex()
    return digits[0] + digits[-1]
