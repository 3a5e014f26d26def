"""A load generator for nats-server: thousands of nodes' sensors as far as the broker sees them, `python -m tests.bench.natsload < options.json`.

Responsible for publishing as sensors do (their subjects, message ids, one batch in flight a node, batches that were recorded) and for the latency
of the acknowledgements; not for the server (`tests.bench.broker`). It speaks the protocol itself: nats-py takes five times the processor time for
an acknowledged message, and on a machine of two cores the client would be what saturates. Several nodes may share a connection.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import json
import random
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from daemoneye import subjects

_LATE_S: Final = 0.002
_ANSWER_S: Final = 30.0
_END: Final = b"\r\n"


@dataclass(frozen=True, slots=True)
class Options:
    """What one process is to do.

    Attributes:
        port: The server's, on the loopback.
        connections: How many connections it opens; nodes are spread over them.
        first: Number of its first node.
        nodes: How many nodes it plays.
        shards: How many event streams there are; a node's is its number modulo this.
        period_s: Seconds between two batches of a node; 0: the next as soon as one is acknowledged.
        warm_s: Seconds before the measurement.
        seconds: Seconds of it.
        messages: The batches, in base64; nodes send them in turn.
        user: User and password.
        ca: File with the server's authority; empty: no TLS.
        run: Makes message ids differ from those of an earlier run on the same streams.
    """

    port: int
    connections: int
    first: int
    nodes: int
    shards: int
    period_s: float
    warm_s: float
    seconds: float
    messages: tuple[str, ...]
    user: tuple[str, str] = ("bench", "bench")
    ca: str = ""
    run: str = "0"

    def to_json(self) -> str:
        """For standard input."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Result:
    """What it found in the measured time: acknowledged messages and their bytes, refusals, seconds, latencies in microseconds.

    A latency begins when the batch was due, so a broker that falls behind shows as latency, not as fewer questions. `owed` counts batches that
    were due at the end and not acknowledged.
    """

    acknowledged: int = 0
    bytes: int = 0
    refused: int = 0
    owed: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    error: str = ""
    latencies_us: list[int] = field(default_factory=list)


class _Node:
    __slots__ = ("connection", "due", "flying", "name", "owed", "sent", "shard", "token")

    def __init__(self, number: int, token: int, shards: int, connection: _Connection) -> None:
        self.name = f"node-{number:05}"
        self.token = token
        self.shard = number % shards
        self.connection = connection
        self.flying = False
        self.owed: list[float] = []
        self.due = 0.0
        self.sent = 0


class _Connection(asyncio.Protocol):
    """One connection: what the server says of its nodes' batches."""

    def __init__(self, load: Load) -> None:
        self.informed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._load = load
        self._rest = b""
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def greet(self) -> None:
        user, password = self._load.options.user
        said = {"verbose": False, "headers": True, "user": user, "pass": password, "lang": "bench", "version": "1"}
        self.put(b"CONNECT " + json.dumps(said).encode() + _END + b"SUB _INBOX_bench.%x.* 1\r\nPING\r\n" % id(self))
        self.flush()

    def put(self, data: bytes) -> None:
        """Send with the next `flush`."""
        self._out.append(data)

    def flush(self) -> None:
        if self._out and self.transport is not None:
            self.transport.write(b"".join(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        while (end := data.find(_END, at)) >= 0:
            line = data[at:end]
            if line.startswith(b"MSG "):
                _, subject, _, size = line.split(b" ")
                if len(data) < end + 4 + int(size):
                    break
                body = data[end + 2 : end + 2 + int(size)]
                end += 2 + int(size)
                self._load.answered(int(subject.rpartition(b".")[2]), body)
            elif line.startswith(b"PING"):
                self.put(b"PONG\r\n")
            elif line.startswith(b"PONG") and not self.ready.done():
                self.ready.set_result(None)
            elif line.startswith(b"INFO ") and not self.informed.done():
                self.informed.set_result(None)
            elif line.startswith(b"-ERR"):
                self._load.fail(line.decode("utf-8", "replace"))
            at = end + 2
        self._rest = data[at:]
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.fail(f"connection lost: {error}")


class Load:
    """All nodes of one process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.result = Result()
        self._tls = ssl.create_default_context(cafile=options.ca) if options.ca else None
        self._messages = [base64.b64decode(text) for text in options.messages]
        self._nodes: list[_Node] = []
        self._connections: list[_Connection] = []
        self._dues: list[tuple[float, int]] = []
        self._measured = (float("inf"), float("inf"))
        self._ended = asyncio.Event()
        self._stopping = False

    async def run(self) -> Result:
        """Connect, say so on standard output, warm up, measure."""
        for _ in range(self.options.connections):
            self._connections.append(await self._connect())
        print("connected", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        self._nodes = [
            _Node(self.options.first + i, i, self.options.shards, self._connections[i % len(self._connections)])
            for i in range(self.options.nodes)
        ]
        began = time.perf_counter() + self.options.warm_s
        self._measured = began, began + self.options.seconds
        asyncio.get_running_loop().call_later(self.options.warm_s + self.options.seconds, self._ended.set)
        cpu = time.process_time()
        await self._work()
        self._stopping = True
        self.result.seconds = self.options.seconds
        self.result.cpu_s = time.process_time() - cpu
        self.result.owed = sum(len(node.owed) + node.flying for node in self._nodes)
        for connection in self._connections:
            if connection.transport is not None:
                connection.transport.abort()
        return self.result

    def fail(self, why: str) -> None:
        """Nothing can be measured any more."""
        if not self._stopping:
            self.result.error = self.result.error or why
            self._ended.set()

    def answered(self, token: int, body: bytes) -> None:
        """The acknowledgement of the batch that a node has in flight; the next goes out if it is due."""
        node, now = self._nodes[token], time.perf_counter()
        node.flying = False
        if self._measured[0] <= now < self._measured[1]:
            if b'"error"' in body:
                self.result.refused += 1
                self.result.error = self.result.error or body.decode("utf-8", "replace")
            else:
                self.result.acknowledged += 1
                self.result.bytes += len(self._messages[(token + node.sent - 1) % len(self._messages)])
                self.result.latencies_us.append(int((now - node.due) * 1e6))
        if not self.options.period_s:
            self._send(node, now)
        elif node.owed:
            self._send(node, node.owed.pop(0))

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_ANSWER_S):
            transport, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self.options.port
            )
            await connection.informed
            if self._tls:
                # The server speaks first, in the clear.
                connection.transport = await loop.start_tls(
                    transport, connection, self._tls, server_hostname="localhost"
                )
            connection.greet()
            await connection.ready
        return connection

    async def _work(self) -> None:
        now = time.perf_counter()
        if not self.options.period_s:
            for node in self._nodes:
                self._send(node, now)
            self._flush()
            await self._ended.wait()
            return
        # Nodes are not in step with each other, and each keeps its own.
        self._dues = [(now + random.random() * self.options.period_s, node.token) for node in self._nodes]
        heapq.heapify(self._dues)
        while not self._ended.is_set():
            wait = self._dues[0][0] - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(max(wait, _LATE_S))
            self._due(time.perf_counter())
            await asyncio.sleep(0)

    def _due(self, now: float) -> None:
        while self._dues[0][0] <= now:
            due, token = self._dues[0]
            heapq.heapreplace(self._dues, (due + self.options.period_s, token))
            node = self._nodes[token]
            if node.flying:
                node.owed.append(due)
            else:
                self._send(node, due)
        self._flush()

    def _send(self, node: _Node, due: float) -> None:
        payload = self._messages[(node.token + node.sent) % len(self._messages)]
        headers = b"NATS/1.0\r\nNats-Msg-Id: %s/%s/urgent/%d\r\n\r\n" % (
            node.name.encode(),
            self.options.run.encode(),
            node.sent,
        )
        node.sent += 1
        node.due, node.flying = due, True
        subject = subjects.events(node.shard, node.name, "urgent").encode()
        connection = node.connection
        line = b"HPUB %s _INBOX_bench.%x.%d %d %d\r\n" % (
            subject,
            id(connection),
            node.token,
            len(headers),
            len(headers) + len(payload),
        )
        connection.put(line + headers + payload + _END)

    def _flush(self) -> None:
        for connection in self._connections:
            connection.flush()


def main() -> None:
    """Options from the first line of standard input; a second line begins the work; the result on standard output."""
    raw: dict[str, Any] = json.loads(sys.stdin.readline())
    options = Options(**{**raw, "messages": tuple(raw["messages"]), "user": tuple(raw["user"])})

    async def run() -> Result:
        return await Load(options).run()

    print(json.dumps(asdict(asyncio.run(run()))))


if __name__ == "__main__":
    main()
