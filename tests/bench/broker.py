"""Thousands of sensors and one nats-server: how many batches a second it takes, what they cost it, and how many shards that needs.

Sensors are played by load generators (`tests.bench.natsload`): each node has one recorded batch in flight at a time, nodes share a few connections.
A second part measures what a thousand real connections over TLS cost. From both follows the table of docs/capacity.md.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye import envelope
from tests.bench import capacity
from tests.bench.capacity import Costs
from tests.bench.encodings import everyday
from tests.bench.natsload import Options
from tests.bench.natsserver import USER, Server, serving
from tests.bench.stack import REPOSITORY, Stack
from tests.bench.tables import Outcome
from tests.bench.workloads import workspace

_NODES: Final = 5000
_SHARDS: Final = (1, 2, 4)
_PERIODS_S: Final = (10.0, 5.0, 2.0, 1.0, 0.5)
_PRODUCTION: Final = "always"
_SYNC: Final = (_PRODUCTION, "2m")
_SECONDS: Final = 8.0
_WARM_S: Final = 2.0
_PROCESSES: Final = 2
_CONNECTIONS: Final = 8
_REAL: Final = 1000
_OVERLOAD: Final = 1.15
"""A rate so much above what was reached at full speed is not tried: it would only fill the sensors' spools."""
_CALM: Final = "for i in $(seq 60); do date; id -u; sleep 0.1; done >/dev/null"
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Recorded:
    """Batches of a real sensor, and how long one is: `fixed` bytes and `row` bytes an event."""

    messages: tuple[bytes, ...]
    fixed: float
    row: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement of one server.

    Attributes:
        rate: Acknowledged batches a second.
        offered: Batches that were due a second; None where nodes send as fast as they can.
        p50_ms, p99_ms: From the moment that a batch is due to its acknowledgement.
        cpu_s: Processor seconds of the server for a thousand batches.
        disk: Bytes a second that it had written to the disk.
        stored: Bytes that JetStream counts for a batch.
        rss: Resident bytes of the server afterwards.
        grown: The same less what they were before, for each batch that was sent: what it remembers of it.
        client_cpu: Processor time of the generators, share of a core.
    """

    rate: float
    offered: float | None
    p50_ms: float
    p99_ms: float
    cpu_s: float
    disk: float
    stored: float
    rss: int
    grown: float
    client_cpu: float
    refused: int
    owed: int
    error: str

    @property
    def keeps_up(self) -> bool:
        """Whether it took what was offered."""
        return self.offered is not None and self.rate > 0.97 * self.offered


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench: as fast as the server goes, then at a pace, then with real connections."""
    columns = (
        "sync_interval", "shards", "each node sends", "offered/s", "acknowledged/s", "p50 ms", "p99 ms", "NATS CPU-s/1,000",
        "disk MB/s", "stored B/batch", "RSS MB", "clients % of a core",
    )  # fmt: skip
    outcome = Outcome("broker", columns)
    nodes = max(int(_NODES * scale), 20)
    seconds = max(_SECONDS * min(scale, 1.0), 2.0)
    with workspace() as directory:
        recorded = _record(directory)
        outcome.data["fdatasync_per_s"] = synced = {n: _syncs(directory, n) for n in (1, 2, 4)}
        best: dict[tuple[str, int], Figures] = {}
        for sync in _SYNC:
            for shards in _SHARDS:
                with _server(directory, shards, sync) as server:
                    best[sync, shards] = figures = _measure(server, recorded, nodes, shards, 0.0, seconds)
                _add(outcome, sync, shards, "as fast as it can", figures)
        paced = _paced(outcome, directory, recorded, nodes, seconds, best)
        connection = _connections(outcome, directory, recorded, max(int(_REAL * scale), 10), seconds)
    sizes = sorted(map(len, recorded.messages))
    outcome.notes += [
        (
            f"{nodes:,} nodes in {_PROCESSES} processes with {_CONNECTIONS} connections each; {len(sizes)} recorded batches of {sizes[0]:,} to "
            f"{sizes[-1]:,} bytes, {np.mean(sizes):,.0f} in the mean: {recorded.fixed:,.0f} bytes and {recorded.row:.0f} an event"
        ),
        "the disk alone: "
        + ", ".join(f"{rate:,.0f} fdatasync/s by {n} writer{'s' * (n > 1)}" for n, rate in synced.items()),
        "generators and server share the machine's cores; latency begins when a batch is due, so it holds the wait for the one before",
    ]
    outcome.data["batch"] = {"fixed": recorded.fixed, "row": recorded.row, "mean": float(np.mean(sizes))}
    alone = best[_PRODUCTION, 1]
    kept = [figures.cpu_s for figures in paced if figures.keeps_up] or [alone.cpu_s]
    costs = Costs(
        # There the p99 is still that of an unhurried disk.
        per_shard=alone.rate * 2 / 3,
        cpu_s=float(np.median(kept)) / 1000,
        batch=recorded.fixed + alone.stored - float(np.mean(sizes)),
        event=recorded.row,
        remembered=best["2m", 1].grown,
        connection=connection,
    )
    outcome.more.append(capacity.table(costs))
    return outcome


def _paced(
    outcome: Outcome,
    directory: Path,
    recorded: Recorded,
    nodes: int,
    seconds: float,
    best: dict[tuple[str, int], Figures],
) -> list[Figures]:
    taken = []
    for shards in _SHARDS:
        for period in _PERIODS_S:
            if nodes / period > _OVERLOAD * best[_PRODUCTION, shards].rate:
                outcome.notes.append(
                    f"{shards} shards: {nodes / period:,.0f} batches a second and more are more than it takes"
                )
                break
            # A batch comes once a period: a window that is shorter would see some nodes never.
            window = max(seconds, min(period, seconds * 1.5))
            with _server(directory, shards, _PRODUCTION) as server:
                figures = _measure(server, recorded, nodes, shards, period, window)
            _add(outcome, _PRODUCTION, shards, f"every {period:g} s", figures)
            taken.append(figures)
    return taken


def _connections(outcome: Outcome, directory: Path, recorded: Recorded, count: int, seconds: float) -> float:
    """A real connection a node, over TLS; bytes of the server's memory that one takes."""
    with _server(directory, 1, _PRODUCTION, tls=True) as server:
        before, cpu = server.usage, server.usage.cpu_s
        began = time.monotonic()
        options = _options(server, recorded, count, 1, 5.0, seconds, connections=count)
        with _generators(options) as generators:
            connected = server.usage
            took = time.monotonic() - began
            clients = int(server.ask("varz")["connections"])
            figures = _finish(server, generators, count / 5.0)
    each = (connected.rss - before.rss) / max(clients, 1)
    _add(outcome, _PRODUCTION, 1, f"every 5 s, {count:,} TLS connections", figures)
    outcome.notes.append(
        f"{clients:,} connections over TLS: {each / 1024:.0f} KiB of the server's memory each ({before.rss / _MIB:.0f} to {connected.rss / _MIB:.0f} MB), "
        f"{(connected.cpu_s - cpu) / max(clients, 1) * 1000:.1f} ms of its processor time to connect one; all connected in {took:.1f} s"
    )
    outcome.data["connections"] = {
        "count": clients, "kib_each": each / 1024, "cpu_ms_each": (connected.cpu_s - cpu) / max(clients, 1) * 1000,
        "rss_mb": figures.rss / _MIB, "seconds": took,
    }  # fmt: skip
    return each


def _add(outcome: Outcome, sync: str, shards: int, how: str, figures: Figures) -> None:
    offered = "–" if figures.offered is None else figures.offered
    outcome.rows.append(
        (
            sync, str(shards), how, offered, figures.rate, figures.p50_ms, figures.p99_ms, figures.cpu_s, figures.disk / 1e6, figures.stored,
            figures.rss / _MIB, figures.client_cpu * 100,
        )
    )  # fmt: skip
    values = {name: getattr(figures, name) for name in figures.__slots__}
    outcome.data.setdefault("runs", []).append({"sync": sync, "shards": shards, "how": how, **values})
    if figures.refused:
        outcome.notes.append(
            f"{sync}, {shards} shards, {how}: {figures.refused} batches refused, first {figures.error[:200]}"
        )


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _server(directory: Path, shards: int, sync: str, *, tls: bool = False) -> Iterator[Server]:
    place = directory / f"nats-{time.monotonic_ns()}"
    try:
        with serving(place, shards=shards, sync_interval=sync, shard_bytes=2048 * _MIB // shards, tls=tls) as server:
            yield server
    finally:
        subprocess.run(["rm", "-rf", place], check=True)


def _measure(server: Server, recorded: Recorded, nodes: int, shards: int, period: float, seconds: float) -> Figures:
    with _generators(_options(server, recorded, nodes, shards, period, seconds)) as generators:
        return _finish(server, generators, nodes / period if period else None)


def _options(
    server: Server,
    recorded: Recorded,
    nodes: int,
    shards: int,
    period: float,
    seconds: float,
    *,
    connections: int = _CONNECTIONS * _PROCESSES,
) -> list[Options]:
    texts = tuple(base64.b64encode(message).decode() for message in recorded.messages)
    share = nodes // _PROCESSES
    return [
        Options(
            port=server.port, connections=max(connections // _PROCESSES, 1), first=number * share, nodes=share, shards=shards, period_s=period,
            warm_s=_WARM_S, seconds=seconds, messages=texts, user=USER, ca=server.ca,
        )
        for number in range(_PROCESSES)
    ]  # fmt: skip


@contextlib.contextmanager
def _generators(options: Sequence[Options]) -> Iterator[list[tuple[Options, subprocess.Popen[str]]]]:
    """Processes that are connected and wait."""
    started: list[tuple[Options, subprocess.Popen[str]]] = []
    try:
        for option in options:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.natsload"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
            )  # fmt: skip
            started.append((option, process))
            assert process.stdin
            process.stdin.write(option.to_json() + "\n")
            process.stdin.flush()
        for _, process in started:
            assert process.stdout
            if process.stdout.readline() != "connected\n":
                raise RuntimeError("a load generator did not connect; it says why above")
        yield started
    finally:
        for _, process in started:
            process.kill()
            process.communicate()


def _finish(server: Server, generators: list[tuple[Options, subprocess.Popen[str]]], offered: float | None) -> Figures:
    """Let them work, and look at the server from the end of the warming up to the end."""
    option = generators[0][0]
    rss = server.usage.rss
    messages = int(server.ask("jsz")["messages"])
    for _, process in generators:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    time.sleep(option.warm_s)
    before, written, stored = server.usage, server.written_bytes(), server.ask("jsz")
    began = time.monotonic()
    time.sleep(option.seconds)
    after, seconds = server.usage, time.monotonic() - began
    disk = (server.written_bytes() - written) / seconds
    results: list[dict[str, Any]] = []
    for _, process in generators:
        assert process.stdout
        results.append(json.loads(process.stdout.readline()))
    kept = server.ask("jsz")
    latencies = np.array([value for result in results for value in result["latencies_us"]] or [math.nan])
    acknowledged = sum(result["acknowledged"] for result in results)
    sent = int(kept["messages"]) - messages
    return Figures(
        rate=acknowledged / option.seconds,
        offered=offered,
        p50_ms=float(np.percentile(latencies, 50)) / 1000,
        p99_ms=float(np.percentile(latencies, 99)) / 1000,
        cpu_s=(after.cpu_s - before.cpu_s) / max(acknowledged, 1) * 1000,
        disk=disk,
        stored=(int(kept["bytes"]) - int(stored["bytes"])) / max(int(kept["messages"]) - int(stored["messages"]), 1),
        rss=server.usage.rss,
        grown=(server.usage.rss - rss) / max(sent, 1),
        client_cpu=sum(result["cpu_s"] for result in results) / (option.warm_s + option.seconds),
        refused=sum(result["refused"] for result in results),
        owed=sum(result["owed"] for result in results),
        error=next((result["error"] for result in results if result["error"]), ""),
    )


def _record(directory: Path) -> Recorded:
    """Batches of a real sensor: of a calm machine (twenty executions a second) to send, and of a busy one as well to tell sizes."""
    (directory / "recording").mkdir()
    stack = Stack(directory / "recording")
    try:
        stack.start()
        start = stack.last_sequence()
        subprocess.run(["bash", "-c", _CALM], check=True)
        calm_end = stack.last_sequence()
        everyday(directory, 2)
        time.sleep(1)
        messages = [(envelope.peek(message), message) for message in stack.messages(start)]
    finally:
        stack.stop()
    sizes = np.array([(about.rows, len(message)) for about, message in messages if about.lane == "urgent"], float)
    row, fixed = np.polyfit(sizes[:, 0], sizes[:, 1], 1)
    calm = [message for about, message in messages[: calm_end - start] if about.lane == "urgent"]
    return Recorded(tuple(calm), float(fixed), float(row))


def _syncs(directory: Path, writers: int) -> float:
    """How often a second `writers` files can be appended to (4 KiB) and synced, all together: what bounds a server that syncs each batch."""
    counts = [0] * writers
    deadline = time.monotonic() + 1.0

    def write(number: int) -> None:
        path = directory / f"sync-{writers}-{number}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            while time.monotonic() < deadline:
                os.write(fd, b"\0" * 4096)
                os.fdatasync(fd)
                counts[number] += 1
        finally:
            os.close(fd)
            path.unlink()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return float(sum(counts))
