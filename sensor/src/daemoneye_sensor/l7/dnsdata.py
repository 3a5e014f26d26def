r"""Text of the data of DNS records (RFC 1035 5.1 and the RFCs of the types); what has no form here as RFC 3597 writes it: \# length hex.

So is what is not of its type: where it ends says the record, and a message is not to hide behind one bad record.
Names stand without the dot at their end. The text is for people and for comparing, not for a zone file: it is cut to `TEXT` characters.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from socket import AF_INET6, inet_ntoa, inet_ntop
from typing import Final

from daemoneye_sensor.l7.dnsname import CutOffError, Names, read, text

TEXT: Final = 1024
"""Characters of a record's text at most; what was cut ends with "…"."""
_HEX_BYTES: Final = 64
_IN: Final = 1

_PREFERENCE: Final = struct.Struct("!H")
_SERVICE: Final = struct.Struct("!HHH")
_ZONE: Final = struct.Struct("!5I")
_PARAMETER: Final = struct.Struct("!HH")

# RFC 9460 14.3.2, RFC 9461, RFC 9540.
_KEYS: Final = {0: "mandatory", 1: "alpn", 2: "no-default-alpn", 3: "port", 4: "ipv4hint", 5: "ech", 6: "ipv6hint", 7: "dohpath", 8: "ohttp"}  # fmt: skip
_QUOTED: Final = tuple(
    f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 0x20 <= byte <= 0x7E else f"\\{byte:03d}"
    for byte in range(256)
)


def data_text(rrtype: int, rrclass: int, message: bytes, at: int, end: int, names: Names) -> str:
    """Text of the data `message[at:end]` of a record.

    Args:
        rrtype: The record's type.
        rrclass: Its class without mDNS's bit; other classes than IN have other addresses (RFC 1035 3.4).
        message: The message that names in the data may point into.
        at: Where the data begins.
        end: Where it ends, within the message.
        names: What was resolved of this message; read and added to.

    Raises:
        Malformed: A name in it is not well formed (:mod:`daemoneye_sensor.l7.dnsname`).
    """
    if at == end:  # updates ask about and delete records this way (RFC 2136 2.4, 2.5)
        return "\\# 0"
    form = _FORMS.get(rrtype) or (_INTERNET.get(rrtype) if rrclass == _IN else None)
    try:
        shown = form(message, at, end, names) if form is not None else None
    except (CutOffError, struct.error, IndexError):
        shown = None
    if shown is None:
        return unknown(message, at, end)
    return shown if len(shown) <= TEXT else shown[: TEXT - 1] + "…"


def unknown(message: bytes, at: int, end: int) -> str:
    """Text of data of any type (RFC 3597 5): its true length, and the first bytes."""
    shown = message[at : min(end, at + _HEX_BYTES)].hex()
    return f"\\# {end - at} {shown}{'…' if end - at > _HEX_BYTES else ''}"


def _address(message: bytes, at: int, end: int, _: Names) -> str | None:
    return inet_ntoa(message[at:end]) if end - at == 4 else None


def _address6(message: bytes, at: int, end: int, _: Names) -> str | None:
    return inet_ntop(AF_INET6, message[at:end]) if end - at == 16 else None


def _name(message: bytes, at: int, end: int, names: Names) -> str | None:
    labels, after = read(message, at, end, names)
    return text(labels) if after == end else None


def _exchange(message: bytes, at: int, end: int, names: Names) -> str | None:
    (preference,) = _PREFERENCE.unpack(message[at : at + 2])
    host = _name(message, at + 2, end, names)
    return host and f"{preference} {host}"


def _service(message: bytes, at: int, end: int, names: Names) -> str | None:
    """Show a service's place; RFC 2782."""
    priority, weight, port = _SERVICE.unpack(message[at : at + 6])
    host = _name(message, at + 6, end, names)
    return host and f"{priority} {weight} {port} {host}"


def _start_of_authority(message: bytes, at: int, end: int, names: Names) -> str | None:
    server, at = read(message, at, end, names)
    mailbox, at = read(message, at, end, names)
    numbers = _ZONE.unpack(message[at:end])
    return " ".join([text(server), text(mailbox), *map(str, numbers)])


def _strings(message: bytes, at: int, end: int, _: Names) -> str | None:
    """Show character-strings, each in quotes; RFC 1035 3.3."""
    shown = []
    while at < end:
        start = at + 1
        at = start + message[at]
        if at <= end:
            shown.append(_quoted(message[start:at]))
    return " ".join(shown) if at == end else None


def _authorization(message: bytes, at: int, end: int, _: Names) -> str | None:
    """Show who may issue certificates; RFC 8659 4.1."""
    value = at + 2 + message[at + 1]
    tag = message[at + 2 : value]
    if value > end or not tag.isalnum():
        return None
    return f"{message[at]} {tag.decode('ascii')} {_quoted(message[value:end])}"


def _binding(message: bytes, at: int, end: int, names: Names) -> str | None:
    """Show a service's binding (RFC 9460 2.1): target and parameters; of ech and what has no short form only that they are there."""
    (priority,) = _PREFERENCE.unpack(message[at : at + 2])
    target, at = read(message, at + 2, end, names)
    shown = [str(priority), text(target)]
    while at < end:
        key, length = _PARAMETER.unpack(message[at : at + 4])
        value = message[at + 4 : at + 4 + length]
        at += 4 + length
        if at > end:
            return None
        shown.append(_parameter(key, value))
    return " ".join(shown)


def _parameter(key: int, value: bytes) -> str:
    name = _KEYS.get(key, f"key{key}")
    if key == 0:
        keys = struct.unpack(f"!{len(value) // 2}H", value)
        return f"{name}={','.join(_KEYS.get(number, f'key{number}') for number in keys)}"
    if key == 1:
        return f"{name}={_quoted(_protocols(value))}"
    if key == 3:
        return f"{name}={_PREFERENCE.unpack(value)[0]}"
    if key in {4, 6}:
        size = 4 if key == 4 else 16
        if not value or len(value) % size:
            raise CutOffError
        hints = (value[start : start + size] for start in range(0, len(value), size))
        return f"{name}={','.join(inet_ntoa(hint) if size == 4 else inet_ntop(AF_INET6, hint) for hint in hints)}"
    return name


def _protocols(value: bytes) -> bytes:
    """Join the ids of protocols by commas (RFC 9460 7.1.1); a comma within one gets a backslash."""
    found = []
    at = 0
    while at < len(value):
        start = at + 1
        at = start + value[at]
        if at > len(value):
            raise CutOffError
        found.append(value[start:at].replace(b"\\", b"\\\\").replace(b",", b"\\,"))
    return b",".join(found)


def _quoted(raw: bytes) -> str:
    if raw.isalnum():
        return f'"{raw.decode("ascii")}"'
    return f'"{"".join([_QUOTED[byte] for byte in raw[:TEXT]])}"'


_Form = Callable[[bytes, int, int, Names], str | None]
_INTERNET: Final[dict[int, _Form]] = {1: _address, 28: _address6, 33: _service, 64: _binding, 65: _binding}
"""Types of class IN alone: A, AAAA, SRV, SVCB, HTTPS."""
_FORMS: Final[dict[int, _Form]] = {
    2: _name,  # NS
    5: _name,  # CNAME
    6: _start_of_authority,
    12: _name,  # PTR
    13: _strings,  # HINFO
    15: _exchange,  # MX
    16: _strings,  # TXT
    39: _name,  # DNAME
    99: _strings,  # SPF
    257: _authorization,  # CAA
}
