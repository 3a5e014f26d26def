"""ClientHellos as OpenSSL sends them, in any pieces, and what is none."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tls import (
    ClientHello,
    client_hello,
    handshake,
    looks_like,
    server_certificates,
)
from daemoneye_sensor.l7.tlsrecords import LONGEST, RECORDS
from tests.support.handshakes import (
    alpn,
    flight,
    message,
    numbers,
    records,
    server_name,
    sized,
)

TLS12 = ssl.TLSVersion.TLSv1_2
FULL = flight("www.example.com", alpn=("h2", "http/1.1"))


def hello_of(data: bytes) -> ClientHello:
    hello = client_hello(data)
    assert hello is not None
    return hello


def test_hello_of_openssl():
    hello = hello_of(FULL)
    assert (hello.version, hello.legacy_version, hello.supported_versions) == ("1.3", 0x0303, (0x0304, 0x0303))
    assert (hello.sni, hello.sni_seen, hello.alpn) == ("www.example.com", True, ("h2", "http/1.1"))
    assert hello.ciphers[:3] == (0x1302, 0x1303, 0x1301)
    assert {0, 10, 11, 13, 16, 43, 51} <= set(hello.extensions)
    assert hello.groups[0] == 29  # x25519
    assert hello.point_formats == (0, 1, 2)
    assert 0x0403 in hello.signature_algorithms
    assert not hello.ech
    assert hello.length == len(FULL) - 5


def test_hello_of_tls_1_2_without_a_name():
    hello = hello_of(flight(highest=TLS12))
    assert (hello.version, hello.supported_versions, hello.sni, hello.sni_seen, hello.alpn) == (
        "1.2",
        (),
        "",
        False,
        (),
    )


def test_hello_of_tls_1_3_alone():
    assert hello_of(flight("a.example", lowest=ssl.TLSVersion.TLSv1_3)).supported_versions == (0x0304,)


@pytest.mark.parametrize(
    ("offered", "legacy", "version"),
    [
        ((0x7A7A, 0x0304, 0x0303), 0x0303, "1.3"),
        ((0xFAFA, 0x0303), 0x0303, "1.2"),
        ((0x7F1C, 0x0304), 0x0303, "1.3"),
        ((0x7F1B, 0x7F1C), 0x0303, "0x7f1c"),
        ((0x7A7A,), 0x0302, "1.1"),
        ((), 0x0301, "1.0"),
        ((), 0x0300, "SSL 3.0"),
        ((), 0x0399, "0x0399"),
    ],
)
def test_version_is_the_highest_that_is_really_offered(offered, legacy, version):
    extensions = [numbers(43, offered, 1)] if offered else []
    assert hello_of(records(message(extensions=extensions, version=legacy))).version == version


def test_hello_without_extensions():
    hello = hello_of(records(message(ciphers=(4, 5), extensions=None, version=0x0300)))
    assert (hello.ciphers, hello.extensions, hello.sni_seen) == ((4, 5), (), False)


def test_names_and_protocols_that_are_no_text():
    hello = hello_of(records(message(extensions=[server_name(b"caf\xe9\n"), alpn(b"\x0a\x0a", b"h2", b"")])))
    assert (hello.sni, hello.alpn, hello.protocols) == ("caf\\xe9\n", ("\n\n", "h2", ""), (b"\n\n", b"h2", b""))


def test_first_host_name_counts_and_first_extension():
    several = (0, sized(b"\x07" + sized(b"other") + b"\0" + sized(b"a.example") + b"\0" + sized(b"b.example")))
    assert hello_of(records(message(extensions=[several, server_name(b"c.example")]))).sni == "a.example"


def test_encrypted_client_hello_is_told():
    hello = hello_of(records(message(extensions=[server_name(b"cover.example"), (0xFE0D, bytes(100))])))
    assert (hello.ech, hello.sni) == (True, "cover.example")


def test_bare_message_is_the_same_hello():
    assert handshake(FULL[5:]) == client_hello(FULL)


def test_every_beginning_is_incomplete_and_looks_like_a_hello():
    assert not looks_like(b"")
    for cut in range(1, len(FULL)):
        assert client_hello(FULL[:cut]) is None
        assert looks_like(FULL[:cut])
    assert client_hello(b"") is handshake(b"") is None


@pytest.mark.parametrize("follows", [records(b"\x01", kind=20), records(bytes(50), kind=23), b"\x17", b"\x16\x03"])
def test_what_follows_is_not_looked_at(follows):
    assert client_hello(FULL + follows) == client_hello(FULL)


def test_records_of_any_size_give_the_same_hello():
    for size in (1, 2, 3, 4, 5, 100, len(FULL) - 6):
        split = records(FULL[5:], size)
        assert client_hello(split) == client_hello(FULL)
        assert client_hello(split[:-1]) is None


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_records_of_different_sizes(sizes):
    rest, out = FULL[5:], b""
    for size in sizes:
        out += records(rest[:size]) if rest else b""
        rest = rest[size:]
    out += records(rest) if rest else b""
    assert client_hello(out) == client_hello(FULL)


BAD = {
    "begins with a record of Alert": records(b"\x02\x28", kind=21),
    "begins with a record of type 71": b"GET / HTTP/1.1\r\n\r\n",
    "begins with a record of type 128": b"\x80\x2e\x01\x00\x02",
    "of version 0x0203": b"\x16\x02\x03\x00\x10",
    "has 0 bytes": b"\x16\x03\x01\x00\x00",
    "has 16385 bytes": b"\x16\x03\x01\x40\x01",
    "message of type 2": records(b"\x02\x00\x00\x26"),
    "of 65537 bytes": records(b"\x01\x01\x00\x01"),
    "record of ChangeCipherSpec follows": records(FULL[5:100]) + records(b"\x01", kind=20),
    f"more than {RECORDS} records": records(bytes((1, 0, 0xFF, 0)) + bytes(RECORDS), 1),
    "too short": records(b"\x01" + sized(bytes(20), 3)),
    "session's id": records(message(session=bytes(33))),
    "list of cipher suites": records(b"\x01" + sized(bytes(35) + b"\x00\x03" + bytes(30), 3)),
    "within its compression methods": records(b"\x01" + sized(bytes(35) + b"\x00\x02\x13\x01\x05\x00", 3)),
    "length of the extensions": records(b"\x01" + sized(message(extensions=None)[4:] + b"\x00\x09\x00", 3)),
    "last extension ends at": records(
        b"\x01" + sized(message(extensions=None)[4:] + sized(b"\x00\x2b\x00\x09\x01"), 3)
    ),
    "supported_versions": records(message(extensions=[(43, b"\x03\x03\x04\x03")])),
    "supported_groups": records(message(extensions=[(10, b"")])),
    "signature_algorithms": records(message(extensions=[(13, b"\x00\x02\x04")])),
    "ec_point_formats": records(message(extensions=[(11, b"\x02\x00")])),
    "ALPN": records(message(extensions=[(16, b"\x00\x03\x05h2")])),
    "server_name": records(message(extensions=[(0, b"\x00\x05\x00\x00\x09ab")])),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_hello_is_told(text):
    with pytest.raises(Malformed, match=text):
        client_hello(BAD[text])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1",
        b"\x80\x2e\x01\x00\x02\x00\x15",
        b"\x16\x02",
        b"\x16\x03\x05",
        b"\x17\x03\x03",
        records(b"\x02\0\0\0"),
    ],
)
def test_what_does_not_look_like_a_hello(data):
    assert not looks_like(data)


def test_longest_hello_is_read_and_a_longer_one_is_not():
    room = LONGEST - (len(message(extensions=[(21, b"")])) - 4)
    hello = hello_of(records(message(extensions=[(21, bytes(room))])))
    assert hello.length == LONGEST + 4
    with pytest.raises(Malformed, match="65537"):
        client_hello(records(message(extensions=[(21, bytes(room + 1))])))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_malformed_at_worst(data):
    for parse in (client_hello, handshake, server_certificates):
        for begin in (b"", b"\x16\x03\x03\x00\x80", b"\x01\x00\x00\x60", b"\x02\x00\x00\x30"):
            with contextlib.suppress(Malformed):
                parse(begin + data)
    looks_like(data)


@given(st.data())
def test_mutated_hellos_are_malformed_at_worst(data):
    changed = bytearray(FULL)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed):
        client_hello(bytes(changed[: data.draw(st.integers(0, len(changed)))]))


EXPENSIVE = {
    "extensions": records(message(extensions=[(n, b"") for n in range(16_000)])),
    "same extensions": records(message(extensions=[(13, b"\0\0")] * 10_000)),
    "names": records(message(extensions=[(0, sized(b"\x01\0\0" * 21_000))])),
    "protocols": records(message(extensions=[(16, sized(b"\0" * 65_000))])),
    "ciphers": records(message(ciphers=range(32_000))),
    "records": records(message(extensions=[(21, bytes(4_000))]), 1),
}


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_the_longest_hellos_cost_milliseconds(kind):
    begin = time.process_time()
    with contextlib.suppress(Malformed):
        client_hello(EXPENSIVE[kind])
    assert time.process_time() - begin < 1.0  # ten times what it takes here; what is not linear takes minutes


def test_hellos_need_no_cryptography():
    code = """
import sys
from daemoneye_sensor.l7 import ja, quic, tls
ja.ja4(tls.client_hello(sys.stdin.buffer.read()), "t")
print("cryptography" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], input=FULL, capture_output=True, check=True)
    assert done.stdout == b"False\n"
