"""Handshakes of TLS and QUIC as old clients, servers that warn, and captures that miss something show them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scapy.layers.inet import UDP
from scapy.packet import Packet, Raw

from daemoneye_sensor.packets.inspector import Inspector
from tests.support.captures import Connection
from tests.support.handshakes import alpn, crypto, flight, initial, message, message_2, records, server_name, sized
from tests.unit.sensor.packets.test_inspector import A, B, events, only, told

SERVER_HELLO = b"\x02" + sized(b"\x03\x03" + bytes(33) + b"\xc0\x2f\0", 3)
WARNING = records(b"\x01\x70", kind=21)  # unrecognized_name
DER = b"0\x03\x02\x01\x00"
CHAIN = b"\x0b" + sized(sized(sized(DER, 3), 3), 3)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("apart", [True, False])
def test_a_server_that_does_not_know_the_name_warns_and_goes_on(apart: bool, size: int) -> None:
    talk = Connection(A, B, 40000, 443)
    said = (WARNING, records(SERVER_HELLO + CHAIN))
    asked = [*talk.begin(), *talk.send(flight("other.example"))]
    answered = [packet for piece in (said if apart else (b"".join(said),)) for packet in talk.send(piece, out=False)]
    inspector = Inspector()
    row = only(events([*asked, *answered], size, made=inspector), sni="other.example", server_version="1.2", flags=[])
    assert len(row["certificate_sha256"]) == 64
    assert not inspector.malformed


def test_a_server_that_refuses_is_no_fault() -> None:
    talk = Connection(A, B, 40000, 443)
    asked = [*talk.begin(), *talk.send(flight("other.example"))]
    inspector = Inspector()
    only(
        events([*asked, *talk.send(records(b"\x02\x28", kind=21), out=False)], made=inspector),
        flags=["response_unseen"],
    )
    assert not inspector.malformed


@pytest.mark.parametrize(
    "certificate", [CHAIN[:9], b"\x0b" + sized(sized(b"\xff" * 3, 3), 3), b""], ids=["cut", "malformed", "missing"]
)
def test_a_servers_hello_is_told_without_its_certificate(certificate: bytes) -> None:
    talk = Connection(A, B, 40000, 443)
    asked = [*talk.begin(), *talk.send(flight("shop.example"))]
    row = only(
        events([*asked, *talk.send(records(SERVER_HELLO + certificate), out=False)]),
        sni="shop.example", server_version="1.2", server_cipher="c02f", certificate_sha256="", flags=["partial"],
    )  # fmt: skip
    assert row["version"] == "1.3"


def _spoken(packets: Sequence[Packet], size: int) -> tuple[str, list[str], bool]:
    """Service and flags of the one conversation of a capture, and whether its row has a name that is null."""
    (row,) = (row for row in told(packets, size) if row["event"] == "packet_flow")
    return row["service"], row["flags"], "sni" in row and row["sni"] is None


@pytest.mark.parametrize("size", [1, 1000])
def test_a_conversation_whose_hello_was_not_seen_says_so(size: int) -> None:
    talk = Connection(A, B, 40000, 443)
    begun = talk.begin()
    hello = talk.send(flight("shop.example"), size=100)
    answered = talk.send(records(SERVER_HELLO + CHAIN), out=False)
    assert _spoken([*begun, *answered], size) == ("tls", ["sni_unseen"], True), "the client's packets are missing"
    assert _spoken([*begun, *hello[:-1]], size) == ("tls", ["sni_unseen"], True), "its end is missing"
    assert _spoken([*begun, *hello, *answered], size) == ("tls", [], False)
    assert _spoken([*begun, *hello, *answered, *answered], size) == ("tls", [], False), "sent again"
    assert _spoken([*begun, *answered, *hello], size) == ("tls", [], False), "captured in another order"
    nameless = talk.send(flight(None))
    assert _spoken([*begun, *nameless, *answered], size) == ("tls", [], False), "it was seen, and names nobody"


@pytest.mark.parametrize("size", [1, 1000])
def test_a_quic_conversation_whose_hello_was_not_seen_says_so(size: int) -> None:
    hello = message(extensions=(server_name(b"quic.example"),))
    to = A / UDP(sport=50_000, dport=443)
    first, second = (to / Raw(initial(crypto(at, part))) for at, part in ((0, hello[:40]), (40, hello[40:])))
    assert _spoken([first], size) == ("quic", ["sni_unseen"], True)
    assert _spoken([first, second], size) == ("quic", [], False)
    assert _spoken([first, second, first], size) == ("quic", [], False), "sent again"


@pytest.mark.parametrize("size", [1, 1000])
def test_a_hello_of_ssl_2s_form(size: int) -> None:
    talk = Connection(A, B, 40000, 443)
    hello = [*talk.begin(), *talk.send(message_2((0x010080, 0x00002F)), size=20)]
    inspector = Inspector()
    row = only(
        events([*hello, *talk.send(records(SERVER_HELLO + CHAIN), out=False)], size, made=inspector),
        event="tls_client_hello", sni=None, version="1.0", server_version="1.2", flags=["sni_absent"],
    )  # fmt: skip
    assert row["ja4"].startswith("t10i010000_")
    assert (inspector.malformed, inspector.incomplete) == ({}, 0)


@pytest.mark.parametrize("version", [0xFF000016, 0xFF000022, 0xFACEB002])
def test_drafts_of_quic(version: int) -> None:
    hello = message(extensions=(server_name(b"quic.example"), alpn(b"h3-29")))
    datagram = initial(crypto(0, hello), version=version) + b"\xc8" * 20
    only(events([A / UDP(sport=50_000, dport=443) / Raw(datagram)]), event="quic_initial", sni="quic.example")
