"""Real traffic in a network namespace of its own, captured: `unshare -n python traffic.py FILE`.

Servers and clients are Python's and OpenSSL's own, so that what is captured is what such programs send: HTTP, TLS 1.2 with a certificate, TLS 1.3,
DNS. The last line on stdout is JSON: the certificate's SHA-256 and the ports.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.client
import http.server
import json
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scapy.layers.dns import DNS, DNSRR

_OUTGOING = 4
_HOST = "127.0.0.1"


class _Capture(threading.Thread):
    """Frames of the loopback interface, once each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind(("lo", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self.frames: list[tuple[float, bytes]] = []

    def run(self) -> None:
        while True:
            try:
                frame, about = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                if self._over.is_set():
                    return
                continue
            if about[2] != _OUTGOING:
                self.frames.append((time.time(), frame))

    def write(self, path: Path) -> None:
        """What was seen, as a pcap file with nanoseconds."""
        self._over.set()
        self.join()
        self._socket.close()
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 17, 1))
            for moment, frame in self.frames:
                seconds = int(moment)
                file.write(struct.pack("<IIII", seconds, int((moment - seconds) * 1e9), len(frame), len(frame)) + frame)


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"x" * 20_000
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _serving(context: ssl.SSLContext | None) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer((_HOST, 0), _Pages)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def _certificate(directory: Path) -> tuple[Path, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Shop"),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    path = directory / "server.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path, hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


def _server_context(certificate: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.minimum_version = context.maximum_version = version
    return context


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _tls(port: int, name: str | None) -> None:
    with (
        socket.create_connection((_HOST, port)) as raw,
        _client_context().wrap_socket(raw, server_hostname=name) as client,
    ):
        client.sendall(b"GET /secret HTTP/1.1\r\nHost: hidden\r\nConnection: close\r\n\r\n")
        while client.recv(1 << 16):
            pass


def _dns(names: list[str]) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((_HOST, 53))

    def answer() -> None:
        for _ in names:
            data, whom = server.recvfrom(4096)
            asked = DNS(data)
            known = not asked.qd[0].qname.startswith(b"no")
            records = [DNSRR(rrname=asked.qd[0].qname, ttl=300, rdata="192.0.2.7")] if known else None
            server.sendto(bytes(DNS(id=asked.id, qr=1, rcode=0 if known else 3, qd=asked.qd, an=records)), whom)

    thread = threading.Thread(target=answer)
    thread.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for number, name in enumerate(names):
            question = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
            client.sendto(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + b"\0\0\1\0\1", (_HOST, 53))
            client.recv(4096)
    thread.join()
    server.close()


def main(path: Path) -> None:
    """Make the traffic and write it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    capture = _Capture()
    capture.start()
    with tempfile.TemporaryDirectory() as directory:
        certificate, digest = _certificate(Path(directory))
        with (
            _serving(None) as plain,
            _serving(_server_context(certificate, ssl.TLSVersion.TLSv1_2)) as old,
            _serving(_server_context(certificate, ssl.TLSVersion.TLSv1_3)) as new,
        ):
            connection = http.client.HTTPConnection(_HOST, plain)
            for target in ("/index?api_key=hunter2", "/missing"):
                connection.request("GET", target, headers={"Host": "shop.example", "User-Agent": "tests/1"})
                connection.getresponse().read()
            connection.close()
            _tls(old, "shop.example")
            _tls(new, "shop.example")
            _tls(new, None)
        _dns(["www.example.org", "no.example.org"])
    capture.write(path)
    print(json.dumps({"certificate": digest, "plain": plain, "old": old, "new": new}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
