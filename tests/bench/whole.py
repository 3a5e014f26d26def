"""The whole system as a user starts it: `daemoneye run -o json`, its processes by role, its lines with the moment at which each was read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.bench import machine
from tests.bench.machine import Usage
from tests.bench.stack import REPOSITORY

_READY_S: Final = 120.0
_ROLES: Final = {
    "sensor": "-m daemoneye_sensor",
    "broker": "nats-server --config",
    "analytics": "-m daemoneye_analytics",
}


class System:
    """A running `daemoneye run`.

    Attributes:
        lines: What it said: (wall clock ns when it was read, object).
    """

    def __init__(self, directory: Path) -> None:
        """Start it; returns when it is ready."""
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self._ready = threading.Event()
        self._log = directory / "run.log"
        command = [
            str(Path(sys.executable).parent / "daemoneye"),
            "run",
            "-o",
            "json",
            "--state",
            str(directory / "state"),
        ]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=REPOSITORY
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            deadline = time.monotonic() + _READY_S
            while not self._ready.wait(0.1):
                if machine.ended(self.process) or time.monotonic() > deadline:
                    raise RuntimeError(f"daemoneye run did not get ready: {self._log.read_text()[-2000:]}")
        except BaseException:
            self.stop()
            raise

    def roles(self) -> dict[str, int]:
        """Process of each role, the command line itself included."""
        found = {"cli": self.process.pid}
        for pid in machine.tree([self.process.pid]):
            for role, text in _ROLES.items():
                if text in machine.command(pid) and "tether" not in machine.command(pid):
                    found[role] = pid
        return found

    def usage(self) -> dict[str, Usage]:
        """What each role has used so far, each process for itself; `all` is the tree with whatever helps them."""
        whole = machine.usage([self.process.pid])
        each = {role: machine.usage([pid]) for role, pid in self.roles().items() if role != "cli"}
        rest = Usage(
            *(
                getattr(whole, name) - sum(getattr(u, name) for u in each.values())
                for name in ("cpu_s", "wakeups", "rss")
            )
        )
        return {**each, "cli": rest, "all": whole}

    def findings(self) -> list[tuple[int, dict[str, Any]]]:
        """Findings so far."""
        return [(read, line) for read, line in list(self.lines) if line.get("kind") == "finding"]

    def events(self) -> int:
        """Events that it has reported so far."""
        return max((int(line["events"]) for _, line in list(self.lines) if line.get("kind") == "status"), default=0)

    def stop(self) -> None:
        """End it as Ctrl-C does; what it leaves pinned, if it is killed, is its state directory's and goes with the next run."""
        machine.end(self.process, signal.SIGINT, grace_s=40)
        self._reader.join(5)

    def _read(self) -> None:
        assert self.process.stdout
        for raw in self.process.stdout:
            now = time.time_ns()
            line = json.loads(raw)
            self.lines.append((now, line))
            if line.get("state") == "ready":
                self._ready.set()


def wall_ns(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time in UTC."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(time.mktime((*time.strptime(whole, "%Y-%m-%dT%H:%M:%S")[:8], 0)) - time.timezone) * 1_000_000_000 + int(
        fraction.ljust(9, "0")[:9] or 0
    )


def needs_root() -> bool:
    """Whether this user cannot run it."""
    return os.geteuid() != 0
