"""HTTP's responses find their requests, whatever lies between them and however they share segments."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from tests.support.captures import SECOND, START, Connection
from tests.unit.sensor.packets.test_inspector import GET, OK, A, B, events

LONG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def statuses(packets: list[Packet]) -> list[tuple[str, int]]:
    return [(row["method"], row["status"]) for row in events(packets)]


def head(method: bytes, rest: bytes = b"") -> bytes:
    return method + b" / HTTP/1.1\r\nHost: h\r\n" + rest + b"\r\n"


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        ([GET, GET], OK + NOT_FOUND, [200, 404]),
        ([GET, GET], CHUNKED + b"4\r\nbody\r\n3;name=value\r\nend\r\n0\r\nTrailer: x\r\n\r\n" + NOT_FOUND, [200, 404]),
        ([head(b"HEAD"), GET], LONG % 4000 + NOT_FOUND, [200, 404]),
        ([GET, GET], b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4000\r\n\r\n" + NOT_FOUND, [304, 404]),
        ([GET, GET], b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + NOT_FOUND, [200, 404]),
        ([head(b"POST", b"Expect: 100-continue\r\nContent-Length: 0\r\n")], b"HTTP/1.1 100 Continue\r\n\r\n" + NOT_FOUND, [404]),
    ],
    ids=["length", "chunked", "head", "not modified", "early hints", "continue"],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 50, 1400])
def test_responses_that_share_segments(asked: list[bytes], answered: bytes, expected: list[int], size: int) -> None:
    # Of a chunked body in several segments nobody knows where it ends: what follows is found where a segment begins with it.
    parts = [answered] if size == 1400 else answered.partition(NOT_FOUND)[:2]
    talk = Connection(A, B, 40000, 80)
    packets = [*talk.begin(), *talk.send(b"".join(asked))]
    for part in parts:
        packets += talk.send(part, out=False, size=size)
    assert [status for _, status in statuses(packets)] == expected


def test_a_body_is_no_response_whatever_it_looks_like() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [
        *talk.begin(),
        *talk.send(GET),
        *talk.send(head(b"DELETE")),
        *talk.send(LONG % len(NOT_FOUND), out=False),
    ]
    packets += [*talk.send(NOT_FOUND, out=False), *talk.send(OK, out=False)]
    assert statuses(packets) == [("GET", 200), ("DELETE", 200)]


def test_what_is_sent_again_answers_nobody_else() -> None:
    talk = Connection(A, B, 40000, 80)
    packets: list[Packet] = [*talk.begin(), *talk.send(GET)]
    first = talk.send(NOT_FOUND, out=False)
    packets += [*first, *talk.send(head(b"DELETE")), *first, *talk.send(OK, out=False)]
    assert statuses(packets) == [("GET", 404), ("DELETE", 200)]


def test_a_chunked_request_and_the_next_in_one_segment() -> None:
    talk = Connection(A, B, 40000, 80)
    post = head(b"POST", b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n") + b"00A\r\n0123456789\r\n0\r\n\r\n"
    packets = [*talk.begin(), *talk.send(post + GET), *talk.send(OK + NOT_FOUND, out=False)]
    assert statuses(packets) == [("POST", 200), ("GET", 404)]


@pytest.mark.parametrize("later", [0x08000000, 0x18000000])
def test_ports_that_are_used_again_say_something_new(later: int) -> None:
    packets: list[Packet] = []
    for begin in (0x10000000, later):  # the numbers of a new connection may be on either side of the last one's
        talk = Connection(A, B, 40000, 80)
        made = [*talk.begin(begin), *talk.send(GET), *talk.send(OK, out=False), *talk.end()]
        for packet in made:
            if packet[TCP].sport == 80:
                packet[TCP].seq += begin
        packets += made
    assert statuses(packets) == [("GET", 200)] * 2


def test_a_long_body_hides_no_response() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [*talk.begin(), *talk.send(head(b"POST", b"Content-Length: 300000\r\n") + bytes(300_000))]
    packets += [
        *talk.send(LONG % 300_000 + bytes(300_000), out=False),
        *talk.send(GET),
        *talk.send(NOT_FOUND, out=False),
    ]
    assert statuses(packets) == [("POST", 200), ("GET", 404)]


def test_a_request_that_was_cut_says_what_is_left_of_it() -> None:
    talk = Connection(A, B, 40000, 80)
    request = head(b"GET", b"Cookie: " + b"x" * 200 + b"\r\nUser-Agent: curl/8\r\n")
    packets = [*talk.begin(), *talk.send(request), *talk.send(OK, out=False), *talk.send(GET), *talk.send(NOT_FOUND, out=False)]  # fmt: skip
    packets[3][TCP].payload.load = request[:100]  # the connection's numbers go on as if all were there
    rows = events(packets)
    assert [(row["uri"], row["host"], row["status"], row["flags"], row["oddities"]) for row in rows] == [
        ("/", "h", 200, ["partial"], []),
        ("/a?token=REDACTED", "shop.example", 404, [], []),
    ]


def test_a_server_that_does_not_wait_for_the_end() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [*talk.begin(), *talk.send(b"GET /slow HTTP/1.1\r\n"), *talk.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n", out=False)]  # fmt: skip
    rows = events(packets)
    assert [(row["uri"], row["status"], row["flags"], row["oddities"]) for row in rows] == [("/slow", 408, ["partial"], [])]  # fmt: skip


def test_a_request_whose_head_never_ends_is_told_as_far_as_it_came() -> None:
    talk = Connection(A, B, 40000, 80)
    rows = events([*talk.begin(), *talk.send(b"GET /slow HTTP/1.1\r\nHost: h\r\nX: ")])
    assert [(row["host"], row["flags"]) for row in rows] == [("h", ["response_unseen", "partial"])]


def test_what_is_sent_again_after_long_is_no_other_request() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [*talk.begin(), *talk.send(GET)]
    packets += [packets[-1], packets[-1]]
    times = [START, START, START, START, START + 20 * SECOND, START + 40 * SECOND]
    assert len(events(packets, 1, times)) == 1
