"""Processes that talk over sockets, for tests that know to the byte what was said.

`python talking.py serve …` and `… call …`: each prints JSON lines about what it did, so that a test holds rows against what the processes themselves
saw.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def say(**fields: object) -> None:
    """One line for the test, in one piece: several processes write to one pipe."""
    os.write(1, json.dumps({"pid": os.getpid(), **fields}).encode() + b"\n")


def read_all(connection: socket.socket) -> int:
    """Bytes until the other side ends."""
    total = 0
    while data := connection.recv(65_536):
        total += len(data)
    return total


def answer(connection: socket.socket, size: int) -> None:
    """Read a request to its end, answer, close."""
    with connection:
        received = read_all(connection)
        connection.sendall(bytes(size))
        address, port = connection.getpeername()[:2]
        say(address=address, peer=port, received=received)


def serve(address: str, size: int, workers: int) -> None:
    """Answer every connection with `size` bytes, in as many processes, until killed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family, backlog=77, dualstack_ipv6=address == "::") as server:
        for _ in range(workers):
            if not os.fork():
                while True:
                    answer(server.accept()[0], size)
        say(port=server.getsockname()[1])
        signal.pause()


def call(address: str, port: int, size: int, times: int) -> None:
    """So many connections, each with `size` bytes; its end is said before the answer is read."""
    for _ in range(times):
        with socket.create_connection((address, port)) as connection:
            own = connection.getsockname()[1]
            connection.sendall(bytes(size))
            connection.shutdown(socket.SHUT_WR)
            say(port=own, sent=size, received=read_all(connection))


def datagrams(address: str, port: int, times: int, sockets: int = 1) -> None:
    """Connected UDP sockets, one after another: `times` datagrams of 100 bytes, each answered; an empty one last, which is not."""
    for _ in range(sockets):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.connect((address, port))
            for _ in range(times):
                udp.send(bytes(100))
                udp.recv(1000)
            udp.send(b"")
            say(port=udp.getsockname()[1])


def ask(address: str, port: int, times: int, loose: int) -> None:
    """So many questions over UDP, each from a socket of its own, which is connected, or (`loose`) has neither a peer nor an address."""
    for _ in range(times):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as udp:
            if not loose:
                udp.connect((address, port))
                udp.send(b"?")
            else:
                udp.sendto(b"?", (address, port))
            udp.settimeout(60)
            udp.recv(1000)
            say(port=udp.getsockname()[1])


def echo(address: str, size: int) -> None:
    """Answer every datagram that is not empty with `size` bytes, until killed."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((address, 0))
        say(port=udp.getsockname()[1])
        while True:
            data, peer = udp.recvfrom(1000)
            if data:
                udp.sendto(bytes(size), peer)


def names(address: str) -> None:
    """A name server that knows no name, until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((address, 53))
        say(port=53)
        while True:
            query, peer = udp.recvfrom(1000)
            udp.sendto(query[:2] + b"\x81\x83" + query[4:], peer)


def web(address: str) -> None:
    """Answer every request of HTTP with nothing, until killed."""
    with socket.create_server((address, 0)) as server:
        say(port=server.getsockname()[1])
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nServer: talking\r\n\r\n")


def visit(address: str, port: int, times: int, own_port: int) -> None:
    """So many processes, one after the other: each asks for a name, from that port (0: any), and then for a page, both of which bear its number,
    and ends."""
    for number in range(times):
        if not os.fork():
            own = os.getpid()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                label = b"p%d" % own
                query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0%c%s\x07example\0\0\x01\0\x01" % (len(label), label)
                if own_port:
                    udp.bind(("", own_port))
                if number % 2:
                    udp.connect((address, 53))
                    udp.send(query)
                else:
                    udp.sendto(query, (address, 53))
                udp.recv(1000)
            with socket.create_connection((address, port)) as connection:
                connection.sendall(b"GET /p%d HTTP/1.1\r\nHost: p%d.example\r\n\r\n" % (own, own))
                read_all(connection)
            say()
            os._exit(0)
        os.wait()


def hold(address: str, port: int) -> None:
    """A connection that says three bytes whenever a line comes in, and ends with the input."""
    with socket.create_connection((address, port)) as connection:
        say(port=connection.getsockname()[1])
        for _ in sys.stdin:
            connection.sendall(b"abc")
            say(said=3)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    {
        "serve": serve,
        "call": call,
        "datagrams": datagrams,
        "ask": ask,
        "echo": echo,
        "names": names,
        "web": web,
        "visit": visit,
        "hold": hold,
    }[what](
        *(int(word) if word.isdecimal() else word for word in words)  # type: ignore[operator]
    )
