"""Processes that run already, read from /proc once: what the kernel's task iterator does not give (paths, arguments, capabilities).

A process may vanish between any two reads: it then keeps what was read. Not for events: those carry their own facts.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import time
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.events.codec import Section, section_of
from daemoneye.events.flags import Flag
from daemoneye.events.process_exec import PROCESS_EXEC

_NAMESPACES: Final = {
    "mnt_ns": "mnt",
    "pid_ns": "pid",
    "net_ns": "net",
    "user_ns": "user",
    "uts_ns": "uts",
    "ipc_ns": "ipc",
    "cgroup_ns": "cgroup",
}
_ARGV: Final = 4096
_CLONE_NEWCGROUP: Final = 0x02000000  # include/uapi/linux/sched.h

_log = logging.getLogger(__name__)


def snapshot(
    running: np.ndarray, *, seconds: float, proc: Path = Path("/proc")
) -> tuple[Section, dict[int, tuple[str, str]]]:
    """Images of running processes.

    Args:
        running: Rows of process_fork from the task iterator, shape (n,).
        seconds: Bound on the time spent; processes beyond it keep their identity and their cgroup, and lack their texts.
        proc: Where proc is mounted.

    Returns:
        Rows of process_exec with SNAPSHOT set, and paths of the cgroups seen: pair key → (v2 path, v1 path).
    """
    deadline = time.monotonic() + seconds
    columns: dict[str, object] = {
        name: running[name] for name in running.dtype.names or () if name in (PROCESS_EXEC.dtype.names or ())
    }
    texts: dict[str, list[bytes]] = {"exe": [], "cwd": [], "argv": []}
    numbers: dict[str, list[int]] = {
        name: [0] * len(running)
        for name in ("cap_effective", "cap_permitted", "euid", "gid", "egid", "loginuid", *_NAMESPACES)
    }
    cgroups: dict[int, tuple[str, str]] = {}
    comm: list[bytes] = []
    argv_length: list[int] = []
    for i, row in enumerate(running):
        home = proc / str(int(row["pid"]))
        late = time.monotonic() > deadline
        texts["exe"].append(b"" if late else _link(home / "exe").removesuffix(b" (deleted)"))
        texts["cwd"].append(b"" if late else _link(home / "cwd"))
        argv = b"" if late else _read(home / "cmdline")
        texts["argv"].append(argv[:_ARGV])
        argv_length.append(len(argv))
        comm.append(b"" if late else _read(home / "comm").strip())
        # Cgroups are few, and what their rows belong to hangs on them. One that has ended says nothing of its own: another does.
        pair = int(row["cgroup_id"]) << 32 ^ int(row["cgroup_v1_id"])
        if pair not in cgroups and (paths := _read(home / "cgroup")):
            cgroups[pair] = cgroup_paths(paths)
        if late:
            continue
        _status(_read(home / "status"), numbers, i)
        numbers["loginuid"][i] = int(_read(home / "loginuid") or 0xFFFFFFFF)
        for column, name in _NAMESPACES.items():
            inode = _link(home / "ns" / name)
            numbers[column][i] = int(inode[inode.find(b"[") + 1 : -1] or 0) if b"[" in inode else 0
    flags = np.full(len(running), Flag.SNAPSHOT, np.uint32)
    flags[np.array(argv_length, np.int64) > _ARGV] |= np.uint32(Flag.ARGV_TRUNCATED)
    values = {**columns, **texts, **numbers, "comm": comm, "argv_length": argv_length, "flags": flags}
    values["argc"] = [argv.count(b"\0") for argv in texts["argv"]]
    values["event"] = PROCESS_EXEC.id
    return section_of(PROCESS_EXEC, values, len(running)), cgroups


def cgroup_paths(raw: bytes) -> tuple[str, str]:
    """(v2 path, path in the v1 hierarchy of the memory controller) from the text of /proc/PID/cgroup (cgroups(7))."""
    v2 = v1 = "/"
    for line in raw.decode("utf-8", "backslashreplace").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            v2 = path
        elif "memory" in controllers.split(","):
            v1 = path
    return v2, v1


def see_host_cgroups(proc: Path = Path("/proc")) -> None:
    """`enter_host_cgroups`, and one line in the log where that matters and cannot be done."""
    if enter_host_cgroups(proc) or not only_cgroup_v2(_read(proc / "self/cgroup")):
        return
    _log.info(
        "cgroups of processes that run already are told by paths relative to this container's own, which is itself taken for the host: "
        "to enter the host's cgroup namespace takes CAP_SYS_ADMIN (a privileged container)"
    )


def only_cgroup_v2(raw: bytes) -> bool:
    """Whether the text of /proc/PID/cgroup names the v2 hierarchy and no other."""
    return bool(raw) and all(line.startswith(b"0::") for line in raw.splitlines())


def enter_host_cgroups(proc: Path = Path("/proc")) -> bool:
    """See cgroups by their paths on the host from now on, in this thread and in those that it starts; whether they are seen so.

    A pod on a node with cgroup v2 has a cgroup namespace of its own, in which /proc shows paths from the pod's own cgroup on. Leaving it takes
    CAP_SYS_ADMIN, which the sensor has only in a privileged container.
    """
    for pid in (1, 2):  # init, or kthreadd where init is closed to us
        try:
            fd = os.open(proc / f"{pid}/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_ino == (proc / "self/ns/cgroup").stat().st_ino:
                return True
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWCGROUP) == 0:
                return True
        except OSError:
            continue
        finally:
            os.close(fd)
    return False


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's boot id."""
    return _read(proc / "sys/kernel/random/boot_id").decode().strip()


def clock_offset_ns() -> int:
    """Wall clock minus boot-time clock, ns; the middle of three reads keeps a preemption between them out."""
    offsets = sorted(time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) for _ in range(3))
    return offsets[1]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _link(path: Path) -> bytes:
    try:
        return os.readlink(os.fsencode(path))
    except OSError:
        return b""


def _status(raw: bytes, numbers: dict[str, list[int]], i: int) -> None:
    """Ids and capabilities from /proc/PID/status."""
    for line in raw.splitlines():
        name, _, value = line.partition(b":")
        with contextlib.suppress(ValueError, IndexError):
            match name:
                case b"Uid":
                    numbers["euid"][i] = int(value.split()[1])
                case b"Gid":
                    numbers["gid"][i], numbers["egid"][i] = (int(v) for v in value.split()[:2])
                case b"CapEff":
                    numbers["cap_effective"][i] = int(value, 16)
                case b"CapPrm":
                    numbers["cap_permitted"][i] = int(value, 16)
