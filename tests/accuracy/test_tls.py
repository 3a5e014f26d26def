"""TLS and QUIC: hellos, fingerprints and certificates against tshark; names in certificates against OpenSSL's own text of them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.accuracy import browsers, world
from tests.accuracy.tshark import Fields, endpoints, ends, epoch, fields, knows

VERSIONS = {0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
GREASE = {0x0A0A + 0x1010 * i for i in range(16)}
HELLO = [
    "frame.time_epoch", "tls.handshake.extensions_server_name", "tls.handshake.extensions_alpn_str", "tls.handshake.version",
    "tls.handshake.extensions.supported_version", "tls.handshake.ciphersuite", "tls.handshake.extension.type", "tls.handshake.sig_hash_alg",
    "tls.handshake.sig_hash_alg_len",
    "tls.handshake.length", "tls.handshake.ja3", "tls.segment.count", "tcp.segment.count",
]  # fmt: skip


def numbers(texts: list[str]) -> list[int]:
    return [int(text, 0) for text in texts]


def versions(hello: Fields) -> list[int]:
    """Those that are offered."""
    offered = [n for n in numbers(hello["tls.handshake.extensions.supported_version"]) if n not in GREASE]
    return offered or numbers(hello["tls.handshake.version"])


def signatures(hello: Fields) -> list[int]:
    """Those of signature_algorithms: tshark lists those of delegated_credentials and signature_algorithms_cert with them, in the order of extensions."""
    extensions = [n for n in numbers(hello["tls.handshake.extension.type"]) if n in {13, 34, 50}]
    listed = iter(numbers(hello["tls.handshake.sig_hash_alg"]))
    sizes = numbers(hello["tls.handshake.sig_hash_alg_len"])
    lists = {extension: list(islice(listed, size // 2)) for extension, size in zip(extensions, sizes, strict=True)}
    return lists.get(13, [])


def ja4_of(hello: Fields, transport: str) -> str:
    """JA4 by FoxIO's technical_details/JA4.md out of the numbers that tshark read."""

    def real(name: str) -> list[int]:
        return [number for number in numbers(hello[name]) if number not in GREASE]

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0" * 12

    ciphers, extensions = sorted(real("tls.handshake.ciphersuite")), sorted(real("tls.handshake.extension.type"))
    first = (hello["tls.handshake.extensions_alpn_str"] or ["00"])[0]
    told = ",".join(f"{number:04x}" for number in extensions if number not in {0, 16})
    algorithms = ",".join(f"{number:04x}" for number in signatures(hello) if number not in GREASE)
    version = VERSIONS[max(versions(hello))].replace(".", "")
    return (
        f"{transport}{version}{'d' if 0 in extensions else 'i'}{min(len(ciphers), 99):02d}{min(len(extensions), 99):02d}"
        f"{first[0]}{first[-1]}_{digest(','.join(f'{number:04x}' for number in ciphers))}_{digest(f'{told}_{algorithms}' if algorithms else told)}"
    )


def told(hello: Fields, transport: str) -> dict[str, Any]:
    """What a hello's event has to say, but for what only TLS over TCP has."""
    named = 0 in numbers(hello["tls.handshake.extension.type"])
    expected = {
        "sni": hello["tls.handshake.extensions_server_name"][0] if named else None,
        "alpn": hello["tls.handshake.extensions_alpn_str"],
        "ja4": ja4_of(hello, transport),
        "hello_bytes": int(hello["tls.handshake.length"][0]) + 4,
        "absent": not named,
    }
    if transport == "t":
        expected["version"] = VERSIONS[max(versions(hello))]
        expected["ja3"] = hello["tls.handshake.ja3"][0]
    return expected


def event_told(event: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    return {name: "sni_absent" in event["flags"] if name == "absent" else event[name] for name in expected}


@pytest.fixture(scope="module")
def hellos(wire: Path) -> dict[tuple[str, int, str, int], Fields]:
    """The first ClientHello of each connection."""
    names = [*ends("tcp"), *HELLO, *(["tls.handshake.ja4"] if knows("tls.handshake.ja4") else [])]
    found: dict[tuple[str, int, str, int], Fields] = {}
    for packet in fields(wire, "tcp && tls.handshake.type == 1", names):
        found.setdefault(endpoints(packet, "tcp"), packet)
    return found


def test_every_client_hello(ours: dict[str, list[dict[str, Any]]], hellos: dict[Any, Fields]) -> None:
    events = {(e["src_ip"], e["src_port"], e["dst_ip"], e["dst_port"]): e for e in ours["tls_client_hello"]}
    assert len(events) == len(ours["tls_client_hello"]) >= 30
    assert set(events) == set(hellos)
    for connection, hello in hellos.items():
        event, expected = events[connection], told(hello, "t")
        if "tls.handshake.ja4" in hello:
            assert event["ja4"] == hello["tls.handshake.ja4"][0]
        assert event_told(event, expected) == expected, connection
        if not hello["tcp.segment.count"]:  # else tshark tells the time of the last segment
            assert event["time"] == epoch(hello["frame.time_epoch"][0])


def test_what_servers_answered(ours: dict[str, list[dict[str, Any]]], wire: Path, hellos: dict[Any, Fields]) -> None:
    names = [
        *ends("tcp"),
        "tls.handshake.version",
        "tls.handshake.extensions.supported_version",
        "tls.handshake.ciphersuite",
    ]
    answers: dict[tuple[str, int, str, int], Fields] = {}
    for packet in fields(wire, "tcp && tls.handshake.type == 2", names):
        src, sport, dst, dport = endpoints(packet, "tcp")
        answers.setdefault((dst, dport, src, sport), packet)
    certificates: dict[tuple[str, int, str, int], bytes] = {}
    for packet in fields(wire, "tcp && tls.handshake.type == 11", [*ends("tcp"), "tls.handshake.certificate"]):
        src, sport, dst, dport = endpoints(packet, "tcp")
        certificates[dst, dport, src, sport] = bytes.fromhex(packet["tls.handshake.certificate"][0].replace(":", ""))
    assert len(certificates) >= 12
    assert len({hashlib.sha256(der).hexdigest() for der in certificates.values()}) == 2
    for event in ours["tls_client_hello"]:
        connection = event["src_ip"], event["src_port"], event["dst_ip"], event["dst_port"]
        answer = answers.get(connection)
        assert ("response_unseen" in event["flags"]) == (answer is None), connection  # refused by an alert, or silent
        if answer is None:
            assert event["server_version"] == event["server_cipher"] == event["certificate_sha256"] == ""
            continue
        chosen = answer["tls.handshake.extensions.supported_version"] or answer["tls.handshake.version"]
        assert event["server_version"] == VERSIONS[int(chosen[0], 0)]
        assert int(event["server_cipher"], 16) == int(answer["tls.handshake.ciphersuite"][0], 0)
        assert ("certificate_hidden" in event["flags"]) == (event["server_version"] == "1.3")
        der = certificates.get(connection)
        assert event["certificate_sha256"] == (hashlib.sha256(der).hexdigest() if der else "")
        assert (event["certificate_subject"], event["certificate_issuer"]) == (names_in(der) if der else ("", "")), (
            connection
        )


def names_in(der: bytes) -> tuple[str, str]:
    """(subject, issuer) as OpenSSL writes them by RFC 2253, which RFC 4514 is the successor of; UTF-8 as such."""
    done = subprocess.run(
        ["openssl", "x509", "-inform", "der", "-noout", "-subject", "-issuer", "-nameopt", "RFC2253,-esc_msb,utf8"],
        input=der, capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    # Of the attributes of one part of a name any order is right (RFC 4514 2.2): OpenSSL turns them round too.
    subject, issuer = done.stdout.decode().replace("UID=two+OU=one", "OU=one+UID=two").splitlines()
    return subject.removeprefix("subject="), issuer.removeprefix("issuer=")


def test_the_capture_has_what_it_is_for(hellos: dict[Any, Fields], ours: dict[str, list[dict[str, Any]]]) -> None:
    offered = {VERSIONS[max(versions(h))] for h in hellos.values()}
    assert offered == {"1.0", "1.1", "1.2", "1.3"}
    assert {e["server_version"] for e in ours["tls_client_hello"]} == {"1.0", "1.1", "1.2", "1.3", ""}
    assert any(int(h["tls.handshake.length"][0]) > 5000 for h in hellos.values())  # more than three segments
    assert any(not h["tls.handshake.extension.type"] for h in hellos.values())
    ports = {e["dst_port"]: e for e in ours["tls_client_hello"]}
    assert ports[world.ANONYMOUS]["certificate_sha256"] == ports[world.SHARED]["certificate_sha256"] == ""
    names = {e["certificate_subject"] for e in ours["tls_client_hello"]}
    assert any("Köln" in name for name in names)


def test_every_quic_client(ours: dict[str, list[dict[str, Any]]], wire: Path) -> None:
    names = [*ends("udp"), *(name for name in HELLO if not name.startswith("tcp")), "udp.stream"]
    expected = {endpoints(packet, "udp"): packet for packet in fields(wire, "quic && tls.handshake.type == 1", names)}
    first: dict[tuple[str, int, str, int], Fields] = {}
    for packet in fields(
        wire, "quic.header_form == 1", [*ends("udp"), "frame.time_epoch", "quic.version", "quic.dcid"]
    ):
        first.setdefault(endpoints(packet, "udp"), packet)
    events = {(e["src_ip"], e["src_port"], e["dst_ip"], e["dst_port"]): e for e in ours["quic_initial"]}
    assert set(events) == set(expected)
    assert len(events) == len(ours["quic_initial"]) >= 7
    for connection, hello in expected.items():
        event, begin, wanted = events[connection], first[connection], told(hello, "q")
        assert event_told(event, wanted) == wanted
        assert event["version"] == {1: "1", 0x6B3343CF: "2"}[int(begin["quic.version"][0], 0)]
        assert event["connection_id"] == begin["quic.dcid"][0].replace(":", "")
        assert event["time"] == epoch(begin["frame.time_epoch"][0])
    assert {e["version"] for e in events.values()} == {"1", "2"}
    assert any(e["hello_bytes"] > 1500 for e in events.values())  # in two datagrams


@pytest.mark.parametrize("name", browsers.BROWSERS)
def test_a_browser(name: str, ours: dict[str, list[dict[str, Any]]]) -> None:
    """That it said what it is there for; the tests above compare it. Into how many pieces Chromium cuts its hello is drawn by lot, none included."""
    if not shutil.which(browsers.BROWSERS[name]):
        pytest.skip(f"no {browsers.BROWSERS[name]}: scripts/setup.sh tests installs it on Debian")
    hellos = [e for e in ours["tls_client_hello"] if e["sni"] == f"{name}.shop.example"]
    quic = [e for e in ours["quic_initial"] if e["sni"] == f"{name}-quic.shop.example"]
    for hello in (hellos[0], quic[0]):
        assert hello["hello_bytes"] > 1500  # a key share of ML-KEM
        assert "ech" in hello["flags"]
    assert {e["alpn"][0] for e in hellos} == {"h2"}
    assert {e["alpn"][0] for e in quic} == {"h3"}
    requests = [e for e in ours["http_request"] if e["host"] == f"{name}.shop.example"]
    assert "/browser?page=1&token=REDACTED" in {e["uri"] for e in requests}
