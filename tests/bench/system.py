"""The whole system at work: processor time of each part on the paced storm, and how long it takes from an event to its finding."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

from tests.bench.agents import summary
from tests.bench.tables import Outcome
from tests.bench.whole import System, wall_ns
from tests.bench.workloads import Counts, Workload, build, workspace

_TRIGGERS: Final = 50
_GAP_S: Final = 0.3
_SETTLE_S: Final = 3.0
_WAIT_S: Final = 15.0
_MIB: Final = 1 << 20
# Copies a harmless program into an anonymous file of a name of its own and executes it from there.
_TRIGGER: Final = """
import os, sys
fd = os.memfd_create(sys.argv[1])
os.write(fd, open("/bin/true", "rb").read())
os.execve(fd, [sys.argv[1]], {})
"""


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    outcome = Outcome("system", ("process", "CPU-s/10k execs, paced", "RSS MB after"))
    with workspace() as directory:
        workloads = build(directory, Counts.sized(scale))
        system = System(directory)
        try:
            cpu, rss = _load(system, workloads, rounds)
            triggers = max(int(_TRIGGERS * min(scale, 1.0)), 5)
            latencies = _latency(system, triggers, directory)
        finally:
            system.stop()
    for role in ("sensor", "broker", "analytics", "cli", "all"):
        outcome.rows.append((role, cpu.get(role, []), rss.get(role, [])))
        outcome.data[role] = {"cpu_s_per_10k": summary(cpu.get(role, [])), "rss_mb": summary(rss.get(role, []))}
    if latencies:
        p50, p99 = (float(np.percentile(latencies, q)) for q in (50, 99))
        outcome.notes.append(
            f"event → finding's line read: {len(latencies)} of {triggers} triggers found, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
            f"least {min(latencies):.0f} ms, most {max(latencies):.0f} ms"
        )
        outcome.data["latency_ms"] = {"p50": p50, "p99": p99, "min": min(latencies), "max": max(latencies)}
    outcome.data["triggers"] = {"made": triggers, "found": len(latencies)}
    return outcome


def _load(
    system: System, workloads: dict[str, Workload], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    cpu: dict[str, list[float]] = {}
    rss: dict[str, list[float]] = {}
    workloads["warm-up"].run()
    time.sleep(_SETTLE_S)
    for _ in range(rounds):
        before = system.usage()
        workloads["paced"].run()
        time.sleep(_SETTLE_S)
        for role, used in system.usage().items():
            cpu.setdefault(role, []).append((used.cpu_s - before[role].cpu_s) * 10_000 / workloads["paced"].execs)
            rss.setdefault(role, []).append(used.rss / _MIB)
    return cpu, rss


def _latency(system: System, triggers: int, directory: Path) -> list[float]:
    """Milliseconds from each trigger's execution (kernel time) to its finding."""
    names = [f"bench-trigger-{os.getpid()}-{number}" for number in range(triggers)]
    for name in names:
        subprocess.run([sys.executable, "-I", "-S", "-c", _TRIGGER, name], check=True, cwd=directory)
        time.sleep(_GAP_S + random.random() * _GAP_S)  # not in step with the sensor's timer
    deadline = time.monotonic() + _WAIT_S
    found: dict[str, float] = {}
    wanted = set(names)
    while time.monotonic() < deadline:
        found = {
            name: (read - wall_ns(line["time"])) / 1e6
            for read, line in system.findings()
            for name in _names(line, wanted)
        }
        if len(found) == triggers:
            break
        time.sleep(0.1)
    return list(found.values())


def _names(finding: dict[str, object], wanted: set[str]) -> set[str]:
    subject = finding.get("subject")
    argv = subject.get("argv") if isinstance(subject, dict) else None
    return wanted & set(argv) if isinstance(argv, list) else set()
