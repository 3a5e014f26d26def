"""What one message costs a parser: microseconds of a core, every message with a name of its own, as their caches would flatter them otherwise."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from daemoneye_sensor.l7 import dns, http, ja, tls
from tests.bench.tables import Outcome, Target
from tests.support.handshakes import flight

_MESSAGES: Final = 10_000
"""More than the caches of names hold, so that a second round finds none of the first's."""
_HELLOS: Final = 1_000
_BOUNDS: Final = {"dns": 5.0, "tls": 20.0, "http": 5.0}


def table(*, rounds: int, scale: float) -> Outcome:
    """The bench: `data` has the µs of each round by protocol."""
    count, hellos = max(int(_MESSAGES * scale), 5_000), max(int(_HELLOS * scale), 100)
    names = [f"host-{number}.shop.example.org" for number in range(count)]
    work: dict[str, tuple[str, Callable[[bytes], Any], list[bytes]]] = {
        "dns": ("a response of DNS with two answers", dns.parse, [_response(name, i) for i, name in enumerate(names)]),
        "tls": ("a ClientHello of OpenSSL, with JA4", _hello, [flight(name) for name in names[:hellos]]),
        "ja3": ("the same, with JA3 besides", _hello_with_ja3, [flight(name) for name in names[:hellos]]),
        "http": ("a request of curl's", http.request, [_request(name, i) for i, name in enumerate(names)]),
    }
    outcome = Outcome("parsers", ("message", "bytes", "µs a message"))
    for name, (text, parse, messages) in work.items():
        taken = [_microseconds(parse, messages) for _ in range(rounds)]
        outcome.rows.append((text, sum(map(len, messages)) // len(messages), taken))
        outcome.data[name] = taken
        if name in _BOUNDS:
            outcome.targets.append(Target(f"{name} message", sorted(taken)[rounds // 2], _BOUNDS[name], unit=" µs"))
    return outcome


def _microseconds(parse: Callable[[bytes], Any], messages: Sequence[bytes]) -> float:
    begin = time.process_time()
    for message in messages:
        parse(message)
    return (time.process_time() - begin) * 1e6 / len(messages)


def _hello(data: bytes) -> str:
    hello = tls.client_hello(data)
    assert hello is not None
    return ja.ja4(hello, "t")


def _hello_with_ja3(data: bytes) -> str:
    hello = tls.client_hello(data)
    assert hello is not None
    return ja.ja4(hello, "t") + ja.ja3(hello)


def _response(name: str, number: int) -> bytes:
    """As servers send it: the name once, then pointers to it."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", number % 65_536, 0x8180, 1, 2, 0, 0) + labels + b"\0\0\1\0\1"
    return question + b"".join(struct.pack("!HHHIHI", 0xC00C, 1, 1, 60, 4, 0xC0000200 + last) for last in (1, 2))


def _request(name: str, number: int) -> bytes:
    return f"GET /items/{number}?page=2 HTTP/1.1\r\nHost: {name}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n".encode()
