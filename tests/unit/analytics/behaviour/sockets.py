"""Connections of a few workloads over hours, for the analyser's tests: everything seeded, times in seconds of the boot clock."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour.connections import Heard, connections
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.behaviour.directory import Directory
from daemoneye_analytics.frame import Frame
from tests.unit.analytics.behaviour.traffic import WORKLOADS
from tests.unit.analytics.factory import SECOND, Exec, batch
from tests.unit.analytics.netrows import section

PROGRAMS = {300: b"/usr/bin/curl", 400: b"/usr/bin/psql", 500: b"/usr/bin/nc", 600: b"/opt/app/worker"}
IMAGES = tuple(
    Exec(exe=exe, pid=pid + cgroup, start=0.7, time=0.8, ppid=1, pstart=0.5, cgroup=cgroup)
    for cgroup in WORKLOADS
    for pid, exe in PROGRAMS.items()
)
MODELS = ('{"name": "process_rarity"}', '{"name": "network_contact"}', '{"name": "network_flow"}')
QUICK: dict[str, Any] = {"learning_events": 100, "learning_seconds": 600, "models": MODELS}


def opened(cgroup: int, at: float, dst: str, port: int, program: int = 300, **more: Any) -> dict[str, Any]:
    """A connection that a program of a workload made."""
    row = {
        "record": "socket_open", "time": at, "src_ip": f"10.1.0.{cgroup}", "dst_ip": dst, "dst_port": port, "pid": program + cgroup,
        "start_time": int(0.7 * SECOND), "ppid": 1, "parent_start_time": int(0.5 * SECOND), "cgroup_id": cgroup, "direction": Direction.OUTBOUND,
        "begin_time": int(at * SECOND),
    }  # fmt: skip
    return row | more


def closed(row: dict[str, Any], after: float, sent: int, received: int, **more: Any) -> dict[str, Any]:
    """Its end."""
    at = row["time"] + after
    return row | {
        "record": "socket_close", "time": at, "last_time": int(at * SECOND), "established": 1, "ending": 1, "src_bytes": sent, "dst_bytes": received,
    } | more  # fmt: skip


def answered(cgroup: int, at: float, name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """The answer of DNS that a workload got."""
    row = {
        "record": "dns_query", "time": at, "src_ip": f"10.1.0.{cgroup}", "dst_ip": "10.96.0.2", "dst_port": 53, "proto": 17, "query": name.encode(),
        "type": b"AAAA" if ":" in addresses[0] else b"A", "rcode": b"NOERROR", "answers": b"".join(a.encode() + b"\0" for a in addresses),
        "cgroup_id": cgroup, "direction": Direction.OUTBOUND, "pid": 300 + cgroup, "start_time": int(0.7 * SECOND),
    }  # fmt: skip
    return row | more


def asked(row: dict[str, Any], name: str, record: str = "tls_client_hello", **more: Any) -> dict[str, Any]:
    """What a connection asked its server for, a moment after it began."""
    kept = ("src_ip", "dst_ip", "src_port", "dst_port", "proto", "cgroup_id", "direction", "pid", "start_time")
    field = "host" if record == "http_request" else "sni"
    return {
        "record": record,
        "time": row["time"] + 0.01,
        field: name.encode(),
        **{k: row[k] for k in kept if k in row},
    } | more


def usual(hours: float, *, seed: int = 1, every: float = 60.0, start: float = 60.0) -> list[dict[str, Any]]:
    """Each workload asks one of four services about once a minute, and now and then a host of a large site outside."""
    rng = random.Random(seed)
    rows = []
    for cgroup in WORKLOADS:
        t = start + rng.random() * every
        while t < start + hours * 3600:
            program, dst, port = rng.choices(
                ((300, "10.96.0.10", 80), (400, "10.96.0.20", 5432), (600, "10.96.0.30", 6379), (300, f"203.0.113.{rng.randrange(250)}", 443)),
                (40, 30, 20, 10),
            )[0]  # fmt: skip
            row = opened(cgroup, t, dst, port, program)
            rows += [row, closed(row, rng.uniform(0.05, 5), rng.randrange(200, 5000), rng.randrange(500, 100_000))]
            t += every * (0.5 + rng.random())
    return sorted(rows, key=lambda row: row["time"])


def frames(rows: Sequence[dict[str, Any]], size: int = 500, *, first: int = 0) -> Iterator[Frame]:
    """The rows as batches of so many."""
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        sections = []
        for record in ("socket_open", "socket_close", "dns_query", "tls_client_hello", "quic_initial", "http_request"):
            mine = [{k: v for k, v in row.items() if k != "record"} for row in part if row["record"] == record]
            if mine:
                sections.append(section(record, mine))
        last = int(max(row["time"] for row in part) * SECOND)
        yield Frame(
            batch(
                (),
                context=IMAGES,
                first=first + at,
                workloads=WORKLOADS,
                sections=sections,
                lane="bulk",
                last_time=last,
            )
        )


def heard_of(rows: Sequence[dict[str, Any]], book: Directory | None = None) -> Heard:
    """What is read of the rows of one batch, by the names in a directory; it hears them before."""
    (frame,), book = frames(rows, len(rows)), Directory() if book is None else book
    book.hear(frame, 0)
    return connections(frame, np.zeros(len(frame.identities), bool), book)


def analyser(**parameters: Any) -> BehavioralAnomaly:
    return BehavioralAnomaly(BehavioralAnomaly.declaration.resolve(QUICK | parameters))


def run(detector: BehavioralAnomaly, rows: Sequence[dict[str, Any]], size: int = 500, *, first: int = 0):
    """Findings and scores of some rows."""
    findings = [finding for frame in frames(rows, size, first=first) for finding in detector.process(frame)]
    scores = list(detector.scores)
    detector.scores.clear()
    return findings, scores
