"""Executions of a few workloads over hours, for the analyser's tests: everything seeded, times in seconds of the boot clock."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.frame import Frame
from tests.unit.analytics.factory import Exec, batch

PROGRAMS = (b"/usr/bin/date", b"/usr/bin/curl", b"/usr/bin/gzip", b"/usr/bin/find", b"/usr/bin/stat", b"/usr/bin/sort")
DAEMON = 50
WORKLOADS = {10 + n: f"shop/Deployment/app-{n}/main".encode() for n in range(8)}
ROOTS = tuple(
    Exec(exe=b"/usr/sbin/nginx", pid=DAEMON + cgroup, start=0.7, time=0.8, ppid=1, pstart=0.5, cgroup=cgroup)
    for cgroup in WORKLOADS
)
QUICK: dict[str, Any] = {
    "learning_events": 100,
    "learning_seconds": 600,
    "models": ('{"name": "intrusion"}', '{"name": "process_rarity"}', '{"name": "process_shift"}'),
}


def usual(hours: float, *, seed: int = 1, every: float = 60.0, start: float = 60.0) -> list[Exec]:
    """What the workloads do: each executes one of six programs about once a minute, some seldom."""
    rng = random.Random(seed)
    rows = []
    pid = 1000 * seed
    for cgroup in WORKLOADS:
        t = start + rng.random() * every
        while t < start + hours * 3600:
            pid += 1
            exe = rng.choices(PROGRAMS, (40, 30, 15, 10, 4, 1))[0]
            argv = (
                exe.rsplit(b"/", 1)[1],
                b"--level",
                b"%d" % rng.randrange(5),
                b"/var/lib/app/%d.log" % rng.randrange(1000),
            )
            rows.append(execution(cgroup, t, exe, argv, pid))
            t += every * (0.5 + rng.random())
    return sorted(rows, key=lambda row: row.time)


def execution(cgroup: int, time: float, exe: bytes, argv: Sequence[bytes] = (), pid: int = 7777, **more: Any) -> Exec:
    """One execution below a workload's daemon."""
    known: dict[str, Any] = {
        "exe": exe, "argv": argv, "pid": pid, "start": time, "time": time, "ppid": DAEMON + cgroup, "pstart": 0.7, "cgroup": cgroup,
    }  # fmt: skip
    return Exec(**(known | more))


def frames(rows: Sequence[Exec], size: int = 500, *, first: int = 0, **about: Any) -> Iterator[Frame]:
    """The rows as batches of so many."""
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        yield Frame(batch(part, context=ROOTS, first=first + at, workloads=WORKLOADS, **about))


def analyser(**parameters: Any) -> BehavioralAnomaly:
    return BehavioralAnomaly(BehavioralAnomaly.declaration.resolve(QUICK | parameters))


def run(detector: BehavioralAnomaly, rows: Sequence[Exec], size: int = 500, *, first: int = 0, **about: Any):
    """Findings and scores of some rows."""
    findings = [finding for frame in frames(rows, size, first=first, **about) for finding in detector.process(frame)]
    scores = list(detector.scores)
    detector.scores.clear()
    return findings, scores
