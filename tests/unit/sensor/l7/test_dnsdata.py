"""Data and names of DNS records as text: what dig and zone files write, and what is none of its type as RFC 3597 does."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from daemoneye_sensor.l7.dns import parse
from daemoneye_sensor.l7.dnsdata import TEXT
from tests.unit.sensor.l7.dnswire import OPT, QUESTION, message, name, pointer, record


def answer(rrtype: int, data: bytes, rrclass: int = 1) -> str:
    parsed = parse(message(record(rrtype, data, rrclass=rrclass)), whole=True)
    assert not parsed.partial
    (text,) = parsed.answers
    return text


@pytest.mark.parametrize(
    ("rrtype", "data", "text"),
    [
        (1, bytes([192, 0, 2, 1]), "192.0.2.1"),
        (28, ip_address("2001:db8::1").packed, "2001:db8::1"),
        (28, ip_address("::ffff:192.0.2.1").packed, "::ffff:192.0.2.1"),
        (5, name("edge.example.net"), "edge.example.net"),
        (5, QUESTION, "www.example.com"),
        (2, b"\x03ns1" + pointer(16), "ns1.example.com"),
        (12, b"\0", "."),
        (39, name("other.example"), "other.example"),
        (15, b"\0\x0a\x04mail" + pointer(16), "10 mail.example.com"),
        (33, struct.pack("!HHH", 0, 5, 5060) + name("sip.example.com"), "0 5 5060 sip.example.com"),
        (6, name("ns.x") + name("admin.x") + struct.pack("!5I", 1, 2, 3, 4, 2**32 - 1), "ns.x admin.x 1 2 3 4 4294967295"),
        (16, b'\x05v=spf\x00\x03a"\\', r'"v=spf" "" "a\"\\"'),
        (16, b"\x04a b\xff", r'"a b\255"'),
        (13, b"\x05INTEL\x05LINUX", '"INTEL" "LINUX"'),
        (257, b"\x80\x05issueca.example; policy=ev", '128 issue "ca.example; policy=ev"'),
        (65, b"\0\x01\0", "1 ."),
        (65, b"\0\0" + name("svc.example"), "0 svc.example"),
        (
            65,
            b"\0\x01\0\0\x01\0\x06\x02h3\x02h2\0\x03\0\x02\x20\xfb\0\x04\0\x08" + bytes([1, 1, 1, 1, 1, 0, 0, 1]) + b"\0\x05\0\x04abcd",
            '1 . alpn="h3,h2" port=8443 ipv4hint=1.1.1.1,1.0.0.1 ech',
        ),
        (64, b"\0\x02\0\0\0\0\x04\0\x01\x02\x9a\0\x02\0\0\x02\x9a\0\x03abc", "2 . mandatory=alpn,key666 no-default-alpn key666"),
        (64, b'\0\x02\0\0\x01\0\x06\x05a,b"\\\0\x06\0\x10' + ip_address("2001:db8::1").packed, r'2 . alpn="a\\,b\"\\\\" ipv6hint=2001:db8::1'),
        (48, b"\x01\x01\x03\x08" + bytes(8), r"\# 12 010103080000000000000000"),
        (65280, b"", r"\# 0"),
        (65280, bytes(100), r"\# 100 " + "00" * 64 + "…"),
    ],
    ids=[
        "a", "aaaa", "mapped", "cname", "pointer", "ns", "root", "dname", "mx", "srv", "soa", "txt", "txt-bytes", "hinfo", "caa", "https-empty", "https-alias",
        "https", "svcb-keys", "svcb-alpn", "dnskey", "unknown-empty", "unknown-long",
    ],
)  # fmt: skip
def test_the_data_of_records_as_zone_files_write_it(rrtype: int, data: bytes, text: str) -> None:
    assert answer(rrtype, data) == text


@pytest.mark.parametrize(
    ("rrtype", "data"),
    [
        (1, bytes(3)),
        (1, bytes(5)),
        (28, bytes(4)),
        (5, name("edge.example.net") + b"x"),
        (5, b"\x04edg"),
        (15, b"\0"),
        (15, b"\0\x0a"),
        (33, bytes(6)),
        (6, name("ns.x") + name("admin.x") + bytes(19)),
        (16, b"\x05v=sp"),
        (257, b"\0"),
        (257, b"\0\xf0issue"),
        (257, b"\0\x03i-s"),
        (65, b"\0\x01"),
        (65, b"\0\x01\0\0\x01\0\x09\x02h3"),
        (65, b"\0\x01\0\0\x01\0\x03\x05h3"),
        (65, b"\0\x01\0\0\x03\0\x01\0"),
        (65, b"\0\x01\0\0\x04\0\x05" + bytes(5)),
        (65, b"\0\x01\0\0\0\0\x03" + bytes(3)),
    ],
)
def test_data_that_is_not_what_its_type_says_hides_no_other(rrtype: int, data: bytes) -> None:
    parsed = parse(message(record(rrtype, data), record(1, bytes(4)), OPT, counts=(2, 0, 1)), whole=True)
    assert parsed.answers == (f"\\# {len(data)} {data.hex()}", "0.0.0.0")


def test_addresses_of_other_classes_have_another_form() -> None:
    assert answer(1, name("ch-addr.net") + b"\0\x01", rrclass=3).startswith(r"\# 15 ")


def test_an_update_deletes_with_empty_data() -> None:
    parsed = parse(message(record(1, b"", rrclass=255), flags=0x2800), whole=True)
    assert (parsed.opcode, parsed.answers) == ("UPDATE", ("\\# 0",))


def test_long_text_is_cut() -> None:
    data = b"".join(b"\xff" + b"x" * 255 for _ in range(20))
    text = answer(16, data)
    assert len(text) == TEXT
    assert text.endswith("…")


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"\0", "."),
        (name("WwW.ExAmPlE.com"), "WwW.ExAmPlE.com"),
        (name("_dns-sd._udp.local"), "_dns-sd._udp.local"),
        (b"\x03a.b\x03c\\d\0", r"a\.b.c\\d"),
        (b"\x04\x00\x1f\x7f\xff\0", r"\000\031\127\255"),
        (b"\x0bLiving Room\0", r"Living\032Room"),
        (b'\x07"();@$x\0', r"\"\(\)\;\@\$x"),
        (name("é.example"), r"\195\169.example"),
        (b"\x3f" + b"a" * 63 + b"\0", "a" * 63),
        ((b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0", ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_names_as_text(wire: bytes, text: str) -> None:
    asked = wire + struct.pack("!HH", 1, 1)
    assert parse(message(question=asked, flags=0x0100), whole=True).query == text
    assert answer(5, wire) == text
