"""The ClientHello of SSL 2.0's form."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.ja import ja3_string, ja4
from daemoneye_sensor.l7.sslv2 import client_hello, looks_like
from tests.support.handshakes import flight, message_2

HELLO = message_2((0x010080, 0x000035, 0x00002F, 0x0700C0, 0x0000FF))


def test_a_hello_that_offers_tls():
    hello = client_hello(HELLO)
    assert hello is not None
    assert (hello.version, hello.legacy_version, hello.ciphers, hello.extensions) == (
        "1.0",
        0x0301,
        (0x35, 0x2F, 0xFF),
        (),
    )
    assert (hello.sni_seen, hello.alpn, hello.ech, hello.length) == (False, (), False, len(HELLO) - 2)
    assert ja3_string(hello) == "769,53-47-255,,,"
    assert ja4(hello, "t").startswith("t10i030000_")


@pytest.mark.parametrize(("number", "version"), [(0x0002, "SSL 2.0"), (0x0300, "SSL 3.0"), (0x0303, "1.2")])
def test_its_version(number, version):
    hello = client_hello(message_2(version=number, session=bytes(16)))
    assert hello is not None
    assert hello.version == version


def test_every_beginning_is_incomplete():
    assert [cut for cut in range(len(HELLO)) if client_hello(HELLO[:cut]) is not None] == []
    assert [cut for cut in range(len(HELLO)) if looks_like(HELLO[:cut])] == list(range(11, len(HELLO)))
    assert client_hello(HELLO + b"rest") == client_hello(HELLO)


@pytest.mark.parametrize(
    "data",
    [
        flight(), message_2(()), message_2(version=0x0305), message_2(session=bytes(8)), HELLO[:1] + b"\x30" + HELLO[2:],
        HELLO[:2] + b"\x04" + HELLO[3:], HELLO[:6] + b"\x0e" + HELLO[7:],
    ],
    ids=["records", "no ciphers", "version", "session", "length", "type", "half a cipher"],
)  # fmt: skip
def test_what_is_none(data):
    assert not looks_like(data)
    with pytest.raises(Malformed, match=r"no ClientHello of SSL 2\.0's form"):
        client_hello(data)


@given(st.binary(max_size=80))
def test_anything_is_malformed_at_worst(data):
    with contextlib.suppress(Malformed):
        client_hello(data)
    looks_like(data)
