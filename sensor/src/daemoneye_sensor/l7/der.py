"""Whose certificate it is and who issued it, out of a certificate's DER bytes.

Responsible for the way to the two names (RFC 5280 4.1) and their text (RFC 4514). Not for keys, extensions, signatures or trust: nothing is
verified. Libraries refuse certificates that are odd, and those are the ones worth a look; here, what cannot be read is an empty text.
"""

from __future__ import annotations

from typing import Final

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OID: Final = 0x06
_INTEGER: Final = 0x02
_VERSION: Final = 0xA0
_ENCODINGS: Final = {
    12: "utf-8", 18: "ascii", 19: "ascii", 20: "latin-1", 22: "ascii", 26: "ascii", 28: "utf-32-be", 30: "utf-16-be",
}  # fmt: skip
"""Of UTF8String, NumericString, PrintableString, TeletexString (as everybody used it), IA5String, VisibleString, UniversalString, BMPString."""
_KINDS: Final = {
    bytes.fromhex(oid): kind
    for oid, kind in (
        # RFC 4514 3
        ("550403", "CN"), ("550407", "L"), ("550408", "ST"), ("55040a", "O"), ("55040b", "OU"), ("550406", "C"), ("550409", "STREET"),
        ("0992268993f22c640119", "DC"), ("0992268993f22c640101", "UID"),
        # others that are registered for LDAP (RFC 4519), or that everybody writes so
        ("550404", "SN"), ("550405", "serialNumber"), ("55040c", "title"), ("55040d", "description"), ("55040f", "businessCategory"),
        ("550411", "postalCode"), ("55042a", "GN"), ("55042b", "initials"), ("55042e", "dnQualifier"), ("550461", "organizationIdentifier"),
        ("2a864886f70d010901", "emailAddress"), ("2b0601040182373c020101", "jurisdictionL"), ("2b0601040182373c020102", "jurisdictionST"),
        ("2b0601040182373c020103", "jurisdictionC"),
    )
}  # fmt: skip
_ESCAPES: Final = str.maketrans(
    {c: "\\" + c for c in '"+,;<>\\'} | {chr(code): f"\\{code:02X}" for code in (*range(32), 127)}
)


class _OddError(Exception):
    """Not the DER that was expected."""


def names(certificate: bytes) -> tuple[str, str]:
    """(subject, issuer) of a certificate as RFC 4514 text, most specific part first; a name that cannot be read is empty."""
    try:
        at, end = _element(certificate, *_element(certificate, 0, len(certificate), _SEQUENCE), _SEQUENCE)
        if certificate[at : at + 1] == b"\xa0":
            _, at = _element(certificate, at, end, _VERSION)
        _, at = _element(certificate, at, end, _INTEGER)
        _, at = _element(certificate, at, end, _SEQUENCE)  # the signature's algorithm
        issuer = _element(certificate, at, end, _SEQUENCE)
        _, at = _element(certificate, issuer[1], end, _SEQUENCE)  # when it is valid
        subject = _element(certificate, at, end, _SEQUENCE)
    except _OddError:
        return "", ""
    return _text(certificate, *subject), _text(certificate, *issuer)


def _element(data: bytes, at: int, end: int, wanted: int) -> tuple[int, int]:
    """(start, end) of the content of the element at `at`, which has to be of a tag and to end by `end`."""
    kind, start, stop = _any_element(data, at, end)
    if kind != wanted:
        raise _OddError
    return start, stop


def _any_element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """(tag, start, end) of the element at `at`. Lengths are definite, as DER has them, and may be longer than needed, as it has not."""
    if at + 2 > end:
        raise _OddError
    length = data[at + 1]
    start = at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 0 < size <= 4 or start + size > end:
            raise _OddError
        length = int.from_bytes(data[start : start + size])
        start += size
    if start + length > end:
        raise _OddError
    return data[at], start, start + length


def _text(data: bytes, at: int, end: int) -> str:
    """A Name's text: its parts from the last to the first (RFC 4514 2.1)."""
    parts: list[str] = []
    try:
        while at < end:
            start, stop = _element(data, at, end, _SET)
            attributes: list[str] = []
            while start < stop:
                inner, inner_end = _element(data, start, stop, _SEQUENCE)
                oid, oid_end = _element(data, inner, inner_end, _OID)
                attributes.append(_attribute(data[oid:oid_end], data, oid_end, inner_end))
                start = inner_end
            parts.append("+".join(attributes))
            at = stop
    except _OddError:
        return ""
    return ",".join(reversed(parts))


def _attribute(oid: bytes, data: bytes, at: int, end: int) -> str:
    """One kind=value. Where the kind has no name or the value no text, the value is its bytes (RFC 4514 2.4)."""
    tag, start, stop = _any_element(data, at, end)
    if (kind := _KINDS.get(oid)) and (encoding := _ENCODINGS.get(tag)):
        try:
            return f"{kind}={_escaped(data[start:stop].decode(encoding))}"
        except UnicodeDecodeError:
            pass
    return f"{kind or _dotted(oid)}=#{data[at:stop].hex()}"


def _escaped(value: str) -> str:
    r"""RFC 4514 2.4; control characters become \XX too, which it allows."""
    text = value.translate(_ESCAPES)
    if value.endswith(" "):
        text = text[:-1] + "\\ "
    return "\\" + text if value.startswith(("#", " ")) and value != " " else text


def _dotted(oid: bytes) -> str:
    """An object identifier's numbers (X.690 8.19)."""
    numbers: list[int] = []
    number = 0
    for byte in oid[:64]:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        return "0"
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))
