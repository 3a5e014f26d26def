"""A sensor's heartbeat as tests need it."""

from __future__ import annotations

from typing import Any

STARTED_NS = 1_795_780_000_000_000_000


def heartbeat(
    seconds: float, *, cpu: float = 1.0, wakeups: int = 100, events: int = 10, pid: int = 7
) -> dict[str, Any]:
    """What a sensor says so many seconds after a moment."""
    return {
        "state": "ready", "component": "sensor", "version": "0.1.0", "time": STARTED_NS + int(seconds * 1e9), "pid": pid, "node": "node-1",
        "events": events, "spool": {"bytes": 9999, "unsent": 3, "unsent_bytes": 4096, "lost_rows": 5, "quarantined": 0},
        "lost": {"ring": 12, "lease": 0, "spool": 5}, "error": "", "source": {"name": "ebpf", "dropped": {"exec": 12}},
        "self": {"cpu_s": cpu, "rss_bytes": 60 << 20, "peak_bytes": 80 << 20, "wakeups": wakeups},
    }  # fmt: skip
