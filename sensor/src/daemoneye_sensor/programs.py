"""The kernel side as this process holds it: pinned maps and links, taken over from a sensor before us or made by the compile child.

Pins lie in `<bpffs>/daemoneye/<instance>/<layout>`; the layout is a hash over everything that shapes maps and programs, so that a sensor takes
over what fits exactly. Pins of another layout come along (`Programs.former`): whoever reads the rings reads or counts what they hold before
it removes them. Programs without a reader fall silent when their lease lapses. What the rings hold is :mod:`daemoneye_sensor.pinned`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye.events.registry import KERNEL_EVENTS
from daemoneye.events.sockets import DropReason
from daemoneye_sensor import bpfsys, compilechild
from daemoneye_sensor.drops import CODES
from daemoneye_sensor.errors import MISSING_FEATURE, ProgramError
from daemoneye_sensor.pinned import Pinned, records_id

BPFFS: Final = Path("/sys/fs/bpf")

PROGRAMS: Final = {
    "cgroup_announce": "sched_process_exec",
    **{r.name: r.tracepoint for r in KERNEL_EVENTS.values() if r.tracepoint},
}
"""Function → raw tracepoint; the file is bpf/programs/<function>.bpf.c. cgroup_announce comes first: rows refer to what it sends."""
SOCKET_PROGRAMS: Final = {
    "socket_state": "inet_sock_set_state",
    "socket_destroy": "tcp_destroy_sock",
    "socket_send": "sock_send_length",
    "socket_recv": "sock_recv_length",
    "socket_calls": "sys_exit",
    "socket_drops": "kfree_skb",
}
"""The same for sockets. Where a kernel lacks the first there are no sockets, where it lacks others less is known of them; processes are watched
nevertheless."""
INSTEAD: Final = {"socket_calls": ("socket_send", "socket_recv")}
"""Programs that run only where one of these cannot, and then in the place of all of them."""
_SOCKETS: Final = "include/sockets.bpf.h"
_NOT_LOADED: Final = "could not be loaded when the other programs were"


@dataclass(frozen=True, slots=True)
class RingSizes:
    """Bytes of each ring; powers of two and at least a page."""

    exec_bytes: int = 4 << 20
    process_bytes: int = 2 << 20
    blob_bytes: int = 4 << 20
    socket_bytes: int = 4 << 20

    def pages(self) -> dict[str, int]:
        """The programs' definitions. A size that is no power of two is rounded up."""
        sizes = {
            "DE_EXEC_PAGES": self.exec_bytes,
            "DE_PROCESS_PAGES": self.process_bytes,
            "DE_BLOB_PAGES": self.blob_bytes,
            "DE_SOCKET_PAGES": self.socket_bytes,
        }
        return {name: 1 << max(-(-size // mmap.PAGESIZE) - 1, 0).bit_length() for name, size in sizes.items()}


class Programs(Pinned):
    """Loaded programs of this layout, their rings and counters.

    Attributes:
        former: Rings of other layouts, oldest first; whose they become.
        missing: Programs about sockets that do not run, with the reason.
        instead: Programs that run in the place of others.
    """

    def __init__(self, pin: Path, *, taken_over: bool) -> None:
        """Open what is pinned.

        Raises:
            OSError: Something is not there.
        """
        super().__init__(pin)
        self.taken_over = taken_over
        self.former: list[Pinned] = []
        running = [*PROGRAMS, *(name for name in SOCKET_PROGRAMS if (pin / f"link_{name}").exists())]
        self.instead = [name for name in INSTEAD if name in running]
        spare = {name for own, others in INSTEAD.items() for name in (others if own in running else (own,))}
        self.missing = {name: _NOT_LOADED for name in SOCKET_PROGRAMS if name not in (*running, *spare)}
        self._links = [bpfsys.obj_get(pin / f"link_{name}") for name in running]
        self._programs = {name: bpfsys.obj_get(pin / f"prog_{name}") for name in running}
        self.sockets = bpfsys.obj_get(pin / "sockets")
        self._seen = bpfsys.obj_get(pin / "cgroups_seen")
        self.forget_cgroups()

    def forget_cgroups(self) -> None:
        """Have every cgroup announced again: a new reader knows none."""
        bpfsys.clear_u64_map(self._seen)

    def forget_sockets(self) -> None:
        """Have open sockets begin anew: what happened to them while nobody looked is not known."""
        bpfsys.clear_u64_map(self.sockets)

    def running(self) -> np.ndarray:
        """Every process that runs now, as rows of process_fork (time is the start)."""
        raw = (self.pin / "processes").read_bytes()
        return np.frombuffer(raw[: len(raw) - len(raw) % PROCESS_FORK.dtype.itemsize], PROCESS_FORK.dtype)

    def missed(self) -> int:
        """How often a program was wanted on a processor on which it was running just then, and did not run; 0 on kernels that do not say it."""
        return sum(int(bpfsys.fdinfo(fd).get("recursion_misses", 0)) for fd in self._programs.values())

    def close(self) -> None:
        """Let go of the descriptors; what is pinned lives on."""
        super().close()
        for fd in [*self._links, *self._programs.values(), self._seen, self.sockets]:
            os.close(fd)


def load(
    bpf_dir: Path, instance: str, sizes: RingSizes, *, python: str = "/usr/bin/python3", lease_s: int = 0
) -> Programs:
    """Take over the pinned programs of this layout, or have them compiled, loaded and pinned.

    Programs of another layout whose records can be read go on for `lease_s` seconds more than compiling ours may take: nothing is lost meanwhile.

    Raises:
        ProgramError: The kernel, a privilege, BCC or headers are missing; the message says which and the fix what to do.
    """
    _mount_bpffs()
    sources = [
        bpf_dir / "include/events.gen.h",
        bpf_dir / "include/common.bpf.h",
        *(bpf_dir / f"programs/{name}.bpf.c" for name in (*PROGRAMS, "process_snapshot")),
    ]
    sockets = [bpf_dir / _SOCKETS, *(bpf_dir / f"programs/{name}.bpf.c" for name in SOCKET_PROGRAMS)]
    missing = [str(s) for s in (*sources, *sockets) if not s.is_file()]
    if missing:
        msg = f"program sources are missing: {', '.join(missing)}"
        raise ProgramError(msg, fix="give bpf_dir the folder `bpf` of this release")
    defines = sizes.pages()
    text = b"\0".join(s.read_bytes() for s in (*sources, *sockets))
    named = sorted({**PROGRAMS, **SOCKET_PROGRAMS}.items())
    layout = hashlib.sha256(json.dumps([defines, named, CODES]).encode() + text).hexdigest()[:16]
    home = BPFFS / "daemoneye" / instance
    pin = home / layout
    former = _former(home, pin, lease_s)
    try:
        programs = _taken_over(pin) or _made(home, pin, sources, sockets, defines, python)
    except BaseException:
        for pinned in former:
            pinned.close()
        raise
    programs.former = former
    return programs


def _taken_over(pin: Path) -> Programs | None:
    if not pin.is_dir():
        return None
    try:
        return Programs(pin, taken_over=True)
    except OSError:
        shutil.rmtree(pin, ignore_errors=True)  # half of it: not ours to repair
        return None


def _made(
    home: Path, pin: Path, sources: list[Path], sockets: list[Path], defines: dict[str, int], python: str
) -> Programs:
    fresh = home / f"{pin.name}_{secrets.token_hex(4)}"
    # Pinned under another name first (bpffs allows no dots): a child that dies halfway leaves nothing that looks whole.
    request = {
        "sources": [str(s) for s in sources],
        "pin": str(fresh),
        "defines": defines,
        "programs": PROGRAMS,
        "sockets": {
            "sources": [str(s) for s in sockets],
            "programs": SOCKET_PROGRAMS,
            "instead": INSTEAD,
            "drops": CODES,
            "other": int(DropReason.OTHER),
        },
        "iterator": "bpf_iter__task",
    }
    missing = _compile(python, {**request, "epoch": secrets.randbits(48), "records": records_id()})
    fresh.rename(pin)
    try:
        programs = Programs(pin, taken_over=False)
        programs.missing |= missing
        return programs
    except OSError as error:
        msg = f"the pinned programs cannot be opened: {error.strerror}"
        raise ProgramError(msg, fix=f"remove {home} and start again") from error


def _former(home: Path, pin: Path, lease_s: int) -> list[Pinned]:
    """Rings of other layouts, which another release or other sizes left, oldest first; what cannot be opened is removed."""
    others = [path for path in home.iterdir() if path != pin] if home.is_dir() else []
    former = []
    for path in sorted(others, key=lambda path: path.stat().st_mtime_ns):
        try:
            pinned = Pinned(path)
        except OSError:  # what a compile child left that died halfway: nobody ever read it
            shutil.rmtree(path, ignore_errors=True)
            continue
        if pinned.alike and pinned.wanted:
            pinned.lease(
                time.clock_gettime_ns(time.CLOCK_BOOTTIME) + (compilechild.TIMEOUT_S + lease_s) * 1_000_000_000
            )
        former.append(pinned)
    return former


def _mount_bpffs() -> None:
    """Mount bpffs where it is not: a fresh machine or a container may lack it."""
    if os.geteuid() != 0:
        raise ProgramError(
            "loading eBPF programs needs root",
            fix="run with sudo, or use `daemoneye run --replay FILE`",
            reason=MISSING_FEATURE,
        )
    mounts = Path("/proc/self/mounts").read_text().split("\n")
    if any(line.split(" ")[1:3] == [str(BPFFS), "bpf"] for line in mounts if line):
        return
    done = subprocess.run(["mount", "-t", "bpf", "bpffs", str(BPFFS)], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{BPFFS} is not a BPF file system and cannot be mounted: {done.stderr.strip()}"
        raise ProgramError(msg, fix=f"mount -t bpf bpffs {BPFFS}", reason=MISSING_FEATURE)


def _compile(python: str, request: dict[str, object]) -> dict[str, str]:
    """Have the child compile and pin; returns which programs about sockets do not run, and why."""
    try:
        done = compilechild.ask("the eBPF programs", "child.py", python, request)
        return dict(compilechild.answer("the eBPF programs", done, done.stdout)["missing"])
    except ProgramError:
        shutil.rmtree(str(request["pin"]), ignore_errors=True)
        raise


def remove_pins(instance: str) -> None:
    """Remove whatever an instance has pinned, of whichever layout: with the pins, the kernel drops programs and rings that nobody holds."""
    home = BPFFS / "daemoneye" / instance
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):  # others' pins may stand beside ours
        home.parent.rmdir()
