"""Heads of HTTP/1 as clients and servers send them, in any pieces; secrets in URIs never come out."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.http import (
    HEAD,
    ODDITIES,
    Request,
    Response,
    body_size,
    looks_like_request,
    looks_like_response,
    request,
    response,
)
from daemoneye_sensor.l7.redact import MARK

GET = (
    b"GET /api/v1/orders?page=2&sort=asc HTTP/1.1\r\n"
    b"Host: shop.example.com:8080\r\n"
    b"User-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\n"
    b"Cookie: session=hunter2\r\n"
    b"Authorization: Bearer hunter2\r\n"
    b"Referer: https://x.example/?token=hunter2\r\n"
    b"\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nServer: nginx/1.25\r\nContent-Type: text/html; charset=utf-8\r\nSet-Cookie: a=hunter2\r\nContent-Length: 12\r\n\r\n"


def asked(data: bytes, *, redact: bool = True) -> Request:
    parsed = request(data, redact=redact)
    assert parsed is not None
    return parsed


def answered(data: bytes) -> Response:
    parsed = response(data)
    assert parsed is not None
    return parsed


def test_a_request() -> None:
    assert asked(GET) == Request(
        method="GET",
        host="shop.example.com:8080",
        uri="/api/v1/orders?page=2&sort=asc",
        version="1.1",
        user_agent="curl/8.5.0",
        content_length=None,
        oddities=(),
        size=len(GET),
    )


def test_a_response() -> None:
    assert answered(OK + b"Hello, world") == Response(
        status=200,
        version="1.1",
        reason="OK",
        server="nginx/1.25",
        content_type="text/html; charset=utf-8",
        content_length=12,
        oddities=(),
        size=len(OK),
    )


@pytest.mark.parametrize(("parse", "head"), [(request, GET), (response, OK)], ids=["request", "response"])
def test_in_two_pieces_at_every_byte(parse, head) -> None:
    whole = parse(head)
    for size in range(len(head)):
        assert parse(head[:size]) is None
    assert parse(head + b"\0body") == whole


def test_requests_one_behind_the_other() -> None:
    post = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    stream = GET + post + b"\r\n" + GET
    first = asked(stream)
    second = asked(stream[first.size :])
    assert (second.method, second.content_length) == ("POST", 5)
    third = asked(stream[first.size + second.size + 5 :])
    assert (third.uri, third.size) == (first.uri, len(GET) + 2), "an empty line before a request belongs to it"


@pytest.mark.parametrize(
    ("line", "host", "path"),
    [
        (b"GET / HTTP/1.1", "header.example", "/"),
        (b"GET http://proxied.example/a?b=c HTTP/1.1", "proxied.example", "/a?b=c"),
        (b"GET http://proxied.example HTTP/1.1", "proxied.example", "/"),
        (b"GET http://proxied.example?x HTTP/1.1", "proxied.example", "/?x"),
        (b"GET https://joe:hunter2@proxied.example:8443/ HTTP/1.1", "proxied.example:8443", "/"),
        (b"CONNECT db.example:5432 HTTP/1.1", "db.example:5432", ""),
        (b"CONNECT [2001:db8::1]:443 HTTP/1.1", "[2001:db8::1]:443", ""),
        (b"OPTIONS * HTTP/1.1", "header.example", "*"),
        (b"GET /a b  c HTTP/1.1", "header.example", "/a b  c"),
        (b"GET  /two-blanks  HTTP/1.1 ", "header.example", "/two-blanks"),
        (b"GET /caf\xc3\xa9/\xff HTTP/1.1", "header.example", "/café/\\xff"),
        (b"BREW /pot HTTP/1.0", "header.example", "/pot"),
        (b"GET index.html HTTP/1.1", "header.example", "index.html"),
    ],
)
def test_targets(line: bytes, host: str, path: str) -> None:
    parsed = asked(line + b"\r\nHost: header.example\r\n\r\n")
    assert (parsed.host, parsed.uri) == (host, path)


@pytest.mark.parametrize(
    ("head", "oddities"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ("duplicate_host",)),
        (b"GET / HTTP/1.1\r\n\r\n", ("no_host",)),
        (b"GET / HTTP/1.0\r\n\r\n", ()),
        (b"GET / HTTP/1.1\nHost: a\n\n", ("bare_lf",)),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", ("bare_lf",)),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", ("bare_cr",)),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", ("blank_before_colon",)),
        (b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n", ("folded",)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n more\r\n\r\n", ("folded",)),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", ("absolute_form",)),
        (b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", ("absolute_form", "host_differs")),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", ()),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n", ("content_length_differs",)),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            ("length_and_encoding",),
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", ("bad_content_length",)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", ("bad_content_length",)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", ("bad_content_length",)),
    ],
)
def test_what_two_parsers_may_disagree_about_is_told(head: bytes, oddities: tuple[str, ...]) -> None:
    parsed = asked(head)
    assert parsed.oddities == oddities
    assert set(oddities) <= set(ODDITIES)
    assert parsed.size == len(head)


def test_folded_and_doubled_headers_keep_what_came_first() -> None:
    parsed = asked(
        b"GET / HTTP/1.1\r\nHOST:\tfirst \r\nhost: second\r\nUser-Agent: one\r\n  two\r\n\tthree\r\nX-Host: no\r\n\r\n"
    )
    assert (parsed.host, parsed.user_agent) == ("first", "one two three")


def test_the_lines_end_where_the_first_empty_one_is() -> None:
    assert asked(b"GET / HTTP/1.1\nHost: a\n\nHost: b\r\n\r\n").size == 24
    parsed = asked(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHost: b\n\n")
    assert (parsed.host, parsed.oddities) == ("a", ())


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n",
        b"GET / \r\n\r\n",
        b"GET HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n",
        b"G\xc3\x89T / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"A" * 40,
        b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD,
        b"\r\n" * 100 + b"GET " + b"a" * HEAD,
    ],
)
def test_what_is_no_request(data: bytes) -> None:
    with pytest.raises(Malformed, match=r"^HTTP: "):
        request(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 000 OK\r\n\r\n",
        b"HTTP/1.01 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * HEAD,
    ],
)
def test_what_is_no_response(data: bytes) -> None:
    with pytest.raises(Malformed, match=r"^HTTP: "):
        response(data)


def test_responses_with_little_in_them() -> None:
    parsed = answered(b"HTTP/1.0 404\n\n")
    assert (parsed.status, parsed.version, parsed.reason, parsed.server, parsed.oddities) == (
        404,
        "1.0",
        "",
        "",
        ("bare_lf",),
    )
    assert answered(b"HTTP/1.1 100 Continue\r\n\r\n" + OK).size == 25
    assert answered(b"HTTP/1.1 500 N\xe3o \r\n\r\n").reason == "N\\xe3o"


def test_a_later_minor_version_is_read_like_the_last_one_that_is_known() -> None:
    assert (answered(b"HTTP/1.2 204 No\r\n\r\n").version, asked(b"GET / HTTP/1.9\r\n\r\n").oddities) == (
        "1.2",
        ("no_host",),
    )


@pytest.mark.parametrize(
    ("head", "behind", "size"),
    [
        (b"Content-Length: 5\r\n", b"", 5),
        (b"Content-Length: " + b"0" * 5000 + b"5\r\n", b"", 5),
        (b"Content-Length: 0\r\n", b"", 0),
        (b"", b"hello", 0),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", 5),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", b"3\r\nabc\r\n00;x=y\r\nA: b\r\n\r\nGET", 24),
        (b"Transfer-Encoding:\r\n chunked\r\n", b"0003 \nabc\n0\n\n", 13),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", None),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\nA: b\r\n", None),
        (b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFF\r\nabc\r\n", None),
        (b"Transfer-Encoding: chunked\r\n", b"not a size\r\n", None),
    ],
)  # fmt: skip
def test_where_a_body_ends(head: bytes, behind: bytes, size: int | None) -> None:
    assert body_size(behind, asked(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n")) == size
    answer = answered(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
    assert body_size(behind, answer) == (size if head else None), "without a length it ends with the connection"


def test_what_looks_like_a_request_or_response() -> None:
    for data in (GET, GET[:1], GET[:4], b"\r\n" + GET, b"PROPFIND / HTTP/1.1\r\n", b"M-SEARCH * HTTP/1.1\r\n", b"M-S"):
        assert looks_like_request(data), data
    for data in (
        b"",
        b"\r\n",
        OK,
        b"GETX",
        b"get / HTTP/1.1",
        b"\x16\x03\x01\x02\0\x01\0\x01",
        b"SSH-2.0-x\r\n",
        b"PRI * HTTP/2.0",
        b'CONNECT {"verbose":false}\r\n',
        b"\0",
    ):
        assert not looks_like_request(data), data
    assert looks_like_response(OK)
    assert looks_like_response(b"HTT")
    assert not looks_like_response(b"")
    assert not looks_like_response(GET)


def test_no_userinfo_in_hosts_and_no_header_that_is_not_asked_for() -> None:
    assert asked(b"GET / HTTP/1.1\r\nHost: joe:hunter2@h:80\r\n\r\n").host == f"{MARK}@h:80"
    assert asked(b"CONNECT joe:hunter2@h:80 HTTP/1.1\r\n\r\n").host == f"{MARK}@h:80"
    assert asked(b"GET / HTTP/1.1\r\nHost: joe:hunter2@h:80\r\n\r\n", redact=False).host == "joe:hunter2@h:80"
    assert "hunter2" not in repr((asked(GET), answered(OK)))


def test_errors_do_not_tell_what_was_sent() -> None:
    with pytest.raises(Malformed) as refused:
        request(b"GET /?token=hunter2 HTTP/3\r\n\r\n")
    assert "hunter2" not in str(refused.value)


# ── whatever arrives ────────────────────────────────────────────────────────────────────────────────────────────────


def only_malformed(data: bytes) -> None:
    for redact in (True, False):
        with contextlib.suppress(Malformed):
            parsed = request(data, redact=redact)
            assert parsed is None or (0 < parsed.size <= len(data) and set(parsed.oddities) <= set(ODDITIES))
    with contextlib.suppress(Malformed):
        answer = response(data)
        assert answer is None or (0 < answer.size <= len(data) and 100 <= answer.status <= 999)
    looks_like_request(data)
    looks_like_response(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    only_malformed(data)


PIECES = [
    b"GET ", b"POST ", b"CONNECT ", b"HTTP/1.1", b" HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"Host: a\r\n", b"host:",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"/", b"?", b"&token=", b"%26", b"%25", b"%3D", b"http://", b"@", b"\0", b"\xff", b"*", b"eyJ",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40).map(b"".join))
def test_pieces_of_http_in_any_order(data: bytes) -> None:
    only_malformed(data)
    only_malformed(b"GET /" + data + b" HTTP/1.1\r\n\r\n")


@given(st.sampled_from([GET, OK]), st.lists(st.tuples(st.integers(0, len(OK) - 1), st.integers(0, 255)), max_size=6))
def test_a_head_with_bytes_changed(head: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(head)
    for at, byte in changes:
        data[at] = byte
    only_malformed(bytes(data))


@pytest.mark.parametrize("piece", [b"\r\n ", b"Host:", b"Host: a\r\n", b"\r", b" ", b"GET ", b"\r\n\tx"])
def test_the_time_is_linear_in_the_size_of_a_head(piece: bytes) -> None:
    def seconds(size: int) -> float:
        data = b"GET / HTTP/1.1\r\n" + piece * (size // len(piece)) + b"\r\n\r\n"
        best = 1.0
        for _ in range(3):
            begun = time.process_time()
            with contextlib.suppress(Malformed):
                request(data)
            best = min(best, time.process_time() - begun)
        return best

    assert seconds(64_000) < max(64 * seconds(4_000), 0.05)
