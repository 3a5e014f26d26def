"""A ring like the kernel's, in shared memory: records at rates that no machine makes by executing programs.

Laid out as kernel/bpf/ringbuf.c does it (consumer page, producer page, data mapped twice in a row, 8-byte headers), so that the sensor's own `Ring`
reads it. The producer is another process, as the kernel is, and its time is nobody's but its own. One page more carries its counters.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye.events.base import process_uid
from daemoneye.events.codec import Section, section_of
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.process_exit import PROCESS_EXIT
from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye.events.process_signal import PROCESS_SIGNAL
from daemoneye_sensor.blobs import BLOB
from daemoneye_sensor.rings import Ring

DTYPES: Final = {"exec": PROCESS_EXEC.ring_dtype, "process": PROCESS_SIGNAL.ring_dtype, "blob": BLOB}
DROPPED: Final = 0
"""Slot of the control page: records that found no room."""
_PAGE: Final = mmap.PAGESIZE
_PROT_RW: Final = 3
_MAP_SHARED, _MAP_FIXED, _MAP_PRIVATE_ANONYMOUS = 0x1, 0x10, 0x22
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Mapping:
    """Pages of a memfd mapped where we say; `close` unmaps."""

    def __init__(self, parts: list[tuple[int, int]], fd: int) -> None:
        self.length = sum(size for _, size in parts)
        self.address = _mapped(None, self.length, 0, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        at = self.address
        for offset, size in parts:
            _mapped(at, size, _PROT_RW, _MAP_SHARED | _MAP_FIXED, fd, offset)
            at += size

    def array(self, offset: int, dtype: type[np.uint8 | np.uint64], count: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize * count
        return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(self.address + offset)), dtype)

    def close(self) -> None:
        _LIBC.munmap(self.address, self.length)


def _mapped(address: int | None, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    found = _LIBC.mmap(address, length, protection, flags, fd, offset)
    if found in {None, ctypes.c_void_p(-1).value}:
        raise OSError(ctypes.get_errno(), "mmap")
    return int(found)


class FakeRing(Ring):
    """The sensor's ring on a memfd, with the producer's half added."""

    def __init__(self, fd: int, dtype: np.dtype[np.void]) -> None:  # pyright: ignore[reportMissingSuperCall]
        """Map what `make` made."""
        self.fd = fd
        self.size = os.fstat(fd).st_size - 3 * _PAGE
        self.dtype = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", dtype)])
        self._mapping = _Mapping(
            [(0, 2 * _PAGE), (2 * _PAGE, self.size), (2 * _PAGE, self.size), (2 * _PAGE + self.size, _PAGE)], fd
        )
        self._consumer = self._mapping.array(0, np.uint64, 1)
        self._producer = self._mapping.array(_PAGE, np.uint64, 1)
        self._data = self._mapping.array(2 * _PAGE, np.uint8, 2 * self.size)
        self.control = self._mapping.array(2 * _PAGE + 2 * self.size, np.uint64, _PAGE // 8)

    def close(self) -> None:
        """Unmap."""
        del self._consumer, self._producer, self._data, self.control
        self._mapping.close()

    @property
    def room(self) -> int:
        """Records that fit now; like the kernel, one byte is always left."""
        return (self.size - 1 - (self.produced - self.position)) // self.stride

    def write(self, records: np.ndarray) -> None:
        """Append records of the ring's dtype, for which there must be room."""
        if not len(records):
            return
        start = self.produced
        begin = start % self.size
        rows = self._data[begin : begin + len(records) * self.stride].view(self.dtype)
        rows["record"] = records
        rows["length"] = self.dtype["record"].itemsize
        self._producer[0] = start + len(records) * self.stride  # x86 keeps the order of stores


def make(name: str, size: int) -> int:
    """Descriptor of an empty ring of `size` bytes, a power of two."""
    fd = os.memfd_create(f"bench-{name}")
    os.ftruncate(fd, size + 3 * _PAGE)
    os.set_inheritable(fd, True)
    return fd


# ── what is written into it ─────────────────────────────────────────────────────────────────────────────────────────

_LINES: Final = (
    b"/usr/bin/python3\0-c\0import json,sys;print(json.load(sys.stdin)[%d])\0",
    b"cc\0-O2\0-g\0-Wall\0-Iinclude\0-MD\0-o\0build/obj/file_%d.o\0-c\0src/module/file_%d.c\0",
    b"grep\0-rn\0--include=*.py\0pattern_%d\0/srv/application/src\0",
    b"mv\0/srv/application/batch/%d.tmp\0/srv/application/done/%d.json\0",
    b"git\0--no-pager\0log\0-1\0--format=%%H\0--\0docs/page-%d.md\0",
    b"worker\0--queue\0default\0--id\0%d\0--log-level\0info\0",
)
_PROGRAMS: Final = (
    b"/usr/bin/python3.11",
    b"/usr/bin/x86_64-linux-gnu-gcc-12",
    b"/usr/bin/grep",
    b"/usr/bin/mv",
    b"/usr/bin/git",
    b"/srv/application/bin/worker",
)
_AGAIN: Final = 1000
_PARENT: Final = (4000, 1_000_000_000)


class Records:
    """Synthetic processes: the same command lines over and over, with identities and times of their own."""

    def __init__(self, processes: int = 0, kinds: int = 4096) -> None:
        """Make so many command lines, executed by so many processes again and again (0: each by a process of its own)."""
        self._processes = processes
        at = np.arange(kinds)
        names = [_PROGRAMS[i % len(_PROGRAMS)] for i in at]
        argv = [
            line.replace(b"%%", b"%")
            for line in (_LINES[i % len(_LINES)].replace(b"%d", b"%d" % (100_000 + 7919 * i % 99_991)) for i in at)
        ]
        values: dict[str, object] = {
            "event": PROCESS_EXEC.id, "exe": names, "filename": names, "cwd": [b"/srv/application"] * kinds, "argv": argv,
            "argv_length": [len(a) for a in argv], "argc": [a.count(b"\0") for a in argv], "comm": [n.rpartition(b"/")[2][:15] for n in names],
            "uid": 1000, "euid": 1000, "gid": 1000, "egid": 1000, "ppid": _PARENT[0], "parent_start_time": _PARENT[1], "cgroup_id": 4242,
            "exe_mode": 0o100755, "exe_nlink": 1, "exe_magic": 0xEF53, "exe_inode": 1000 + at % len(_PROGRAMS), "exe_dev": 0xFE00001,
            "mnt_ns": 4026531841, "pid_ns": 4026531836, "net_ns": 4026531840, "user_ns": 4026531837, "loginuid": 0xFFFFFFFF, "sessionid": 0xFFFFFFFF,
        }  # fmt: skip
        self._exec = _ring_rows(section_of(PROCESS_EXEC, values, kinds))
        self._made = 0

    def take(self, n: int, now: int) -> dict[str, np.ndarray]:
        """The next `n` processes: fork, execution and exit of each, as ring records by ring; boot-time `now` ends their span."""
        index = self._made + np.arange(n)
        self._made += n
        pid = (5000 + index % (self._processes or 60_000)).astype(np.uint32)
        time_ns = np.uint64(now) - np.uint64(n * 100) + np.arange(n, dtype=np.uint64) * np.uint64(100)
        start = np.uint64(2_000_000_000) + pid if self._processes else time_ns
        rows = self._exec[index % len(self._exec)]
        rows["cpu"] = index & 1
        rows["pid"] = rows["tid"] = rows["ns_pid"] = rows["ns_tid"] = pid
        rows["start_time"], rows["time"] = start, time_ns + np.uint64(30)
        rows["process_uid"] = process_uid(pid, start)
        rows["parent_uid"] = process_uid(np.array(_PARENT[:1]), np.array(_PARENT[1:]))
        return {
            "exec": rows,
            "process": np.concatenate([_brief(rows, PROCESS_FORK.id, 0), _brief(rows, PROCESS_EXIT.id, 60)]),
        }


def _brief(rows: np.ndarray, event: int, later: int) -> np.ndarray:
    """Fork or exit records of the processes: the common columns and nothing else."""
    made = np.zeros(len(rows), PROCESS_SIGNAL.ring_dtype)
    for name in set(PROCESS_FORK.dtype.names or ()) & set(PROCESS_EXIT.dtype.names or ()):
        made[name] = rows[name]
    made["event"] = event
    made["time"] = rows["start_time"] + np.uint64(later)
    return made


def _ring_rows(section: Section) -> np.ndarray:
    rows = np.zeros(len(section.rows), PROCESS_EXEC.ring_dtype)
    for name in section.rows.dtype.names or ():
        rows[name] = section.rows[name]
    lengths = PROCESS_EXEC.heap_lengths(section.rows)
    assert int(lengths.max()) <= PROCESS_EXEC.inline_heap
    for i, (begin, length) in enumerate(zip(section.starts().tolist(), lengths.tolist(), strict=True)):
        rows["heap"][i, :length] = section.heap[begin : begin + length]
    return rows


@dataclass(slots=True)
class Produced:
    """What a producer did: records offered, by ring, and how many of them found no room; seconds it took."""

    execs: int = 0
    processes: int = 0
    dropped: int = 0
    seconds: float = 0.0


def produce(rings: dict[str, FakeRing], wake: int, *, execs: int, rate: int, whole: bool, lossy: bool) -> Produced:
    """Fill the rings at a rate, as kernel programs do.

    Args:
        rings: The rings `exec` and `process`.
        wake: An eventfd that tells the reader that a ring is half full.
        execs: Executions in all.
        rate: Executions a second, 0 for as fast as there is room.
        whole: Each execution comes with its fork and exit.
        lossy: What finds no room is dropped and counted instead of waited for.
    """
    records, done = Records(0 if whole else _AGAIN), Produced()
    begin = time.monotonic()
    made = 0
    while made < execs:
        due = execs - made if not rate else min(int((time.monotonic() - begin) * rate) - made, execs - made)
        step = (
            min(due, 2048)
            if lossy
            else min(due, 2048, rings["exec"].room, rings["process"].room // 2 if whole else due)
        )
        if step <= 0:
            os.eventfd_write(wake, 1)
            time.sleep(0.0005)
            continue
        rows = records.take(step, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        fits = min(step, rings["exec"].room)
        if whole:
            rings["process"].write(rows["process"][:step])
            rings["exec"].write(rows["exec"][:fits])
            rings["process"].write(rows["process"][step:])
            done.processes += 2 * step
        else:
            rings["exec"].write(rows["exec"][:fits])
        rings["exec"].control[DROPPED] += np.uint64(step - fits)
        done.dropped += step - fits
        made += step
        if any(ring.room < ring.size // ring.stride // 2 for ring in rings.values()):
            os.eventfd_write(wake, 1)
    done.execs, done.seconds = made, time.monotonic() - begin
    return done
