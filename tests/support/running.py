"""`daemoneye run` as a user starts it, for tests: its lines as they come, its children, its end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("daemoneye")
TRIGGER = "cp /bin/true /tmp/eye; (rm /tmp/eye; /proc/self/fd/3) 3< /tmp/eye"


class Run:
    """One `daemoneye run -o json`."""

    def __init__(self, state: Path, *arguments: str, **options: Any) -> None:
        self.state = state
        self.lines: list[dict[str, Any]] = []
        self.stray: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.errors = state.with_suffix(".stderr")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [COMMAND, "run", "-o", "json", "--state", state, *arguments],
                stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, cwd=REPOSITORY, **options,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._pump, daemon=True)
        self._reader.start()

    @property
    def instance(self) -> str:
        """Name of its pins."""
        return str(json.loads((self.state / "run" / "sensor.json").read_text())["instance"])

    def _pump(self) -> None:
        for line in self.process.stdout or ():
            self._queue.put(line)
        self._queue.put(None)

    def read(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        """Take lines until a condition holds. Fails when the time is over or the output ends before."""
        deadline = time.monotonic() + seconds
        while not done():
            try:
                line = self._queue.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(
                    f"not seen within {seconds} s; {len(self.lines)} lines; stderr: {self.stderr()[-2000:]}"
                ) from None
            if line is None:
                self._queue.put(None)
                raise AssertionError(f"ended with {self.process.wait()}; stderr: {self.stderr()[-2000:]}")
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.stray.append(line)

    def ready(self) -> Run:
        """Wait until it says so."""
        self.read(
            lambda: any(line["kind"] == "status" and line["state"] in {"ready", "running"} for line in self.lines), 180
        )
        return self

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def events(self, name: str = "process_exec") -> list[dict[str, Any]]:
        """Events of a name."""
        return [line for line in self.lines if line["kind"] == "event" and line["event"] == name]

    def child(self, module: str) -> int:
        """Pid of one of its processes, by what is in its command line."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                command = (stat.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == self.process.pid and module.encode() in command:
                return int(stat.parent.name)
        raise AssertionError(f"{module} does not run")

    def finish(self, seconds: float = 120.0) -> int:
        """Read to the end; returns the exit status."""
        deadline = time.monotonic() + seconds
        while (line := self._queue.get(timeout=max(deadline - time.monotonic(), 0.001))) is not None:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.stray.append(line)
        self._queue.put(None)
        return self.process.wait(max(deadline - time.monotonic(), 0.001))

    def stop(self) -> int:
        """End it as a user does, with SIGINT, and read what it still says."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.finish()

    def kill(self) -> None:
        """For a test's end, whatever happened: it, and by their parent-death signal its children."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(60)
        if self.process.stdout:
            self.process.stdout.close()

    def stderr(self) -> str:
        """What it wrote to stderr so far."""
        return self.errors.read_text(errors="replace")


def let_others_in(path: Path) -> None:
    """Pytest keeps its directories to their owner; a user without privileges has to come through."""
    for directory in (path, *path.parents):
        if directory.stat().st_uid == os.getuid() and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
