"""Packets → events of DNS, TLS, HTTP and QUIC, whatever their order and however they are cut into segments and blocks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events.codec import Section
from daemoneye.events.jsonform import events_json
from daemoneye_sensor.packets import inspector as inspectors
from daemoneye_sensor.packets.inspector import Inspector
from tests.support.captures import SECOND, START, Connection, decoded
from tests.support.handshakes import alpn, crypto, flight, initial, message, records, server_name

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
A, B = ETHER / IP(src="10.0.0.1", dst="10.0.0.2"), ETHER / IP(src="10.0.0.2", dst="10.0.0.1")
GET = b"GET /a?token=secret HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nbody"


def events(
    packets: Sequence[Packet], size: int = 1000, times: Sequence[int] | None = None, made: Inspector | None = None
) -> list[dict[str, Any]]:
    """All events of a capture but flows, as JSON; through the wire form, as a reader gets them."""
    return [row for row in told(packets, size, times, made) if row["event"] != "packet_flow"]


def told(
    packets: Sequence[Packet], size: int = 1000, times: Sequence[int] | None = None, made: Inspector | None = None
) -> list[dict[str, Any]]:
    """All events of a capture, likewise."""
    inspector = made or Inspector("eth0")
    times = times or [START + i * 1_000_000 for i in range(len(packets))]
    sections: list[Section] = []
    for at in range(0, len(packets), size):
        sections += inspector.inspect(decoded(packets[at : at + size], times=times[at : at + size]))
    sections += inspector.end()
    return [row for section in sections for row in _json(section)]


def _json(section: Section) -> list[dict[str, Any]]:
    about = Envelope(
        node="n", cluster="c", boot_id="b", epoch=1, lane="bulk", first_sequence=0, rows=len(section.rows), clock_offset_ns=0, first_time=0,
        last_time=0, source="pcap", positions={},
    )  # fmt: skip
    return list(events_json(envelope.decode(envelope.encode(about, [section]))))


def only(rows: list[dict[str, Any]], **expected: Any) -> dict[str, Any]:
    """The one row that there is, which says this."""
    assert len(rows) == 1, rows
    assert {name: rows[0].get(name) for name in expected} == expected
    return rows[0]


# ── DNS ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def question(name: str = "www.example.org", ident: int = 7, kind: str = "A") -> Packet:
    return A / UDP(sport=40000, dport=53) / DNS(id=ident, rd=1, qd=DNSQR(qname=name, qtype=kind))


def answer(name: str = "www.example.org", ident: int = 7) -> Packet:
    records = [DNSRR(rrname=name, ttl=60 + i, rdata=f"192.0.2.{i}") for i in range(2)]
    return B / UDP(sport=53, dport=40000) / DNS(id=ident, qr=1, qd=DNSQR(qname=name), an=records)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_question_and_its_answer_are_one_event(size: int) -> None:
    row = only(
        events([question(), answer()], size),
        event="dns_query", query="www.example.org", type="A", rcode="NOERROR", answers=["192.0.2.0", "192.0.2.1"], ttls=[60, 61], latency=1_000_000,
        src_ip="10.0.0.1", src_port=40000, dst_ip="10.0.0.2", dst_port=53, proto="udp", flags=[], interface="eth0", time="2026-01-01T00:00:00.000000000Z",
    )  # fmt: skip
    assert row["community_id"].startswith("1:")
    assert not {"pid", "exe", "process_uid", "parent", "cgroup"} & set(row), "nobody is named whom nobody knows"


def test_a_question_without_an_answer_says_so() -> None:
    inspector = Inspector()
    quiet = A / UDP(sport=1, dport=2)
    rows = events([question(), quiet, quiet], 1, [START, START + SECOND, START + 11 * SECOND], inspector)
    only(rows, query="www.example.org", rcode="", answers=[], flags=["response_unseen"], latency=0)


def test_an_answer_alone_is_told_the_right_way_round() -> None:
    only(events([answer()]), src_ip="10.0.0.1", src_port=40000, dst_port=53, rcode="NOERROR", latency=0)


def test_an_error_need_not_repeat_the_question() -> None:
    error = B / UDP(sport=53, dport=40000) / DNS(id=8, qr=1, rcode=1, qd=[])
    rows = events([question(), question("other.example", 8, "MX"), question("third.example", 9), error])
    told = sorted((row["query"], row["type"], row["rcode"], row["flags"]) for row in rows)
    assert told == [
        ("other.example", "MX", "FORMERR", []),
        ("third.example", "A", "", ["response_unseen"]),
        ("www.example.org", "A", "", ["response_unseen"]),
    ]


def test_a_question_that_is_repeated_is_one() -> None:
    only(events([question(), question(), answer()]), latency=2_000_000)
    assert len(events([question(ident=7), question(ident=8), answer(ident=8), answer(ident=7)])) == 2


def test_dns_over_tcp_in_pieces() -> None:
    talk = Connection(A, B, 40000, 53)
    ask = b"".join(len(raw).to_bytes(2) + raw for raw in (bytes(question(f"n{i}.example", i)[DNS]) for i in range(3)))
    reply = b"".join(len(raw).to_bytes(2) + raw for raw in (bytes(answer(f"n{i}.example", i)[DNS]) for i in range(3)))
    packets = [*talk.begin(), *talk.send(ask, size=20), *talk.send(reply, out=False, size=33), *talk.end()]
    rows = events(packets)
    assert [(row["query"], row["rcode"], row["proto"]) for row in rows] == [
        (f"n{i}.example", "NOERROR", "tcp") for i in range(3)
    ]


def test_malformed_messages_are_counted_and_lose_nothing_else() -> None:
    inspector = Inspector()
    bad = A / UDP(sport=40000, dport=53) / Raw(b"\x00\x07\x01\x00\x00\x01")
    only(events([bad, question(), bad, answer(), bad], made=inspector), rcode="NOERROR")
    assert inspector.malformed == {"dns": 3}


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("cut", [3, 7, 1400])
def test_a_request_and_its_response(cut: int, size: int) -> None:
    talk = Connection(A, B, 40000, 8080)
    packets = [*talk.begin(), *talk.send(GET, size=cut), *talk.send(OK, out=False, size=cut), *talk.end()]
    only(
        events(packets, size),
        event="http_request", method="GET", host="shop.example", uri="/a?token=REDACTED", user_agent="curl/8", status=200, server="nginx",
        content_type="text/html", src_port=40000, dst_port=8080, flags=[], version="1.1",
    )  # fmt: skip


def test_requests_one_after_another_and_all_at_once() -> None:
    talk = Connection(A, B, 40000, 80)
    post = b"POST /form HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nGET /not/a/request HTTP/1.1\r\n\r\n"
    packets = [
        *talk.begin(),
        *talk.send(GET),
        *talk.send(OK, out=False),
        *talk.send(post[:60]),
        *talk.send(post[60:]),
        *talk.send(OK, out=False),
    ]
    packets += [*talk.send(GET + GET), *talk.send(OK, out=False), *talk.send(OK, out=False)]
    rows = events(packets)
    assert [(row["method"], row["status"]) for row in rows] == [("GET", 200), ("POST", 200), ("GET", 200), ("GET", 200)]


def test_a_request_without_a_response_is_told_at_the_end() -> None:
    talk = Connection(A, B, 40000, 80)
    only(events([*talk.begin(), *talk.send(GET)]), status=0, flags=["response_unseen"])


def test_interim_responses_are_not_the_response() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [
        *talk.begin(),
        *talk.send(GET),
        *talk.send(b"HTTP/1.1 100 Continue\r\n\r\n", out=False),
        *talk.send(OK, out=False),
    ]
    only(events(packets), status=200)


def test_a_flow_that_ends_within_its_block_says_what_it_spoke() -> None:
    talk = Connection(A, B, 40000, 80)
    packets = [
        *talk.begin(),
        *talk.send(GET),
        *talk.send(OK, out=False),
        *talk.end(),
        *(A / UDP(sport=1, dport=2) for _ in range(2)),
    ]
    times = [START + i * 1_000_000 for i in range(len(packets) - 1)] + [START + 10 * SECOND]
    sections = Inspector().inspect(decoded(packets, times=times))
    flows = [row for section in sections for row in _json(section) if row["event"] == "packet_flow"]
    assert [(row["service"], row["state"]) for row in flows] == [("http", "closed")]


# ── stratum ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}\n'
JOB = b'{"id": null, "method": "mining.notify", "params": ["bf", "4d16b6f85af6e219"]}\n'
LOG = b'{"message": "GET / 200", "level": "info"}\n'
CALL = b'{"id": 1, "method": "server.version", "params": ["electrum/4.5", "1.4"]}\n'


def services(packets: Sequence[Packet], size: int) -> list[str]:
    """What conversations of a capture speak."""
    inspector = Inspector()
    sections = [s for at in range(0, len(packets), size) for s in inspector.inspect(decoded(packets[at : at + size]))]
    return [
        s.values("service")[i].decode()
        for s in (*sections, *inspector.end())
        for i in range(len(s.rows))
        if s.record.name == "packet_flow"
    ]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_miner_and_its_pool_speak_stratum(size: int) -> None:
    talk = Connection(A, B, 4000, 3333)
    asked = [*talk.begin(), *talk.send(SUBSCRIBE), *talk.send(b'{"id":1,"result":[],"error":null}\n', out=False)]
    assert services(asked, size) == ["stratum"]
    assert services([*talk.send(b"{", out=False), *talk.send(JOB, out=False)], size) == ["stratum"], (
        "it was there before the capture"
    )


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("said", [LOG, CALL, LOG * 40 + SUBSCRIBE])
def test_other_json_is_nothing_that_is_known(said: bytes, size: int) -> None:
    talk = Connection(A, B, 4000, 3333)
    assert services([*talk.begin(), *(p for _ in range(20) for p in talk.send(said))], size) == [""]


# ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _late(pieces: list[Packet]) -> list[Packet]:
    return [pieces[0], *reversed(pieces[1:])]


def _twice(pieces: list[Packet]) -> list[Packet]:
    return [piece for piece in pieces for _ in range(2)]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("cut", [5, 100, 1400])
@pytest.mark.parametrize("order", [list, _late, _twice], ids=["in order", "out of order", "twice"])
def test_a_client_hello_in_pieces(cut: int, size: int, order: Callable[[list[Packet]], list[Packet]]) -> None:
    talk = Connection(A, B, 40000, 443)
    raw = flight("shop.example", alpn=["h2", "http/1.1"])
    opening = talk.begin()
    pieces = talk.send(raw, size=max(cut, len(raw) // 50))  # not more of them than are put together
    row = only(
        events([*opening, *order(pieces), *talk.end()], size),
        event="tls_client_hello", sni="shop.example", alpn=["h2", "http/1.1"], version="1.3", flags=["response_unseen"], dst_port=443,
    )  # fmt: skip
    assert row["ja4"].startswith("t13d")
    assert len(row["ja3"]) == 32


@pytest.mark.parametrize("payload", [flight("shop.example"), GET], ids=["tls", "http"])
def test_what_overtook_its_own_beginning_is_read(payload: bytes) -> None:
    talk = Connection(A, B, 40000, 443)
    opening, pieces = talk.begin(), talk.send(payload, size=len(payload) // 4 + 1)
    for order in ([1, 0, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0]):
        row = only(events([*opening, *(pieces[at] for at in order)]))
        assert "shop.example" in (row.get("sni"), row.get("host"))


def test_earlier_data_is_no_part_of_what_begins_later() -> None:
    """A response to a request that was before the capture is none to the next one."""
    talk = Connection(A, B, 40000, 80)
    talk.begin()
    row = only(
        events([*talk.send(OK, out=False), *talk.send(b"the end of a body"), *talk.send(GET)]), host="shop.example"
    )
    assert (row["flags"], row["status"]) == (["response_unseen"], 0)


def test_a_hello_that_is_sent_again_is_told_once() -> None:
    talk = Connection(A, B, 40000, 443)
    opening, hello = talk.begin(), talk.send(flight("shop.example"))
    answer = talk.send(records(b"\x02\0\0\x26\x03\x03" + bytes(33) + b"\x13\x01\0" + b"\x0b\0\0\3\0\0\0"), out=False)
    only(events([*opening, *hello, *answer, *hello, *answer]), sni="shop.example", server_version="1.2")
    again = Connection(A, B, 40000, 443)
    other = [*talk.end(), *again.begin(77_000), *again.send(flight("other.example"))]
    rows = events([*opening, *hello, *answer, *other])
    assert [row["sni"] for row in rows] == ["shop.example", "other.example"], (
        "another connection of the same ports is another"
    )


def test_what_tls_encrypts_is_no_hello_even_if_it_looks_like_one() -> None:
    talk = Connection(A, B, 40000, 443)
    hello = [*talk.begin(), *talk.send(flight("shop.example"))]
    answer = talk.send(records(b"\x02\0\0\x26\x03\x03" + bytes(33) + b"\x13\x01\0" + b"\x0b\0\0\3\0\0\0"), out=False)
    finished = b"\x16\x03\x03\0\x28\x01" + bytes(39)
    inspector = Inspector()
    only(events([*hello, *answer, *talk.send(finished), *talk.send(finished, out=False)], made=inspector))
    assert not inspector.malformed
    assert not inspector.incomplete


def test_tls_behind_a_proxy_and_behind_a_byte_that_might_be_something_else() -> None:
    talk = Connection(A, B, 40000, 8080)
    connect = talk.send(b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    opened = talk.send(b"HTTP/1.1 200 Connection established\r\n\r\n", out=False)
    rows = events([*talk.begin(), *connect, *opened, *talk.send(flight("inside.example"))])
    assert [(row["event"], row.get("method"), row.get("sni")) for row in rows] == [
        ("http_request", "CONNECT", None), ("tls_client_hello", None, "inside.example"),
    ]  # fmt: skip
    talk = Connection(A, B, 40000, 5432)
    asked = [*talk.begin(), *talk.send(b"\0\0\0\x08\x04\xd2\x16\x2f"), *talk.send(b"S", out=False)]
    only(
        events([*asked, *talk.send(flight("database.example"))]), sni="database.example", src_port=40000, dst_port=5432
    )


def test_data_of_a_syn_come_before_those_behind_it() -> None:
    """RFC 7413: a SYN takes a sequence number of its own, its data the next ones."""
    first = A / TCP(sport=40000, dport=80, flags="S", seq=2**32 - 1) / Raw(GET[:20])
    rest = A / TCP(sport=40000, dport=80, flags="PA", seq=20) / Raw(GET[20:])
    only(events([first, rest]), host="shop.example", uri="/a?token=REDACTED")


def test_a_hello_without_a_name_says_so() -> None:
    talk = Connection(A, B, 40000, 443)
    row = only(events([*talk.begin(), *talk.send(flight(None))]), sni=None)
    assert set(row["flags"]) == {"sni_absent", "response_unseen"}


def test_a_hello_that_never_ends_is_counted() -> None:
    inspector = Inspector()
    talk = Connection(A, B, 40000, 443)
    assert events([*talk.begin(), *talk.send(flight("shop.example")[:200])], made=inspector) == []
    assert inspector.incomplete == 1


def test_many_connections_take_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspectors, "MAX_OPEN", 10)
    inspector = Inspector()
    packets = [
        A / TCP(sport=10_000 + i, dport=443, flags="PA", seq=1) / Raw(flight("shop.example")[:100]) for i in range(50)
    ]
    assert events(packets, 7, made=inspector) == []
    assert inspector.incomplete == 50


@pytest.mark.parametrize("seed", range(5))
def test_conversations_that_are_mixed_in_a_block_are_read_as_packet_by_packet(seed: int) -> None:
    chance = random.Random(seed)
    talks: list[list[Packet]] = []
    for i in range(12):
        web, secret = Connection(A, B, 41000 + i, 80), Connection(A, B, 42000 + i, 443)
        both = [*web.send(GET, size=50), *web.send(OK, out=False, size=40), *web.send(GET), *web.send(OK, out=False)]
        talks += [
            [*web.begin(), *both],
            [
                *secret.begin(),
                *secret.send(flight(f"s{i}.example"), size=100),
                *secret.send(b"\x15\x03\x03\0\2\2\x28", out=False),
            ],
            [question(f"n{i}.example", i), answer(f"n{i}.example", i)],
            [question(f"m{i}.example", 100 + i)],
        ]
    packets = []
    while talks:
        packets.append(chance.choice(talks).pop(0))
        talks = [talk for talk in talks if talk]
    singly, together = (sorted(map(repr, events(packets, size))) for size in (1, len(packets)))
    assert together == singly
    assert len(together) == 12 * 5


def test_of_a_block_that_is_long_who_was_silent_is_given_up_whatever_was_looked_at_before_it() -> None:
    inspector = Inspector()
    web, secret = Connection(A, B, 40000, 80), Connection(A, B, 40001, 443)
    packets = [*web.send(GET), *secret.send(flight("example.org"))]
    sections = inspector.inspect(decoded(packets, times=[START, *(START + 20 * SECOND for _ in packets[1:])]))
    assert [section.record.name for section in sections] == ["http_request"]
    assert [section.record.name for section in inspector.end()] == ["tls_client_hello", "packet_flow"]


def test_random_bytes_on_known_ports_end_nothing() -> None:
    chance = random.Random(3)
    packets: list[Packet] = []
    for i in range(400):
        payload = bytes(chance.randrange(256) for _ in range(chance.randrange(60)))
        start = chance.choice([b"", b"GET ", b"\x16\x03\x01\x00\x10\x01", b"HTTP/1.1 ", b"\xc3\x00\x00\x00\x01\x08"])
        layer = (
            TCP(sport=40000 + i % 5, dport=chance.choice([53, 80, 443]), flags="PA", seq=chance.randrange(1000))
            if chance.random() < 0.6
            else UDP(sport=40000, dport=chance.choice([53, 443]))
        )
        packets.append(A / layer / Raw(start + payload))
    for size in (1, 50, 400):
        rows = events([*packets, question(ident=99), answer(ident=99)], size)
        assert "www.example.org" in [row.get("query") for row in rows]


# ── QUIC ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("version", [1, 0x6B3343CF])
def test_a_hello_in_two_initials_of_quic(version: int, size: int) -> None:
    hello = message(extensions=(server_name(b"quic.example"), alpn(b"h3")))
    parts = [crypto(0, hello[:40]), crypto(40, hello[40:])]
    to = A / UDP(sport=50_000, dport=443)
    packets = [to / Raw(initial(part, number=n, version=version)) for n, part in reversed(list(enumerate(parts)))]
    answer = B / UDP(sport=443, dport=50_000) / Raw(initial(b"\x02\0\0\0\0", side="server in", version=version))
    inspector = Inspector()
    row = only(
        events([packets[0], answer, packets[1], answer, packets[1]], size, made=inspector),
        event="quic_initial", sni="quic.example", alpn=["h3"], version={1: "1"}.get(version, "2"), src_port=50_000, dst_port=443, proto="udp",
        connection_id=b"8 bytes!".hex(),
    )  # fmt: skip
    assert row["ja4"].startswith("q")
    assert (inspector.malformed, inspector.incomplete) == ({}, 0)


def test_a_quic_hello_that_never_ends_is_counted() -> None:
    inspector = Inspector()
    hello = message(extensions=(server_name(b"quic.example"),))
    assert events([A / UDP(sport=50_000, dport=443) / Raw(initial(crypto(0, hello[:40])))], made=inspector) == []
    assert inspector.incomplete == 1
