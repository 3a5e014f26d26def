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
        say(peer=connection.getpeername()[1], received=received)


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
            say(port=own, received=read_all(connection))


def datagrams(address: str, port: int, times: int) -> None:
    """A connected UDP socket: `times` datagrams of 100 bytes, each answered; an empty one last, which is not."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((address, port))
        for _ in range(times):
            udp.send(bytes(100))
            udp.recv(1000)
        udp.send(b"")
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
    {"serve": serve, "call": call, "datagrams": datagrams, "echo": echo, "hold": hold}[what](
        *(int(word) if word.isdecimal() else word for word in words)  # type: ignore[operator]
    )
