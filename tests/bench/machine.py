"""What the machine says of itself and of processes: facts for the report, CPU time, memory, wake-ups, time in BPF programs.

CPU time comes from the kernel's per-process clock (`clock_getcpuclockid(3)`: user and system time, ended threads included, nanoseconds), because
the ticks of /proc/PID/stat are half of what a good agent takes for a whole storm.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_BPF_STATS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree has used so far: CPU seconds (its ended children's too), switches it asked for, resident bytes now."""

    cpu_s: float
    wakeups: int
    rss: int


def facts(argv: list[str]) -> dict[str, str]:
    """Facts that belong beside every figure."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in _text(_PROC / "cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    system = dict(line.split("=", 1) for line in _text(Path("/etc/os-release")).splitlines() if "=" in line)
    virtual = " (virtual machine)" if " hypervisor " in _text(_PROC / "cpuinfo") else ""
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores, {cpu}{virtual}",
        "system": f"{system.get('PRETTY_NAME', 'Linux').strip(chr(34))}, kernel {platform.release()}",
        "python": ", ".join(
            [
                platform.python_version(),
                *(f"{name} {_version(name)}" for name in ("numpy", "zstandard", "nats-py", "pyarrow")),
            ]
        ),
        "peers": ", ".join(peer_versions()) or "none installed",
        "load at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "command": " ".join(argv),
    }


def peer_versions() -> list[str]:
    """Names and versions of the packages that the peers come from."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", "bpftrace", "libbpf-tools", "auditd", "linux-perf"],
        capture_output=True,
        text=True,
    )
    return [line for line in done.stdout.splitlines() if len(line.split()) == 2]


def tree(roots: Iterable[int]) -> list[int]:
    """The processes and all that descend from them, as far as they live."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, left = [], list(roots)
    while left:
        pid = left.pop()
        if pid not in found:
            found.append(pid)
            left += children.get(pid, [])
    return found


def usage(roots: Iterable[int]) -> Usage:
    """What these processes and their descendants have used."""
    cpu_s, wakeups, rss = 0.0, 0, 0
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            cpu_s += time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED of a process, see clock_getcpuclockid(3)
        if fields := _stat(pid):
            cpu_s += (int(fields[13]) + int(fields[14])) * _TICK_S
            rss += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(OSError):
            for task in os.listdir(_PROC / str(pid) / "task"):
                wakeups += int(_status(_PROC / str(pid) / "task" / task).get("voluntary_ctxt_switches", 0))
    return Usage(cpu_s, wakeups, rss)


def peak_rss(pid: int) -> int:
    """Most bytes that were resident at once in one process."""
    return int(_status(_PROC / str(pid)).get("VmHWM", "0").split()[0]) * 1024


def kernel_thread(name: str) -> list[int]:
    """Ids of the kernel threads of a name."""
    return [
        int(e)
        for e in os.listdir(_PROC)
        if e.isdigit() and _text(_PROC / e / "comm").strip() == name and not _text(_PROC / e / "cmdline")
    ]


def command(pid: int) -> str:
    """A process's command line."""
    return _text(_PROC / str(pid) / "cmdline").replace("\0", " ")


@contextlib.contextmanager
def bpf_stats() -> Iterator[None]:
    """The kernel measures every run of every BPF program meanwhile."""
    before = _BPF_STATS.read_text()
    _BPF_STATS.write_text("1")
    try:
        yield
    finally:
        _BPF_STATS.write_text(before)


def bpf_time(roots: Iterable[int]) -> tuple[int, int]:
    """(ns, runs) of all BPF programs that a process tree holds descriptors of, while `bpf_stats` is on."""
    programs: dict[str, tuple[int, int]] = {}
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            for fd in os.listdir(_PROC / str(pid) / "fdinfo"):
                info = _status(_PROC / str(pid) / "fdinfo" / fd, "")
                if "run_time_ns" in info:
                    programs[info["prog_id"]] = int(info["run_time_ns"]), int(info["run_cnt"])
    return sum(ns for ns, _ in programs.values()), sum(runs for _, runs in programs.values())


def holds_programs(roots: Iterable[int]) -> bool:
    """Whether a process tree has loaded a BPF program."""
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            for fd in os.listdir(_PROC / str(pid) / "fdinfo"):
                if "prog_id" in _status(_PROC / str(pid) / "fdinfo" / fd, ""):
                    return True
    return False


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child of ours has ended; it stays to be waited for."""
    return (
        process.returncode is not None
        or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    )


def end(process: subprocess.Popen[bytes], number: int, grace_s: float = 15.0) -> int:
    """Ask a child of ours to end, make it end if it does not; its own or its children's largest resident size in bytes."""
    if process.returncode is None:
        if not ended(process):
            process.send_signal(number)
        deadline = time.monotonic() + grace_s
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return used.ru_maxrss * 1024
            if time.monotonic() > deadline:
                sys.stderr.write(f"bench: process {process.pid} ({process.args!r}) did not end, killed\n")
                process.kill()
                deadline += grace_s
            time.sleep(0.02)
    return 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (index 0: state)."""
    return _text(_PROC / str(pid) / "stat").rpartition(") ")[2].split()


def _status(directory: Path, name: str = "status") -> dict[str, str]:
    lines = (line.partition(":") for line in _text(directory / name if name else directory).splitlines())
    return {key: value.strip() for key, _, value in lines}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "backslashreplace")
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
