"""DNS messages as the wire has them: over UDP, over TCP in frames, and multicast.

Responsible for header, first question, answers and EDNS (RFC 1035 4, RFC 6891, RFC 6762); names are :mod:`daemoneye_sensor.l7.dnsname`'s, the
text of data :mod:`daemoneye_sensor.l7.dnsdata`'s. Not for which packets are DNS, nor for joining an answer with its question.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from socket import inet_ntoa
from typing import Final, NamedTuple

from daemoneye_sensor.l7.dnsdata import data_text
from daemoneye_sensor.l7.dnsname import CutOffError, Names, read, text
from daemoneye_sensor.l7.errors import Malformed

ANSWERS: Final = 64
"""Answers of a message that are kept; `Message.answer_count` tells how many there are."""

_HEADER: Final = struct.Struct("!6H")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_FIRST: Final = 12
"""Where the first question begins."""
_LONGEST: Final = 65_535
_CLASS_MASK: Final = 0x7FFF
_OPT: Final = 41

_OPCODES: Final = {0: "QUERY", 1: "IQUERY", 2: "STATUS", 4: "NOTIFY", 5: "UPDATE", 6: "DSO"}
_RCODES: Final = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH",
    10: "NOTZONE", 11: "DSOTYPENI", 16: "BADVERS", 17: "BADKEY", 18: "BADTIME", 19: "BADMODE", 20: "BADNAME", 21: "BADALG", 22: "BADTRUNC",
    23: "BADCOOKIE",
}  # fmt: skip
_TYPES: Final = {
    1: "A", 2: "NS", 3: "MD", 4: "MF", 5: "CNAME", 6: "SOA", 7: "MB", 8: "MG", 9: "MR", 10: "NULL", 11: "WKS", 12: "PTR", 13: "HINFO", 14: "MINFO",
    15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB", 19: "X25", 20: "ISDN", 21: "RT", 22: "NSAP", 23: "NSAP-PTR", 24: "SIG", 25: "KEY", 26: "PX",
    27: "GPOS", 28: "AAAA", 29: "LOC", 30: "NXT", 31: "EID", 32: "NIMLOC", 33: "SRV", 34: "ATMA", 35: "NAPTR", 36: "KX", 37: "CERT", 38: "A6",
    39: "DNAME", 40: "SINK", 41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 49: "DHCID",
    50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 56: "NINFO", 57: "RKEY", 58: "TALINK", 59: "CDS", 60: "CDNSKEY",
    61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 66: "DSYNC", 67: "HHIT", 68: "BRID", 99: "SPF", 100: "UINFO", 101: "UID",
    102: "GID", 103: "UNSPEC", 104: "NID", 105: "L32", 106: "L64", 107: "LP", 108: "EUI48", 109: "EUI64", 128: "NXNAME", 249: "TKEY", 250: "TSIG",
    251: "IXFR", 252: "AXFR", 253: "MAILB", 254: "MAILA", 255: "ANY", 256: "URI", 257: "CAA", 258: "AVC", 259: "DOA", 260: "AMTRELAY",
    261: "RESINFO", 262: "WALLET", 263: "CLA", 264: "IPN", 32768: "TA", 32769: "DLV",
}  # fmt: skip


class Message(NamedTuple):
    r"""A message. Names are text without the dot at the end, "." for the root, case as sent; bytes that are no printable ASCII as \DDD.

    Attributes:
        id: The transaction's id; 0 in multicast DNS.
        response: Whether it is a response (QR).
        opcode: IANA's name, OPCODE<n> if it has none. For UPDATE the "question" is the zone, the "answers" are the prerequisites (RFC 2136 2).
        rcode: IANA's name with EDNS's upper bits (RFC 6891 6.1.3), RCODE<n> if it has none; NOERROR in queries.
        query: Name of the first question, empty if there is none: responses of multicast DNS have none.
        type: Its type, TYPE<n> for those without a name (RFC 3597 5); empty without a question.
        questions: How many questions the header announces.
        answers: Data of the answers as text, in their order: the first `ANSWERS` that are there.
        ttls: Their times to live, seconds.
        answer_count: How many answers the header announces.
        truncated: The sender left something out (TC).
        edns: The sender's UDP payload size by EDNS, bytes; None without EDNS, or if its record was cut off.
        partial: The bytes ended before what the header announces; what was before the end is here.
    """

    id: int
    response: bool
    opcode: str
    rcode: str
    query: str
    type: str
    questions: int
    answers: tuple[str, ...]
    ttls: tuple[int, ...]
    answer_count: int
    truncated: bool
    edns: int | None
    partial: bool


def parse(message: bytes, *, whole: bool = False, answers: bool = True) -> Message:
    """Parse one message (RFC 1035 4.1): a UDP payload, or a frame of TCP.

    Bytes behind the last record are ignored, as resolvers do.

    Args:
        message: Its bytes, the header first.
        whole: The capture cut nothing off. A message without TC that ends early is then wrong, else it is `partial`.
        answers: Read the answers' data; without it `answers` and `ttls` are empty.

    Raises:
        Malformed: Header or first question are incomplete, the counts cannot be true, or a name is not well formed.
    """
    if len(message) < _FIRST:
        raise Malformed(f"DNS: {len(message)} bytes, the header has {_FIRST}")
    ident, flags, questions, count, authorities, additionals = _HEADER.unpack_from(message)
    least = _FIRST + 5 * questions + 11 * (count + authorities + additionals)
    if least > _LONGEST:
        raise Malformed(f"DNS: what the header counts takes at least {least} bytes, a message has at most {_LONGEST}")
    names: Names = {}
    shown: list[str] = []
    ttls: list[int] = []
    question, at = _first_question(message, names) if questions else (("", ""), _FIRST)
    rcode = flags & 0x0F
    edns: int | None = None
    partial = False
    try:
        for _ in range(questions - 1):
            at = read(message, at, len(message), names)[1] + _QUESTION.size
        if at > len(message):
            raise CutOffError
        if count:
            at = _answers(message, at, count, names, shown, ttls) if answers else _skip(message, at, count, names)
        if authorities:
            at = _skip(message, at, authorities, names)
        for _ in range(additionals):
            rrtype, rrclass, ttl, _start, at = _head(message, at, names)
            if rrtype == _OPT and edns is None:  # RFC 6891 6.1.2, 6.1.3: its class and TTL are something else
                edns = rrclass
                rcode |= ttl >> 20 & 0xFF0
    except CutOffError:
        partial = True
    truncated = flags & 0x0200 != 0
    if partial and whole and not truncated:
        raise Malformed(f"DNS: {len(message)} bytes end before the records that the header counts")
    opcode = flags >> 11 & 0x0F
    return Message(
        ident,
        flags >= 0x8000,
        _OPCODES.get(opcode) or f"OPCODE{opcode}",
        _RCODES.get(rcode) or f"RCODE{rcode}",
        *question,
        questions,
        tuple(shown),
        tuple(ttls),
        count,
        truncated,
        edns,
        partial,
    )


def frames(data: bytes) -> tuple[list[bytes], int]:
    """Take the messages out of what one side of a TCP connection sent (RFC 1035 4.2.2, RFC 7766 8).

    Args:
        data: Bytes from the beginning of a frame on.

    Returns:
        The whole messages, and how many bytes they take with their lengths; what follows is the beginning of the next.
    """
    found = []
    at = 0
    while (start := at + 2) <= len(data):
        end = start + (data[at] << 8 | data[at + 1])
        if end > len(data):
            break
        found.append(data[start:end])
        at = end
    return found, at


def type_name(number: int) -> str:
    """IANA's name of a record's type, TYPE<n> for those without (RFC 3597 5)."""
    return _TYPES.get(number) or f"TYPE{number}"


def _first_question(message: bytes, names: Names) -> tuple[tuple[str, str], int]:
    end = message.find(0, _FIRST) + 5
    if end >= 5 + _FIRST and end <= len(message):
        raw = message[_FIRST:end]
        try:
            question = _question(raw)
        except Malformed:
            pass  # a zero byte within a label, or truly wrong: read byte by byte, which says what
        else:
            names[_FIRST] = raw[:-5]
            return question, end
    try:
        labels, at = read(message, _FIRST, len(message), names)
    except CutOffError:
        at = len(message)
        labels = b""
    if at + _QUESTION.size > len(message):
        raise Malformed(f"DNS: the question does not end within {len(message)} bytes")
    rrtype, _class = _QUESTION.unpack_from(message, at)
    return (text(labels), type_name(rrtype)), at + _QUESTION.size


@lru_cache(maxsize=4096)
def _question(raw: bytes) -> tuple[str, str]:
    """Give name and type of a question whose name is not compressed: the same ones come again and again."""
    rrtype, _class = _QUESTION.unpack_from(raw, len(raw) - 4)
    return text.__wrapped__(raw[:-5]), type_name(rrtype)  # one memory of it is enough


def _head(message: bytes, at: int, names: Names) -> tuple[int, int, int, int, int]:
    """Read what every record begins with: type, class, TTL, and where its data begins and ends."""
    if message[at : at + 2] == b"\xc0\x0c" and _FIRST in names:  # the question's name: nearly always
        at += 2
    else:
        at = read(message, at, len(message), names)[1]
    start = at + _RECORD.size
    if start > len(message):
        raise CutOffError
    rrtype, rrclass, ttl, length = _RECORD.unpack_from(message, at)
    end = start + length
    if end > len(message):
        raise CutOffError
    return rrtype, rrclass, ttl, start, end


def _answers(message: bytes, at: int, count: int, names: Names, shown: list[str], ttls: list[int]) -> int:
    for _ in range(min(count, ANSWERS)):
        rrtype, rrclass, ttl, start, at = _head(message, at, names)
        if rrtype == 1 and rrclass == 1 and at - start == 4:  # A of IN: most of them
            shown.append(inet_ntoa(message[start:at]))
        else:
            shown.append(data_text(rrtype, rrclass & _CLASS_MASK, message, start, at, names))
        ttls.append(ttl if ttl < 0x8000_0000 else 0)  # RFC 2181 8
    return _skip(message, at, count - ANSWERS, names)


def _skip(message: bytes, at: int, count: int, names: Names) -> int:
    for _ in range(count):
        at = _head(message, at, names)[4]
    return at
