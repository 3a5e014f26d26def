"""Certificates as servers send them, in any pieces; those that are hidden or missing, and names that are odd."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7.der import names
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tls import (
    answers,
    server_certificates,
    server_hello,
)
from daemoneye_sensor.l7.tlsrecords import LONGEST
from tests.support.handshakes import (
    Peers,
    client_context,
    flight,
    records,
    server_context,
    sized,
)

TLS12 = ssl.TLSVersion.TLSv1_2
KEY = ec.generate_private_key(ec.SECP256R1())


def name_of(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def certificate_of(subject: x509.Name, issuer: x509.Name) -> x509.Certificate:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(KEY.public_key()).serial_number(7)
        .not_valid_before(now).not_valid_after(now + dt.timedelta(days=3650)).sign(KEY, hashes.SHA256())
    )  # fmt: skip


CERTIFICATE = certificate_of(
    name_of(
        (NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Müller, Söhne + Co"), (NameOID.COMMON_NAME, "www.example.com"),
        (NameOID.EMAIL_ADDRESS, "it@example.com"),
    ),
    name_of((NameOID.ORGANIZATION_NAME, "An Issuer"), (NameOID.COMMON_NAME, "#1 CA ")),
)  # fmt: skip
DER = CERTIFICATE.public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """The certificate and its key."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(CERTIFICATE.public_bytes(serialization.Encoding.PEM) + key)
    return path


@pytest.fixture(scope="module")
def answered(pem):
    """What a server of TLS 1.2 sends first: ServerHello, Certificate, ServerKeyExchange, ServerHelloDone."""
    return Peers(client_context(), server_context(pem, TLS12)).server_flight()


def test_certificate_of_tls_1_2(answered):
    answer = server_certificates(answered)
    assert answer is not None
    assert (answer.version, answer.cipher, answer.given) == ("1.2", 0xC02C, "sent")
    assert answer.subject == r"emailAddress=it@example.com,CN=www.example.com,O=Müller\, Söhne \+ Co,C=DE"
    assert answer.issuer == r"CN=\#1 CA\ ,O=An Issuer"
    assert answer.sha256 == CERTIFICATE.fingerprint(hashes.SHA256()).hex()


def test_certificate_is_told_as_soon_as_it_is_there(answered):
    whole = server_certificates(answered)
    states = [server_certificates(answered[:cut]) for cut in range(len(answered))]
    first = states.index(whole)
    assert states == [None] * first + [whole] * (len(answered) - first)
    assert answered[:first].endswith(DER)


def test_certificate_in_records_of_one_byte(answered):
    length = int.from_bytes(answered[3:5])
    hello, rest = answered[5 : 5 + length], answered[5 + length :]
    stream = hello + rest[5 : 5 + int.from_bytes(rest[3:5])]
    assert server_certificates(records(stream, 1)) == server_certificates(answered)


def test_tls_1_3_hides_certificates(pem):
    answer = server_certificates(Peers(client_context(), server_context(pem)).server_flight())
    assert answer is not None
    assert (answer.version, answer.cipher, answer.given, answer.subject, answer.sha256) == (
        "1.3",
        0x1302,
        "hidden",
        "",
        "",
    )


def test_hello_retry_request_is_tls_1_3(pem):
    server = server_context(pem)
    server.set_ecdh_curve("secp384r1")
    answer = server_certificates(Peers(client_context(), server).server_flight())
    assert answer is not None
    assert (answer.version, answer.given) == ("1.3", "hidden")


def test_resumed_session_has_no_certificate(pem):
    client, server = client_context(TLS12), server_context(pem, TLS12)
    session = Peers(client, server).finish()
    peers = Peers(client, server, session=session)
    answer = server_certificates(peers.server_flight())
    assert answer is not None
    assert (answer.version, answer.given, answer.sha256) == ("1.2", "none", "")


def test_refused_client_gets_no_server_hello(pem):
    server = server_context(pem)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(Malformed, match="record of Alert"):
        server_certificates(Peers(client_context(TLS12), server).server_flight())


SERVER_HELLO = b"\x02" + sized(b"\x03\x03" + bytes(32) + b"\0" + b"\xc0\x2f" + b"\0", 3)


def chain(*certificates: bytes) -> bytes:
    return b"\x0b" + sized(sized(b"".join(sized(one, 3) for one in certificates), 3), 3)


@pytest.mark.parametrize(
    "rest",
    [records(b"\x02\x28", kind=21), records(b"\x01", kind=20), records(b"\x0c\0\0\0"), records(b"\x0e\0\0\0"), records(chain())],
    ids=["alert", "change cipher spec", "key exchange", "done", "empty chain"],
)  # fmt: skip
def test_handshake_without_certificate(rest):
    answer = server_certificates(records(SERVER_HELLO) + rest)
    assert answer is not None
    assert (answer.version, answer.cipher, answer.given) == ("1.2", 0xC02F, "none")


def test_server_hello_alone_is_incomplete():
    assert server_certificates(records(SERVER_HELLO)) is None


WARNING = records(b"\x01\x70", kind=21)  # unrecognized_name (RFC 6066 3)


@pytest.mark.parametrize("warnings", [1, 2])
def test_warnings_before_the_answer_end_nothing(answered, warnings):
    said = WARNING * warnings + answered
    assert answers(said)
    assert server_certificates(said) == server_certificates(answered)
    assert [server_certificates(said[:cut]) for cut in range(1, 7 * warnings)] == [None] * (7 * warnings - 1)
    assert not answers(records(b"\x02\x28", kind=21)), "it refused"


def test_server_hello_by_itself(answered):
    assert server_hello(records(SERVER_HELLO)) == server_hello(records(SERVER_HELLO + chain(bytes(LONGEST + 1))[:50]))
    hello = server_hello(WARNING + answered)
    assert hello is not None
    assert (hello.version, hello.cipher, hello.given, hello.sha256) == ("1.2", 0xC02C, "none", "")
    assert server_hello(records(SERVER_HELLO)[:20]) is None


@pytest.mark.parametrize(("version", "text"), [(0x7F12, "0x7f12"), (0x7E01, "0x7e01"), (0x0304, "1.3")])
def test_drafts_of_tls_1_3_had_a_shorter_server_hello(version, text):
    body = version.to_bytes(2) + bytes(32) + b"\x13\x01" + sized(b"\0\x28" + sized(bytes(36)))
    answer = server_certificates(records(b"\x02" + sized(body, 3)))
    assert answer is not None
    assert (answer.version, answer.cipher, answer.given) == (text, 0x1301, "hidden")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (flight(), "message of type 1, not with a ServerHello"),
        (records(b"\x02\x01\x00\x01"), "65537 bytes"),
        (records(SERVER_HELLO[:20]) + records(b"\x02\x28", kind=21), "ServerHello is not complete"),
        (records(SERVER_HELLO + chain(DER)[:50]) + records(b"\x02\x28", kind=21), "Certificate message is not complete"),
        (records(SERVER_HELLO + chain(bytes(LONGEST + 1))[:50]), "certificate of 65537 bytes"),
        (records(SERVER_HELLO + b"\x0b\0\0\x10" + b"\0\0\x20" + b"\0\0\x04"), "lengths of the Certificate message disagree"),
        (records(b"\x02" + sized(b"\x03\x03" + bytes(33) + b"\xc0", 3)), "within its cipher suite"),
        (records(b"\x02" + sized(SERVER_HELLO[4:] + sized(b"\0\x2b\0\x01\x03"), 3)), "has 1 bytes, not 2"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told(data, text):
    with pytest.raises(Malformed, match=text):
        server_certificates(data)


@given(st.binary(min_size=1, max_size=300))
def test_odd_certificate_has_at_least_its_hash(der):
    answer = server_certificates(records(SERVER_HELLO + chain(der)))
    assert answer is not None
    assert answer.given == "sent"
    assert len(answer.sha256) == 64


@given(st.data())
def test_mutated_answers_are_malformed_at_worst(answered, data):
    changed = bytearray(answered[:900])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed):
        server_certificates(bytes(changed))


# Names in certificates.

VALUES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from(' #,+"\\<>;='),
    min_size=1,
    max_size=20,
)
PARTS = st.sampled_from(
    [
        NameOID.COMMON_NAME, NameOID.LOCALITY_NAME, NameOID.STATE_OR_PROVINCE_NAME, NameOID.ORGANIZATION_NAME,
        NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.STREET_ADDRESS, NameOID.USER_ID,
    ]
)  # fmt: skip


@given(st.lists(st.lists(st.tuples(PARTS, VALUES), min_size=1, max_size=3, unique_by=lambda part: part[0]), max_size=5))
def test_names_are_what_cryptography_reads(parts):
    name = x509.Name(
        x509.RelativeDistinguishedName(x509.NameAttribute(oid, value) for oid, value in part) for part in parts
    )
    text, issuer = names(long_form(long_form(b"\x02\x01\x01" + b"\x30\x00" * 3 + name.public_bytes())))
    assert issuer == ""
    assert x509.Name.from_rfc4514_string(text) == name


def long_form(content: bytes) -> bytes:
    return b"\x30\x84" + sized(content, 4)


def tbs(subject: bytes) -> bytes:
    return long_form(long_form(b"\xa0\x03\x02\x01\x02\x02\x01\x01\x30\x00\x30\x00\x30\x00" + subject))


def part(oid: bytes, kind: int, value: bytes) -> bytes:
    attribute = b"\x06" + sized(oid, 1) + bytes((kind,)) + sized(value, 1)
    return b"\x31" + sized(b"\x30" + sized(attribute, 1), 1)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (part(b"\x55\x04\x03", 30, "Bé".encode("utf-16-be")), "CN=Bé"),
        (part(b"\x55\x04\x03", 28, "Bé".encode("utf-32-be")), "CN=Bé"),
        (part(b"\x55\x04\x03", 20, b"B\xe9"), "CN=Bé"),
        (part(b"\x55\x04\x03", 12, b"B\xe9"), "CN=#0c0242e9"),
        (part(b"\x55\x04\x03", 19, b"B\xe9"), "CN=#130242e9"),
        (part(b"\x55\x04\x03", 3, b"\0\x01"), "CN=#03020001"),
        (part(b"\x55\x04\x03", 12, b"a\0b\x1b[1m"), r"CN=a\00b\1B[1m"),
        (part(b"\x55\x04\x03", 12, b" "), "CN=\\ "),
        (part(b"\x55\x04\x03", 12, b""), "CN="),
        (part(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x02", 12, b"x"), "1.2.840.113549.1.9.2=#0c0178"),
        (part(b"\x88\x37\x01", 12, b"x"), "2.999.1=#0c0178"),
        (part(b"", 12, b"x"), "0=#0c0178"),
        (b"", ""),
        (b"\x31\x05\x30", ""),
    ],
)  # fmt: skip
def test_names_of_any_kind(subject, text):
    assert names(tbs(b"\x30" + sized(subject, 1))) == (text, "")


@given(st.binary(max_size=200), st.integers(0, len(DER)))
def test_names_of_anything_are_text(data, cut):
    for der in (data, DER[:cut], DER[:cut] + data, b"\x30\x80" + data, tbs(data)):
        subject, issuer = names(der)
        assert (subject + issuer).isprintable() or subject + issuer
