"""What a machine pays for being watched while nothing happens."""

from __future__ import annotations

import time
from typing import Final

from tests.bench.agents import summary
from tests.bench.tables import Outcome, Target, median
from tests.bench.whole import System
from tests.bench.workloads import workspace

_WINDOW_S: Final = 20.0
_SETTLE_S: Final = 5.0
_MIB: Final = 1 << 20


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench: so many windows of one run, after a few seconds of settling."""
    outcome = Outcome("idle", ("process", "CPU % of a core", "wake-ups/s", "RSS MB"))
    window = max(_WINDOW_S * min(scale, 1.0), 2.0)
    cpu: dict[str, list[float]] = {}
    wakeups: dict[str, list[float]] = {}
    rss: dict[str, list[float]] = {}
    with workspace() as directory:
        system = System(directory)
        try:
            time.sleep(_SETTLE_S)
            begun = system.events()
            for _ in range(rounds):
                before, start = system.usage(), time.monotonic()
                time.sleep(window)
                after, seconds = system.usage(), time.monotonic() - start
                for role, used in after.items():
                    cpu.setdefault(role, []).append((used.cpu_s - before[role].cpu_s) / seconds * 100)
                    wakeups.setdefault(role, []).append((used.wakeups - before[role].wakeups) / seconds)
                    rss.setdefault(role, []).append(used.rss / _MIB)
        finally:
            system.stop()
    events = system.events() - begun
    for role in ("sensor", "broker", "analytics", "cli", "all"):
        outcome.rows.append((role, cpu.get(role, []), wakeups.get(role, []), rss.get(role, [])))
        outcome.data[role] = {
            "cpu_percent": summary(cpu.get(role, [])),
            "wakeups_per_s": summary(wakeups.get(role, [])),
            "rss_mb": summary(rss.get(role, [])),
        }
    outcome.data["events_meanwhile"] = events
    outcome.notes.append(
        f"{rounds} windows of {window:g} s; the machine was not quite idle: {events:,} events of other processes meanwhile"
    )
    outcome.notes.append(
        "wake-ups are voluntary context switches of all threads; resident sizes count shared pages in each process"
    )
    outcome.targets.append(Target("idle sensor, CPU of a core", median(cpu.get("sensor", [])), 0.2, unit=" %"))
    outcome.targets.append(Target("idle sensor, wake-ups a second", median(wakeups.get("sensor", [])), 5))
    return outcome
