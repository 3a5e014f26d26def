"""DNS messages give what their sender meant, however odd; whatever else arrives gives one error and costs time linear in its size."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRMX, DNSRROPT, DNSRRSOA, DNSRRSRV, EDNS0TLV, dns_compress

from daemoneye_sensor.l7.dns import ANSWERS, Message, frames, parse, type_name
from daemoneye_sensor.l7.dnsdata import TEXT
from daemoneye_sensor.l7.errors import Malformed
from tests.unit.sensor.l7.dnswire import (
    OPT,
    QUESTION,
    WHOLE,
    bomb_of_chains,
    bomb_of_labels,
    bomb_of_pointers,
    message,
    name,
    pointer,
    record,
)


def test_a_query() -> None:
    asked = name("Api.Payments.svc.cluster.local") + struct.pack("!HH", 28, 1)
    assert parse(message(question=asked, flags=0x0100), whole=True) == Message(
        id=0xBEEF,
        response=False,
        opcode="QUERY",
        rcode="NOERROR",
        query="Api.Payments.svc.cluster.local",
        type="AAAA",
        questions=1,
        answers=(),
        ttls=(),
        answer_count=0,
        truncated=False,
        edns=None,
        partial=False,
    )


@pytest.mark.parametrize(
    ("flags", "extended", "rcode"),
    [(0, None, "NOERROR"), (3, None, "NXDOMAIN"), (12, None, "RCODE12"), (0, 1, "BADVERS"), (7, 1, "BADCOOKIE"), (2, 0, "SERVFAIL"), (0, 255, "RCODE4080")],
)  # fmt: skip
def test_response_codes_with_their_upper_bits(flags: int, extended: int | None, rcode: str) -> None:
    option = b"" if extended is None else b"\0" + struct.pack("!HHBBHH", 41, 4096, extended, 0, 0x8000, 0)
    parsed = parse(message(option, flags=0x8180 | flags, counts=(0, 0, int(extended is not None))), whole=True)
    assert parsed.rcode == rcode
    assert parsed.edns == (None if extended is None else 4096)


def test_edns_is_found_behind_all_other_records() -> None:
    nsid = b"\0" + struct.pack("!HHIH", 41, 512, 0, 8) + struct.pack("!HH", 3, 4) + b"ns-1"
    authority = record(6, name("ns.x") + name("admin.x") + bytes(20), owner=b"\0")
    parsed = parse(message(record(1, bytes(4)), authority, record(1, bytes(4)), nsid, counts=(1, 1, 2)), whole=True)
    assert parsed.edns == 512
    assert parsed.answers == ("0.0.0.0",)


def test_times_to_live_and_the_order_of_answers() -> None:
    parsed = parse(
        message(record(5, name("b.x"), ttl=300), record(1, bytes(4), ttl=2**31 - 1), record(1, b"\1\1\1\1", ttl=2**31))
    )
    assert parsed.answers == ("b.x", "0.0.0.0", "1.1.1.1")
    assert parsed.ttls == (300, 2**31 - 1, 0), "a time with the upper bit is none (RFC 2181)"


def test_only_so_many_answers_are_kept_and_the_true_count_told() -> None:
    parsed = parse(
        message(*[record(1, struct.pack("!I", number)) for number in range(200)], OPT, counts=(200, 0, 1)), whole=True
    )
    assert parsed.answer_count == 200
    assert parsed.answers == tuple(f"0.0.0.{number}" for number in range(ANSWERS))
    assert len(parsed.ttls) == ANSWERS
    assert parsed.edns == 1232


def test_names_of_types_and_operations() -> None:
    assert [type_name(number) for number in (1, 65, 255, 65280, 0)] == ["A", "HTTPS", "ANY", "TYPE65280", "TYPE0"]
    assert parse(message(flags=0x2400)).opcode == "NOTIFY"
    assert parse(message(flags=0x7800)).opcode == "OPCODE15"


def test_a_question_for_the_unknown() -> None:
    parsed = parse(message(question=name("x.y") + struct.pack("!HH", 65280, 9)))
    assert (parsed.query, parsed.type) == ("x.y", "TYPE65280")


def test_multicast_dns() -> None:
    query = message(question=name("_ipp._tcp.local") + struct.pack("!HH", 12, 0x8001), flags=0)
    assert parse(query).type == "PTR", "the bit that asks for a unicast response is none of the type"
    service = b"\x0bMy Printer " + pointer(12)
    unasked = struct.pack("!6H", 0, 0x8400, 0, 2, 0, 0) + b"".join(
        [
            record(12, service, owner=name("_ipp._tcp.local")),
            record(1, bytes([10, 0, 0, 9]), owner=name("p.local"), rrclass=0x8001),
        ]
    )
    parsed = parse(unasked, whole=True)
    assert (parsed.query, parsed.type, parsed.questions) == ("", "", 0)
    assert parsed.answers == (r"My\032Printer\032._ipp._tcp.local", "10.0.0.9"), "cache-flush is no class of its own"


def test_several_questions() -> None:
    both = name("a.x") + struct.pack("!HH", 1, 1) + b"\x01b" + pointer(14) + struct.pack("!HH", 28, 1)
    parsed = parse(message(record(1, bytes(4)), question=both, questions=2), whole=True)
    assert (parsed.query, parsed.type, parsed.questions, parsed.answers) == ("a.x", "A", 2, ("0.0.0.0",))
    cut = parse(message(question=both[:-3], questions=2))
    assert (cut.query, cut.partial) == ("a.x", True)


def test_a_question_with_a_zero_byte_in_a_label() -> None:
    asked = b"\x03a\0b\x01x\0" + struct.pack("!HH", 1, 1)
    parsed = parse(message(record(1, bytes(4)), record(5, QUESTION), question=asked), whole=True)
    assert (parsed.query, parsed.answers) == (r"a\000b.x", ("0.0.0.0", r"a\000b.x"))


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"", "0 bytes"),
        (bytes(11), "11 bytes"),
        (message(question=b""), "the question does not end"),
        (message(question=name("a.x") + b"\0\x01\0"), "the question does not end"),
        (message(question=b"\x05abc"), "the question does not end"),
        (message(question=b"\x40" + b"a" * 64 + b"\0\0\x01\0\x01"), "no label's length"),
        (message(question=b"\x80a\0\0\x01\0\x01"), "no label's length"),
        (message(question=(b"\x3f" + b"a" * 63) * 4 + b"\0\0\x01\0\x01"), "longer than 255"),
        (message(question=QUESTION + b"\0\x01\0\x01"), "pointer to byte 12"),
        (message(question=pointer(0) + b"\0\x01\0\x01"), "pointer to byte 0"),
        (message(question=b"\x01a" + QUESTION + b"\0\x01\0\x01"), "pointer to byte 12"),
        (message(record(1, bytes(4), owner=pointer(33))), "pointer to byte 33"),
        (message(record(1, bytes(4), owner=pointer(200))), "pointer to byte 200"),
        (message(record(5, pointer(45))), "pointer to byte 45"),
        (message(record(5, pointer(0x3FFF))), "pointer to byte 16383"),
        (
            message(
                record(5, b"\x3f" + b"a" * 63 + pointer(12)), question=(b"\x3f" + b"a" * 63) * 3 + b"\0\0\x01\0\x01"
            ),
            "longer than 255",
        ),
        (message(counts=(6000, 0, 0)), "at most 65535"),
        (message(counts=(0, 65535, 65535)), "at most 65535"),
    ],
)
def test_what_is_no_message(wire: bytes, text: str) -> None:
    with pytest.raises(Malformed, match=text):
        parse(wire)


def test_a_chain_of_pointers_is_followed() -> None:
    data = 12 + 17 + 4 + 12
    targets = [12, *range(data, data + 2 * 4000, 2)]
    chain = record(65280, b"".join(map(pointer, targets[:-1])))
    parsed = parse(message(chain, record(5, b"\x01x" + pointer(targets[-1]))), whole=True)
    assert parsed.answers[1] == "x.www.example.com"


def test_cut_at_every_byte_it_gives_what_was_whole_or_says_why_not() -> None:
    full = parse(WHOLE, whole=True)
    assert (full.partial, full.edns) == (False, 1232)
    question = 12 + 17 + 4
    kept = 0
    for size in range(len(WHOLE)):
        if size < question:
            with pytest.raises(Malformed):
                parse(WHOLE[:size])
            continue
        parsed = parse(WHOLE[:size])
        assert parsed.partial
        assert (parsed.query, parsed.rcode, parsed.answer_count) == (full.query, "NOERROR", 3)
        assert parsed.answers == full.answers[: len(parsed.answers)]
        assert parsed.ttls == full.ttls[: len(parsed.answers)]
        assert len(parsed.answers) >= kept
        kept = len(parsed.answers)
        with pytest.raises(Malformed, match="end before the records"):
            parse(WHOLE[:size], whole=True)
    assert kept == 3
    assert parse(WHOLE[:-1]).edns == 1232


def test_a_sender_that_truncates_is_not_wrong() -> None:
    parsed = parse(message(record(1, bytes(4)), flags=0x8380, counts=(30, 0, 0)), whole=True)
    assert (parsed.truncated, parsed.partial, parsed.answers, parsed.answer_count) == (True, True, ("0.0.0.0",), 30)
    parsed = parse(message(flags=0x8380), whole=True)
    assert (parsed.truncated, parsed.partial) == (True, False)


def test_bytes_behind_the_last_record_are_ignored() -> None:
    assert parse(message() + b"padding", whole=True) == parse(message(), whole=True)


# ── another implementation ──────────────────────────────────────────────────────────────────────────────────────────


def _random_answers(chance: random.Random, owner: str) -> Iterable[tuple[Any, str]]:
    for _ in range(chance.randint(0, 8)):
        # One ending for all: scapy takes a name of one label for the longer one that begins with it when it compresses.
        # One ending for all: scapy's compression takes a name of one label for a longer one that begins with it.
        labels = chance.choices(["a", "bb", "cdn-7", "x" * 63, "example", "com"], k=chance.randint(1, 3))
        host = ".".join([*labels, "net"])
        ttl = chance.randrange(2**31)
        number = chance.randrange(2**16)
        common: dict[str, Any] = {"rrname": chance.choice([owner, host]), "ttl": ttl}
        match chance.choice(["A", "AAAA", "CNAME", "NS", "PTR", "TXT", "MX", "SRV", "SOA"]):
            case "A":
                address = str(ip_address(chance.randrange(2**32)))
                yield DNSRR(type="A", rdata=address, **common), address
            case "AAAA":
                address = str(ip_address(chance.randrange(2**32, 2**128)))
                yield DNSRR(type="AAAA", rdata=address, **common), address
            case "TXT":
                texts = ["t" * chance.randint(0, 255) for _ in range(chance.randint(1, 3))]
                yield DNSRR(type="TXT", rdata=texts, **common), " ".join(f'"{text}"' for text in texts)
            case "MX":
                yield DNSRRMX(preference=number, exchange=host, **common), f"{number} {host}"
            case "SRV":
                yield DNSRRSRV(priority=1, weight=2, port=number, target=host, **common), f"1 2 {number} {host}"
            case "SOA":
                numbers: dict[str, Any] = {"serial": number, "refresh": 2, "retry": 3, "expire": 4, "minimum": 5}
                yield (
                    DNSRRSOA(mname=host, rname="admin." + owner, **numbers, **common),
                    f"{host} admin.{owner} {number} 2 3 4 5",
                )
            case rrtype:
                yield DNSRR(type=rrtype, rdata=host, **common), host


@pytest.mark.parametrize("seed", range(60))
def test_messages_that_scapy_built_and_reads(seed: int) -> None:
    chance = random.Random(seed)
    owner = ".".join(chance.choices(["www", "api", "svc", "example", "com"], k=chance.randint(1, 4)))
    answers = list(_random_answers(chance, owner))
    options = [DNSRROPT(rclass=1400, rdata=[EDNS0TLV(optcode=3, optdata=b"ns1")])] if chance.random() < 0.5 else []
    built = DNS(
        id=chance.randrange(2**16),
        qr=1,
        rcode=chance.choice([0, 2, 3, 5]),
        qd=[DNSQR(qname=owner, qtype=chance.choice([1, 28, 65, 255]))],
        an=[packet for packet, _ in answers],
        ns=[],
        ar=options,
    )
    wire = bytes(dns_compress(built) if chance.random() < 0.7 else built)
    parsed = parse(wire, whole=True)
    read = DNS(wire)
    assert (parsed.id, parsed.response, parsed.answer_count) == (read.id, True, read.ancount)
    assert parsed.rcode == {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}[read.rcode]
    assert parsed.query == read.qd[0].qname.decode().rstrip(".") == owner
    assert parsed.type == {1: "A", 28: "AAAA", 65: "HTTPS", 255: "ANY"}[read.qd[0].qtype]
    assert parsed.answers == tuple(text for _, text in answers)
    assert parsed.ttls == tuple(packet.ttl for packet, _ in answers) == tuple(packet.ttl for packet in read.an)
    assert parsed.edns == (1400 if options else None)


# ── TCP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.binary(max_size=300), max_size=6), st.binary(max_size=1))
def test_frames_of_tcp_at_every_cut(messages: list[bytes], rest: bytes) -> None:
    stream = b"".join(struct.pack("!H", len(one)) + one for one in messages) + rest
    assert frames(stream) == (messages, len(stream) - len(rest))
    for size in range(0, len(stream), 7):
        found, used = frames(stream[:size])
        again, more = frames(stream[used:])
        assert found + again == messages
        assert used + more == len(stream) - len(rest)


# ── whatever arrives ────────────────────────────────────────────────────────────────────────────────────────────────


def only_malformed(wire: bytes) -> None:
    for whole in (False, True):
        with contextlib.suppress(Malformed):
            parsed = parse(wire, whole=whole)
            assert len(parsed.answers) == len(parsed.ttls) <= min(ANSWERS, parsed.answer_count)
            assert all(text.isprintable() and len(text) <= TEXT for text in (parsed.query, *parsed.answers))


@given(st.binary(max_size=600))
def test_arbitrary_bytes(wire: bytes) -> None:
    only_malformed(wire)


@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 40))
@example(b"\xc0\x0c" * 100, 1, 5)
def test_arbitrary_bytes_behind_a_header_that_counts_some(body: bytes, questions: int, records: int) -> None:
    only_malformed(struct.pack("!6H", 1, 0x8180, questions, records, 1, 1) + body)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
def test_a_message_with_bytes_changed(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(WHOLE)
    for at, byte in changes:
        wire[at] = byte
    only_malformed(bytes(wire))


@pytest.mark.parametrize("bomb", [bomb_of_pointers, bomb_of_chains, bomb_of_labels])
def test_a_bomb_costs_time_linear_in_its_size(bomb) -> None:
    def seconds(size: int) -> float:
        wire = bomb(size)
        assert len(wire) <= 65_535
        best = 1.0
        for _ in range(5):
            begun = time.process_time()
            parse(wire)
            best = min(best, time.process_time() - begun)
        return best

    small, large = seconds(4_000), seconds(64_000)
    assert large < 64 * small, "16 times the size; a quadratic parser takes 256 times the time"
    assert large < 0.5
