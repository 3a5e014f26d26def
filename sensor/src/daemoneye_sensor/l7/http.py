r"""Heads of HTTP/1 requests and responses: the first line and the few headers that are told.

Responsible for RFC 9112's syntax as clients and servers really send it. Not for bodies, nor for joining a response with its request; and
not for HTTP/2 and 3. No header but Host, User-Agent, Server, Content-Type and those that say where the body ends is ever read, and URIs lose
their secrets (:mod:`daemoneye_sensor.l7.redact`) unless told otherwise. Text is UTF-8; other bytes become \xNN.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from daemoneye.escape import decode
from daemoneye_sensor.l7 import redact as redacted
from daemoneye_sensor.l7.errors import Malformed

HEAD: Final = 65_536
"""Longest head in bytes, first line and headers; servers take 8 to 64 KiB."""

METHODS: Final = tuple(
    method + b" "
    for method in (
        b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND", b"PROPPATCH", b"MKCOL", b"COPY",
        b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"SEARCH", b"MKCALENDAR", b"MKACTIVITY", b"CHECKOUT", b"MERGE", b"BIND", b"REBIND", b"UNBIND",
        b"ACL", b"LINK", b"UNLINK", b"PURGE", b"SUBSCRIBE", b"UNSUBSCRIBE", b"NOTIFY", b"M-SEARCH", b"SOURCE", b"QUERY",
    )
)  # fmt: skip
BEGINNINGS: Final = frozenset({b"HTTP", *(method[:4] for method in METHODS)})
"""Four bytes that requests and responses begin with: no more is compared where many segments are."""
_LONGEST_METHOD: Final = max(map(len, METHODS))
_BEGINNING: Final = 3
_BEGINNINGS: Final = frozenset(method[:_BEGINNING] for method in METHODS)
_VERSIONS: Final = {b"HTTP/1.%d" % minor: f"1.{minor}" for minor in range(10)}
"""Those that nobody has heard of are read like 1.1 (RFC 9110 2.5)."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^`|~\w-]{1,32}")  # RFC 9110 5.6.2
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,31}://([^/?#]*)")
_REQUEST_HEADERS: Final = re.compile(
    rb"\n(?:[ \t]|(host|user-agent|content-length|transfer-encoding)([ \t]*):([^\n]*))", re.IGNORECASE
)
_RESPONSE_HEADERS: Final = re.compile(
    rb"\n(?:[ \t]|(server|content-type|content-length|transfer-encoding)([ \t]*):([^\n]*))", re.IGNORECASE
)
"""Name, blanks and value of the headers that are read; an empty name where a line goes on with the one before."""
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_CHUNK: Final = re.compile(rb"(?:\r?\n)?((?=[0-9A-Fa-f])0*+[0-9A-Fa-f]{0,15})[ \t]*+(?:;[^\n]*+|\r)?\n")
_TRAILERS: Final = re.compile(rb"(?:[^\r\n][^\n]*+\n)*+\r?\n")
_BLANK: Final = b" \t\r"


class Request(NamedTuple):
    """Head of a request.

    Attributes:
        method: As sent.
        host: Authority of an absolute or CONNECT target, else the first Host header, without userinfo; empty if there is none.
        uri: Path and query as sent, "*" of OPTIONS; empty for CONNECT.
        version: "1.1" or "1.0"; another minor version as sent.
        user_agent: First User-Agent; empty if there is none.
        content_length: Bytes of the body; None if there is no such header, or none that is a number.
        oddities: What is unusual: see `ODDITIES`.
        size: Bytes of the head with the empty line; a body or the next request follows.
        encoded: Whether Transfer-Encoding says where the body ends, whatever its length is said to be (RFC 9112 6.3).
    """

    method: str
    host: str
    uri: str
    version: str
    user_agent: str
    content_length: int | None
    oddities: tuple[str, ...]
    size: int
    encoded: bool = False


class Response(NamedTuple):
    """Head of a response.

    Attributes:
        status: 100 to 999.
        version: "1.1" or "1.0"; another minor version as sent.
        reason: Reason phrase, often empty.
        server: First Server header; empty if there is none.
        content_type: First Content-Type with its parameters; empty if there is none.
        content_length: Bytes of the body; None if there is no such header, or none that is a number.
        oddities: What is unusual: see `ODDITIES`.
        size: Bytes of the head with the empty line.
        encoded: Whether Transfer-Encoding says where the body ends.
    """

    status: int
    version: str
    reason: str
    server: str
    content_type: str
    content_length: int | None
    oddities: tuple[str, ...]
    size: int
    encoded: bool = False


ODDITIES: Final = {
    "absolute_form": "the target is a whole URI, as proxies are asked",
    "bare_cr": "a carriage return without a line feed (RFC 9112 2.2)",
    "bare_lf": "a line that ends with a line feed alone (RFC 9112 2.2)",
    "bad_content_length": "Content-Length is no number",
    "blank_before_colon": "blanks between a header's name and its colon (RFC 9112 5.1)",
    "content_length_differs": "more than one Content-Length, not the same (RFC 9112 6.3)",
    "duplicate_host": "more than one Host (RFC 9112 3.2)",
    "folded": "a header goes on in the next line (RFC 9112 5.2)",
    "host_differs": "an absolute target names another host than the Host header",
    "length_and_encoding": "both Content-Length and Transfer-Encoding (RFC 9112 6.1)",
    "no_host": "a request of HTTP/1.1 without Host (RFC 9112 3.2)",
}
"""What is unusual about a head, and mostly is where two parsers may disagree about it."""


def looks_like_request(data: bytes) -> bool:
    """Whether bytes begin with a method that is in use and a blank, or are themselves the beginning of that."""
    if data[:_BEGINNING] not in _BEGINNINGS and len(data) >= _BEGINNING and data[0] not in b"\r\n":
        return False  # the usual case of other protocols
    head = data[: _LONGEST_METHOD + 4].lstrip(b"\r\n")
    if head.startswith(METHODS):
        return not head.startswith(b"CONNECT {")  # NATS begins like that, and so would every sensor's own connection
    return 0 < len(head) < _LONGEST_METHOD and any(method.startswith(head) for method in METHODS)


def looks_like_response(data: bytes) -> bool:
    """Whether bytes begin with HTTP/1's version, or are themselves the beginning of that."""
    return bool(data) and b"HTTP/1.".startswith(data[:7])


def request(data: bytes, *, redact: bool = True) -> Request | None:
    """Parse the head of the request that bytes begin with (RFC 9112 2, 3).

    Args:
        data: What a client sent, from the beginning of a request on; empty lines before it are passed over (RFC 9112 2.2).
        redact: Take secrets out of URI and host.

    Returns:
        The head, or None if it is not complete yet.

    Raises:
        Malformed: It is none, or longer than `HEAD`.
    """
    start = _first_line(data)
    end = _end(data, start)
    if not end:
        _may_become_request(data, start)
        return None
    line_end = data.find(b"\n", start)
    method, _, rest = data[start:line_end].partition(b" ")
    target, _, version = rest.rstrip(_BLANK).rpartition(b" ")
    target = target.strip(_BLANK)
    text = _VERSIONS.get(version)
    if text is None or not target or not _TOKEN.fullmatch(method):
        raise Malformed("HTTP: the first line is no request line of HTTP/1: method, target, HTTP/1.x")
    first, odd = _headers(data[line_end:end], _REQUEST_HEADERS)
    _note_lines(data[start:end], odd)
    host = first.get(b"host", b"")
    if b"host" not in first and text != "1.0":
        odd.append("no_host")
    if target[0] == 0x2F or target == b"*":  # "/"
        uri = target
    elif method == b"CONNECT":
        host, uri = target, b""
    else:
        host, uri = _absolute(target, host, odd)
    shown, name = decode(uri), decode(host)
    if "@" in name:
        name = redacted.host(name) if redact else name
    return Request(
        method.decode("ascii"),
        name,
        redacted.uri(shown) if redact else shown,
        text,
        decode(first.get(b"user-agent", b"")),
        _length(first, odd),
        tuple(dict.fromkeys(odd)) if odd else (),
        end,
        b"transfer-encoding" in first,
    )


def response(data: bytes) -> Response | None:
    """Parse the head of the response that bytes begin with (RFC 9112 4).

    Returns:
        The head, or None if it is not complete yet.

    Raises:
        Malformed: It is none, or longer than `HEAD`.
    """
    start = _first_line(data)
    if start < len(data) and not looks_like_response(data[start : start + 7]):
        raise Malformed("HTTP: no response of HTTP/1: it does not begin with HTTP/1.x")
    end = _end(data, start)
    if not end:
        return None
    line_end = data.find(b"\n", start)
    version, _, rest = data[start:line_end].rstrip(_BLANK).partition(b" ")
    status, _, reason = rest.strip(_BLANK).partition(b" ")
    text = _VERSIONS.get(version)
    if text is None or len(status) != 3 or not status.isdigit() or status[0] == 0x30:  # "0"
        raise Malformed("HTTP: the first line is no status line of HTTP/1: HTTP/1.x, three digits, reason")
    first, odd = _headers(data[line_end:end], _RESPONSE_HEADERS)
    _note_lines(data[start:end], odd)
    return Response(
        int(status),
        text,
        decode(reason),
        decode(first.get(b"server", b"")),
        decode(first.get(b"content-type", b"")),
        _length(first, odd),
        tuple(dict.fromkeys(odd)) if odd else (),
        end,
        b"transfer-encoding" in first,
    )


def body_size(data: bytes, head: Request | Response) -> int | None:
    """Bytes of the body behind a head; None where only what is not in `data` could say it.

    Args:
        data: What is there of the body and behind it.
        head: Its head. Of a response without a length the body ends with the connection; whether there is one at all, says the request.
    """
    if head.encoded:
        return _chunks(data)
    if head.content_length is None and isinstance(head, Response):
        return None
    return head.content_length or 0


def _chunks(data: bytes) -> int | None:
    """Bytes that a chunked body takes with its trailers (RFC 9112 7.1); None if it does not end in `data`."""
    at = 0
    while found := _CHUNK.match(data, at):
        at = found.end() + int(found[1], 16)
        if at == found.end():
            end = _TRAILERS.match(data, at)
            return end.end() if end else None
    return None


def _first_line(data: bytes) -> int:
    if data[:1] not in {b"\r", b"\n"}:
        return 0
    return len(data) - len(data.lstrip(b"\r\n"))


def _end(data: bytes, start: int) -> int:
    """Find where the head ends, behind the empty line; 0 if it does not yet."""
    last = start + HEAD
    crlf = data.find(b"\n\r\n", start, last)
    bare = data.find(b"\n\n", start, crlf if crlf >= 0 else last)
    if bare >= 0:
        return bare + 2
    if crlf >= 0:
        return crlf + 3
    if len(data) >= last:
        raise Malformed(f"HTTP: no empty line ends the head within {HEAD} bytes")
    return 0


def _may_become_request(data: bytes, start: int) -> None:
    """Refuse what no more bytes can make a request.

    Raises:
        Malformed: The first line, as far as it is there, is none.
    """
    line_end = data.find(b"\n", start)
    line = data[start : line_end if line_end >= 0 else len(data)]
    method, blank, rest = line.partition(b" ")
    if line and not _TOKEN.fullmatch(method):
        raise Malformed("HTTP: no request of HTTP/1: it does not begin with a method")
    if line_end >= 0 and not (blank and rest.rstrip(_BLANK).endswith(tuple(_VERSIONS))):
        raise Malformed("HTTP: the first line is no request line of HTTP/1: method, target, HTTP/1.x")


def _headers(head: bytes, wanted: re.Pattern[bytes]) -> tuple[dict[bytes, bytes], list[str]]:
    """Give the first header of each wanted name, lower case, and what is odd about any of them; each has the line feed before it."""
    found = wanted.findall(head)
    odd: list[str] = []
    if (b"", b"", b"") in found:
        odd.append("folded")
        found = wanted.findall(_FOLD.sub(b" ", head))
    first: dict[bytes, bytes] = {}
    for spelt, blanks, raw in found:
        name = spelt.lower()
        value = raw.strip(_BLANK)
        if blanks:
            odd.append("blank_before_colon")
        if name not in first:
            first[name] = value
        elif name == b"host":
            odd.append("duplicate_host")
        elif name == b"content-length" and value != first[name]:
            odd.append("content_length_differs")
    return first, odd


def _note_lines(head: bytes, odd: list[str]) -> None:
    """Note lines that end in another way than by CR LF."""
    rest = head.replace(b"\r\n", b"")
    if b"\n" in rest:
        odd.append("bare_lf")
    if b"\r" in rest:
        odd.append("bare_cr")


def _absolute(target: bytes, header: bytes, odd: list[str]) -> tuple[bytes, bytes]:
    """Give host, and path and query, of a target that is a whole URI (RFC 9112 3.2.2): its authority counts, not the Host header."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return header, target
    odd.append("absolute_form")
    host = found[1].rpartition(b"@")[2]
    if header and header.lower() != host.lower():
        odd.append("host_differs")
    rest = target[found.end() :]
    return host, rest if rest.startswith(b"/") else b"/" + rest


def _length(first: dict[bytes, bytes], odd: list[str]) -> int | None:
    raw = first.get(b"content-length")
    if raw is None:
        return None
    if b"transfer-encoding" in first:
        odd.append("length_and_encoding")
    if raw.isdigit() and len(digits := raw.lstrip(b"0")) <= 18:  # fits 63 bits
        return int(digits or b"0")
    odd.append("bad_content_length")
    return None
