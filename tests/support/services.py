"""A pod's servers, and a client of them, for tests about packets: `ip netns exec NAME python services.py serve|ask …`.

Servers and clients are Python's and OpenSSL's own. Both speak JSON lines: a server says its ports and serves until it is killed, a client does what each
line asks of it and says what it saw.
"""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.traffic import _certificate, _client_context, _Pages, _server_context


def say(**fields: object) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def name_of(question: bytes) -> tuple[str, int]:
    """The name that a DNS message asks for, and where the question ends."""
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    return ".".join(labels), at + 5


def serve_dns(address: str) -> None:
    """192.0.2.7 for every name but those that begin with `no`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((address, 53))
        while True:
            data, peer = udp.recvfrom(4096)
            name, end = name_of(data)
            answer = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 300, 4) + bytes((192, 0, 2, 7))
            known = not name.startswith("no")
            header = data[:2] + struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, known, 0, 0)
            udp.sendto(header + data[12:end] + (answer if known else b""), peer)


def serve_echo(udp: socket.socket) -> None:
    """Every datagram back."""
    while True:
        data, peer = udp.recvfrom(4096)
        udp.sendto(data, peer)


def serve(address: str) -> None:
    """HTTP, TLS 1.2 and 1.3, DNS and an echo over UDP on an address, until killed."""
    ports: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        certificate, ports["certificate"] = _certificate(Path(directory))
        contexts = {
            "http": None,
            "old": _server_context(certificate, ssl.TLSVersion.TLSv1_2),
            "new": _server_context(certificate, ssl.TLSVersion.TLSv1_3),
        }
    for name, context in contexts.items():
        server = http.server.ThreadingHTTPServer((address, 0), _Pages)
        server.daemon_threads = True
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ports[name] = server.server_address[1]
    threading.Thread(target=serve_dns, args=(address,), daemon=True).start()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, 0))
    ports["echo"] = udp.getsockname()[1]
    threading.Thread(target=serve_echo, args=(udp,), daemon=True).start()
    say(**ports)
    signal.pause()


def ask_dns(address: str, name: str, times: int = 1, *, wait: bool = True) -> int:
    """Ask for a name so often; the port that asked."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(60)
        for number in range(times):
            udp.sendto(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + b"\0\0\1\0\1", (address, 53))
            if wait:
                udp.recv(4096)
        return int(udp.getsockname()[1])


def ask_http(address: str, port: int, target: str, host: str) -> int:
    """One request; the port that asked."""
    connection = http.client.HTTPConnection(address, port, timeout=60)
    connection.connect()
    own = int(connection.sock.getsockname()[1])
    connection.request("GET", target, headers={"Host": host, "User-Agent": "tests/1"})
    connection.getresponse().read()
    connection.close()
    return own


def ask_tls(address: str, port: int, name: str) -> int:
    """One handshake and a request; the port that asked."""
    with (
        socket.create_connection((address, port), timeout=60) as raw,
        _client_context().wrap_socket(raw, server_hostname=name) as client,
    ):
        own = int(client.getsockname()[1])
        client.sendall(b"GET /hidden HTTP/1.1\r\nHost: hidden\r\nConnection: close\r\n\r\n")
        while client.recv(1 << 16):
            pass
        return own


def ask_echo(address: str, port: int, times: int, size: int) -> int:
    """So many datagrams, each answered; the port that asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(60)
        for _ in range(times):
            udp.sendto(bytes(size), (address, port))
            udp.recv(4096)
        return int(udp.getsockname()[1])


def ask(address: str) -> None:
    """Do what the lines of the input ask for: {"what": "dns", …}."""
    asking: dict[str, Callable[..., int]] = {"dns": ask_dns, "http": ask_http, "tls": ask_tls, "echo": ask_echo}
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        say(port=asking[wanted.pop("what")](address, **wanted))


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](sys.argv[2])
