"""The agents that are compared: how each is started, what of it is counted, and what it stored.

Peers print to a file, as their users have them do. A peer that is not installed, or that this kernel does not let run, is named as absent.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from tests.bench import machine
from tests.bench.stack import Stack, decoded, lost_rows
from tests.bench.workloads import Workload

_START_S: Final = 30.0
_GRACE_S: Final = 1.5
"""From the moment a peer has loaded its programs until it has surely attached them."""
_AUDIT_RULE: Final = ("always,exit", "-F", "arch=b64", "-S", "execve", "-k", "daemoneye-bench")


class Absent(Exception):  # noqa: N818 - a state of the machine, told in the table
    """The agent cannot run here; the text says why."""


@dataclass(slots=True)
class Stored:
    """What an agent kept of one workload."""

    execs: int | None
    lost: int | None = None
    rows: int = 0
    message_bytes: int = 0
    bytes_per_event: float | None = None


class Agent(Protocol):
    """Something that watches."""

    name: str

    def start(self, directory: Path) -> None:
        """Begin to watch; raises `Absent`."""

    def stop(self) -> None:
        """End without a trace."""

    def roots(self) -> list[int]:
        """Its processes."""

    def helpers(self) -> list[int]:
        """Processes beside it that work for it."""

    def mark(self) -> None:
        """A workload begins."""

    def stored(self, workload: Workload) -> Stored | None:
        """What it kept of the workload that ran since `mark`; None if only its end will tell."""

    def stored_at_end(self, workload: Workload, pid: int) -> Stored | None:
        """What it kept of the workload that process `pid` was, once it is stopped."""


class Nothing:
    """No agent: the baseline."""

    name = "none"

    def start(self, directory: Path) -> None:
        """See `Agent`."""

    def stop(self) -> None:
        """See `Agent`."""

    def roots(self) -> list[int]:
        """See `Agent`."""
        return []

    def helpers(self) -> list[int]:
        """See `Agent`."""
        return []

    def mark(self) -> None:
        """See `Agent`."""

    def stored(self, workload: Workload) -> Stored | None:
        """See `Agent`."""

    def stored_at_end(self, workload: Workload, pid: int) -> Stored | None:
        """See `Agent`."""


class Sensor(Nothing):
    """Ours, whole: all fields, encoding, spool with fdatasync, JetStream with `sync_interval: always`. The broker is its helper."""

    name = "daemoneye"

    def __init__(self) -> None:
        self.stack: Stack | None = None
        self._begin = 0
        self._begin_bytes = 0

    @property
    def _running(self) -> Stack:
        assert self.stack
        return self.stack

    def start(self, directory: Path) -> None:
        """See `Agent`."""
        if os.geteuid() != 0:
            raise Absent("needs root")
        self.stack = Stack(directory)
        self.stack.start()

    def stop(self) -> None:
        """See `Agent`."""
        if self.stack:
            self.stack.stop()

    def roots(self) -> list[int]:
        """See `Agent`."""
        return [self._running.sensor_pid]

    def helpers(self) -> list[int]:
        """See `Agent`."""
        return [self._running.broker_pid]

    def mark(self) -> None:
        """See `Agent`."""
        self._begin = self._running.last_sequence()
        self._begin_bytes = self._running.stored_bytes()

    def stored(self, workload: Workload) -> Stored | None:
        """See `Agent`."""
        stack = self._running
        messages = stack.messages(self._begin)
        on_disk = stack.stored_bytes() - self._begin_bytes
        execs = rows = size = all_execs = 0
        program = str(workload.program).encode()
        for batch, length in decoded(messages):
            rows += batch.envelope.rows
            size += length
            for section in batch.sections:
                if section.record.name == "process_exec" and not section.context:
                    execs += sum(value == program for value in section.values("exe"))
                    all_execs += len(section.rows)
        return (
            Stored(execs, lost_rows(messages), rows, size, on_disk / rows if rows else None) if all_execs else Stored(0)
        )


class _Printer(Nothing):
    """A peer that prints to a file."""

    def __init__(self, name: str, command: Sequence[str], *, line: str = "", event: str = "") -> None:
        """What it is.

        Args:
            name: For the table.
            command: How it is called; the first word is looked up.
            line: Pattern that each execution by the workload has once; `{program}` is its path, `{pid}` its process.
            event: Pattern that each stored event has once; by default every line is one.
        """
        self.name = name
        self._command = list(command)
        self._line = line or "{program}"
        self._event = event
        self._process: subprocess.Popen[bytes] | None = None
        self._output = Path()

    def start(self, directory: Path) -> None:
        """See `Agent`."""
        program = shutil.which(self._command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None or os.geteuid() != 0:
            raise Absent(f"{self._command[0]} is not installed" if program is None else "needs root")
        self._output = directory / "output"
        self._begin([program, *(word.replace("{output}", str(self._output)) for word in self._command[1:])], directory)
        deadline = time.monotonic() + _START_S
        while not self._ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = " ".join((directory / "errors").read_text("utf-8", "replace").split())[-200:]
                raise Absent(f"does not run on this kernel: {tail}")
            time.sleep(0.05)
        time.sleep(_GRACE_S)

    def stop(self) -> None:
        """See `Agent`."""
        if self._process:
            machine.end(self._process, signal.SIGINT)

    def roots(self) -> list[int]:
        """See `Agent`."""
        return [self._process.pid] if self._process else []

    def stored_at_end(self, workload: Workload, pid: int) -> Stored | None:
        """See `Agent`."""
        text = self._text()
        pattern = self._line.replace("{program}", re.escape(str(workload.program))).replace("{pid}", str(pid))
        execs = len(re.findall(pattern, text, re.MULTILINE))
        events = len(re.findall(self._event, text)) if self._event else text.count("\n")
        return Stored(execs, bytes_per_event=self._output.stat().st_size / events if events else None)

    def _begin(self, command: list[str], directory: Path) -> None:
        target = directory / "printed" if "{output}" in " ".join(self._command) else self._output
        with target.open("wb") as out, (directory / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, cwd=directory
            )

    def _ready(self) -> bool:
        return machine.holds_programs(self.roots())

    def _text(self) -> str:
        return self._output.read_text("utf-8", "replace")


class Perf(_Printer):
    """`perf record` of the same three tracepoints to a file: what the kernel's own machinery needs at least."""

    def __init__(self) -> None:
        events = ",".join(f"sched:sched_process_{what}" for what in ("exec", "fork", "exit"))
        super().__init__("perf record (floor)", ["perf", "record", "-q", "-a", "-e", events, "-o", "{output}"])
        self._printed = ""

    def _ready(self) -> bool:
        return self._output.exists() and self._output.stat().st_size > 0

    def stored_at_end(self, workload: Workload, pid: int) -> Stored | None:
        """See `Agent`. It knows a storm's executions as /proc/self/exe only, so they are not told apart."""
        if not self._printed:
            done = subprocess.run(
                ["perf", "script", "-i", self._output, "-F", "comm,event"], capture_output=True, text=True
            )
            self._printed = done.stdout
        events = self._printed.count("\n")
        return Stored(None, bytes_per_event=self._output.stat().st_size / events if events else None)


class Auditd(_Printer):
    """auditd with a configuration of its own in the foreground, and one rule: every execve."""

    def __init__(self) -> None:
        super().__init__("auditd", ["auditd"], line=r'type=SYSCALL .*exe="{program}"', event=r"type=SYSCALL ")
        self._before: dict[str, str] = {}

    def start(self, directory: Path) -> None:
        """See `Agent`."""
        if shutil.which("auditctl") is None:
            raise Absent("auditd is not installed")
        status = subprocess.run(["auditctl", "-s"], capture_output=True, text=True)
        if status.returncode:
            raise Absent(f"this kernel has no audit: {status.stderr.strip()}")
        before = dict(line.split(" ", 1) for line in status.stdout.splitlines() if " " in line)
        if before.get("pid") != "0":
            raise Absent(f"another auditd runs (process {before.get('pid')})")
        self._before = before
        super().start(directory)
        for command in (["-b", "65536"], ["-a", *_AUDIT_RULE], ["-e", "1"]):
            done = subprocess.run(["auditctl", *command], capture_output=True, text=True)
            if done.returncode:
                self.stop()
                raise Absent(f"auditctl refuses: {done.stderr.strip()}")

    def stop(self) -> None:
        """See `Agent`."""
        if not self._before:
            return
        subprocess.run(["auditctl", "-d", *_AUDIT_RULE], capture_output=True)
        if self._process:
            machine.end(self._process, signal.SIGTERM)
        for option, key in (("-b", "backlog_limit"), ("-e", "enabled")):
            subprocess.run(["auditctl", option, self._before[key].split()[0]], capture_output=True)
        self._before = {}

    def helpers(self) -> list[int]:
        """The kernel's thread that carries records to auditd."""
        return machine.kernel_thread("kauditd")

    def stored_at_end(self, workload: Workload, pid: int) -> Stored | None:
        """See `Agent`."""
        return super().stored_at_end(workload, pid) if self._output.exists() else None

    def _begin(self, command: list[str], directory: Path) -> None:
        plugins = directory / "plugins.d"
        plugins.mkdir()
        shipped = Path("/etc/audit/auditd.conf")
        own = {"log_file": str(self._output), "plugin_dir": str(plugins), "max_log_file": "500", "write_logs": "yes"}
        lines = [
            line
            for line in (shipped.read_text() if shipped.exists() else "").splitlines()
            if line.split("=")[0].strip() not in own
        ]
        (directory / "auditd.conf").write_text(
            "\n".join([*lines, *(f"{key} = {value}" for key, value in own.items()), ""])
        )
        (directory / "auditd.conf").chmod(0o640)
        super()._begin([*command, "-n", "-c", str(directory)], directory)

    def _ready(self) -> bool:
        return self._output.exists() and self._output.stat().st_size > 0


def all_agents(peers: dict[str, Path]) -> list[Agent]:
    """The baseline, ours, and the peers; `peers` names binaries that the distribution does not ship."""
    shipped = next(
        (p for p in ("/usr/sbin/execsnoop.bt", "/usr/share/bpftrace/tools/execsnoop.bt") if os.path.exists(p)), ""
    )
    program = (
        [shipped]
        if shipped
        else ["-e", 'tracepoint:syscalls:sys_enter_exec* { printf("%d ", pid); join(args->argv); }']
    )
    # execsnoop shows the path given to execve in place of argv[0]: a storm's children are known by their parent.
    execsnoop = _Printer("execsnoop", ["execsnoop"], line=r"{program}|^\S+ +\d+ +{pid} ")
    agents: list[Agent] = [
        Nothing(),
        Sensor(),
        _Printer("bpftrace", ["bpftrace", *program]),
        execsnoop,
        Auditd(),
        Perf(),
    ]
    if "falco" in peers:
        agents.append(Falco(peers["falco"]))
    return agents


class Falco(_Printer):
    """Falco with its modern engine and one rule that prints each execution."""

    def __init__(self, binary: Path) -> None:
        super().__init__("falco", [str(binary)], line=r"{program}")

    def _begin(self, command: list[str], directory: Path) -> None:
        rule = directory / "exec.yaml"
        rule.write_text(
            "- rule: exec\n  desc: every execution\n  condition: evt.type in (execve, execveat) and evt.dir=<\n"
            "  output: exec %proc.exepath %proc.cmdline\n  priority: NOTICE\n  source: syscall\n"
        )
        super()._begin([*command, "-r", str(rule), "-o", "engine.kind=modern_ebpf", "-U"], directory)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and range for the JSON file."""
    return (
        {"median": float(np.median(values)), "min": min(values), "max": max(values), "n": len(values)} if values else {}
    )
