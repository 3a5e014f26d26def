"""JA3 and JA4 as their specifications' examples have them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7 import ja
from daemoneye_sensor.l7.ja import ja3, ja3_string, ja4
from daemoneye_sensor.l7.tls import ClientHello, handshake
from tests.support.handshakes import GREASE, alpn, flight, message, numbers, server_name

# The example of FoxIO's technical_details/JA4.md.
CIPHERS = (
    0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035,
)  # fmt: skip
ORDER = (
    0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D, 0x0005, 0x0023, 0x0012, 0x002B, 0xFF01, 0x000B, 0x000A, 0x0015,
)  # fmt: skip
ALGORITHMS = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
EXAMPLE = "t13d1516h2_8daaf6152771_e5627efa2ab1"


def hello_of(data: bytes) -> ClientHello:
    hello = handshake(data)
    assert hello is not None
    return hello


def example(
    grease: tuple[int, ...] = (), order: tuple[int, ...] = ORDER, algorithms: tuple[int, ...] = ALGORITHMS, **more
) -> bytes:
    content = dict(
        [
            server_name(b"example.com"),
            alpn(*more.get("alpn", (b"h2",))),
            numbers(13, (*grease[:1], *algorithms)),
            numbers(43, (*grease, 0x0304, 0x0303), 1),
            numbers(10, (*grease, 29, 23, 24)),
            (11, b"\x01\x00"),
        ]
    )
    extensions = [(kind, content.get(kind, b"")) for kind in (*grease[:1], *order, *grease[1:])]
    return message((*grease, *more.get("ciphers", CIPHERS)), extensions)


def test_example_of_the_specification():
    assert ja4(hello_of(example()), "t") == EXAMPLE


def test_grease_counts_nowhere():
    assert ja4(hello_of(example(GREASE)), "t") == EXAMPLE
    assert ja4(hello_of(example(GREASE, alpn=(b"\x2a\x2a", b"h2"))), "t") == EXAMPLE
    assert ja3(hello_of(example(GREASE))) == ja3(hello_of(example()))


@given(st.permutations(ORDER), st.permutations(CIPHERS))
def test_order_of_extensions_and_ciphers_does_not_count(order, ciphers):
    assert ja4(hello_of(example(order=tuple(order), ciphers=tuple(ciphers))), "t") == EXAMPLE


def test_order_of_algorithms_counts():
    assert ja4(hello_of(example(algorithms=ALGORITHMS[::-1])), "t") != EXAMPLE


def test_no_underscore_without_algorithms():
    assert ja4(hello_of(example(algorithms=())), "t") == "t13d1516h2_8daaf6152771_6d807ffa2a79"


@pytest.mark.parametrize("transport", ["t", "q", "d"])
def test_transport(transport):
    assert ja4(hello_of(example()), transport) == transport + EXAMPLE[1:]


def test_without_name_the_peer_is_an_address():
    hello = hello_of(example(order=tuple(kind for kind in ORDER if kind)))
    assert ja4(hello, "t") == "t13i1515h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (b"http/1.1", "h1"), (b"dot", "dt"), (b"a", "aa"), (b"", "00"), (b"\xab", "ab"), (b"\x20", "20"), (b"\xab\xcd", "ad"), (b"\x20\x61", "21"),
        (b"\x30\xab", "3b"), (b"\x61\x20", "60"), (b"\x30\x31\xab\xcd", "3d"), (b"\x30\xab\xcd\x31", "01"), (b"\xe9\x74\xe9", "e9"),
    ],
)  # fmt: skip
def test_first_protocol(first, text):
    assert ja4(hello_of(example(alpn=(first, b"h2"))), "t") == f"t13d1516{text}_8daaf6152771_e5627efa2ab1"


def test_no_protocol_and_no_lists():
    assert ja4(hello_of(message((), [], 0x0301)), "t") == "t10i000000_000000000000_000000000000"
    assert (
        ja4(hello_of(message((), [server_name(b"a"), alpn(b"h2")], 0x0303)), "t")
        == "t12d0002h2_000000000000_000000000000"
    )


@pytest.mark.parametrize(
    ("offered", "legacy", "code"),
    [
        ((), 0x0303, "12"), ((), 0x0302, "11"), ((), 0x0301, "10"), ((), 0x0300, "s3"), ((), 0x0002, "s2"), ((), 0xFEFD, "d2"), ((), 0x0999, "00"),
        ((0xAAAA, 0x0303), 0x0301, "12"), ((0x0304, 0x7F1C), 0x0303, "00"),
    ],
)  # fmt: skip
def test_version(offered, legacy, code):
    extensions = [numbers(43, offered, 1)] if offered else []
    assert ja4(hello_of(message(extensions=extensions, version=legacy)), "t")[1:3] == code


def test_more_than_99_are_99():
    hello = hello_of(message(range(200), [(1000 + n, b"") for n in range(150)]))
    assert ja4(hello, "t").startswith("t12i999900_")


@pytest.mark.parametrize(
    ("ciphers", "extensions", "text", "digest"),
    [
        (
            (47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4),
            [server_name(b"a.example"), numbers(10, (23, 24, 25)), (11, b"\x01\x00")],
            "769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0",
            "ada70206e40642a3e4461f35503241d5",
        ),
        ((4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99), None, "769,4-5-10-9-100-98-3-6-19-18-99,,,", "de350869b8c85de67a350c8d186f11e6"),
    ],
)  # fmt: skip
def test_ja3_examples_of_its_readme(ciphers, extensions, text, digest):
    hello = hello_of(message(ciphers, extensions, 0x0301))
    assert (ja3_string(hello), ja3(hello)) == (text, digest)


def test_one_client_has_one_fingerprint_whatever_it_asks_for():
    names = {ja4(hello_of(flight(name)[5:]), "t") for name in ("a.example", "b.example", "www.example.com")}
    assert len(names) == 1
    (fingerprint,) = names
    assert fingerprint.startswith("t13d")


def test_long_lists_are_hashed_and_not_remembered():
    hello = hello_of(message(range(0x0B0B, 0x0B0B + 20_000), [numbers(13, range(1000))]))
    remembered = ja._decimals, ja._cipher_hash, ja._extension_hash, ja._offer, ja._ja3
    before = [cached.cache_info().currsize for cached in remembered]
    fingerprint = ja4(hello, "t")
    ja3(hello)
    after = [cached.cache_info().currsize for cached in remembered]
    real = [n for n in hello.ciphers if n not in {0x0A0A + 0x1010 * i for i in range(16)}]
    assert fingerprint.split("_")[1] == hashlib.sha256(",".join(f"{n:04x}" for n in real).encode()).hexdigest()[:12]
    assert after[1:] == before[1:]
    assert after[0] <= before[0] + 3  # JA3's other, short lists
