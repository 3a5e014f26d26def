"""The kernel side as this process holds it: pinned maps and links, taken over from a sensor before us or made by the compile child.

Pins lie in `<bpffs>/daemoneye/<instance>/<layout>`; the layout is a hash over everything that shapes maps and programs, so that a sensor takes
over what fits exactly. Pins of another layout come along (`Programs.former`): whoever reads the rings reads or counts what they hold before
it removes them. Programs without a reader fall silent when their lease lapses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye.events.registry import BY_RING, KERNEL_EVENTS, slot_size
from daemoneye.events.sockets import DropReason
from daemoneye_sensor import bpfsys
from daemoneye_sensor.drops import CODES
from daemoneye_sensor.errors import BAD_PROGRAM, MISSING_FEATURE, ProgramError
from daemoneye_sensor.rings import Ring

BPFFS: Final = Path("/sys/fs/bpf")
BLOB: Final = np.dtype(
    [
        ("time", "<u8"),
        ("key", "<u8"),
        ("kind", "<u4"),
        ("total", "<u4"),
        ("offset", "<u4"),
        ("length", "<u4"),
        ("data", "u1", (992,)),
    ]
)
"""`struct de_blob` of bpf/include/common.bpf.h."""

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

RINGS: Final = ("exec", "process", "blob", "socket")
"""In order of their counters' slots. Rings of other releases may lack the last ones."""
_OPAQUE: Final = np.dtype((np.void, 8))
_CONTROL_LEASE, _CONTROL_EVENTS, _CONTROL_LAPSED, _CONTROL_EPOCH, _CONTROL_RECORDS, _CONTROL_UNTOLD = range(6)
_CONTROL_DROPS, _CONTROL_READ, _CONTROL_PACKETS = 8, 24, 64
_SOCKET_EVENTS: Final = sum(1 << record.id for record in BY_RING["socket"])
_FIRST_RECORDS: Final = 0x798A32519A0D
"""The `records_id` of records whose rings do not say it: the release that did not yet write the slot had these."""
_NOT_LOADED: Final = "could not be loaded when the other programs were"
_COMPILE_TIMEOUT_S: Final = 120
_TELLING: Final = re.compile(r"error:|invalid|cannot|not allowed|unknown func|too large")
"""Lines of clang and of the verifier that say why."""
_LACKING: Final = re.compile(
    r"could not open bpf map|unknown func|invalid func|cannot use helper|Operation not permitted|cannot be attached"
)
"""What BCC, the verifier and our child say when the kernel lacks a kind of map, a helper or a tracepoint, or forbids them."""


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


class Pinned:
    """Rings and their control array, as a sensor of whichever layout pinned them.

    Attributes:
        alike: Whether the records in the rings are those of this release; if not, they can be counted and no more.
    """

    def __init__(self, pin: Path) -> None:
        """Open what is pinned.

        Raises:
            OSError: Something is not there.
        """
        self.pin = pin
        control = bpfsys.obj_get(pin / "control")
        try:
            self._control_map = mmap.mmap(control, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(control)
        self._control = np.frombuffer(self._control_map, np.uint64)
        names = {path.name.removesuffix("_ring") for path in pin.glob("*_ring")}
        # A release that had not all of these rings may well have had their records.
        self.alike = (int(self._control[_CONTROL_RECORDS]) or _FIRST_RECORDS) == records_id(names)
        dtypes = _ring_dtypes(names) if self.alike else dict.fromkeys(names, _OPAQUE)
        self.rings = {name: Ring(bpfsys.obj_get(pin / f"{name}_ring"), dtype) for name, dtype in dtypes.items()}

    @property
    def epoch(self) -> int:
        """Identity of these rings."""
        return int(self._control[_CONTROL_EPOCH])

    @property
    def wanted(self) -> bool:
        """Whether the programs are switched to any events."""
        return bool(self._control[_CONTROL_EVENTS])

    @property
    def follows_sockets(self) -> bool:
        """Whether nothing happens to sockets that the programs do not see: somebody reads, and wants to know."""
        wanted = int(self._control[_CONTROL_EVENTS]) & _SOCKET_EVENTS
        return bool(wanted) and self.leased

    @property
    def leased(self) -> bool:
        """Whether somebody promised to read."""
        return int(self._control[_CONTROL_LEASE]) >= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def want(self, events: list[str]) -> None:
        """Switch the programs to these events."""
        self._control[_CONTROL_EVENTS] = sum(1 << KERNEL_EVENTS[name].id for name in events)

    def lease(self, until_boot_ns: int) -> None:
        """Promise to read until then."""
        self._control[_CONTROL_LEASE] = until_boot_ns

    def forget_lapsed(self) -> None:
        """Begin to count what lapsed leases lose."""
        self._control[_CONTROL_LAPSED] = 0

    def dropped(self) -> dict[str, int]:
        """What was lost since the rings were made: records without room by ring, those of lapsed leases (`lease`), untold sockets (`table`)."""
        counts = {name: int(self._control[_CONTROL_DROPS + i]) for i, name in enumerate(RINGS)}
        counts["lease"], counts["table"] = int(self._control[_CONTROL_LAPSED]), int(self._control[_CONTROL_UNTOLD])
        return counts

    def packets_dropped(self) -> dict[str, int]:
        """Packets that the kernel dropped since the rings were made, by the words of DropReason."""
        return {reason.name.lower(): int(self._control[_CONTROL_PACKETS + reason]) for reason in list(DropReason)[1:]}

    def held(self) -> dict[str, int]:
        """Records of events that nobody has read, by ring; strings (`blob`) belong to one of them."""
        return {name: ring.held() for name, ring in self.rings.items() if name != "blob"}

    def advance(self, ring: str, position: int) -> None:
        """Consume a ring up to a position."""
        self.rings[ring].advance(position)
        self._control[_CONTROL_READ + RINGS.index(ring)] = self.rings[ring].position // self.rings[ring].stride

    def remove(self) -> None:
        """Unpin everything: with the last descriptor, the kernel drops programs and rings."""
        shutil.rmtree(self.pin, ignore_errors=True)
        with contextlib.suppress(OSError):  # others' pins may stand beside ours
            self.pin.parent.rmdir()
            self.pin.parent.parent.rmdir()

    def close(self) -> None:
        """Let go of the descriptors; what is pinned lives on."""
        for ring in self.rings.values():
            ring.close()
            os.close(ring.fd)
        del self._control
        self._control_map.close()


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

    def run_time(self) -> dict[str, tuple[int, int]]:
        """(nanoseconds, runs) of each program; zeros unless kernel.bpf_stats_enabled is set."""
        info = {name: bpfsys.fdinfo(fd) for name, fd in self._programs.items()}
        return {name: (int(i.get("run_time_ns", 0)), int(i.get("run_cnt", 0))) for name, i in info.items()}

    def missed(self) -> int:
        """How often a program was wanted on a processor on which it was running just then, and did not run; 0 on kernels that do not say it."""
        return sum(int(bpfsys.fdinfo(fd).get("recursion_misses", 0)) for fd in self._programs.values())

    def close(self) -> None:
        """Let go of the descriptors; what is pinned lives on."""
        super().close()
        for fd in [*self._links, *self._programs.values(), self._seen, self.sockets]:
            os.close(fd)


def records_id(rings: Collection[str] = RINGS) -> int:
    """Names the form of the records in these rings, 48 bits: what a reader must agree on with whoever wrote them. Never 0."""
    form = [
        [name, dtype.itemsize, [r.hash for r in BY_RING.get(name, ())]] for name, dtype in _ring_dtypes(rings).items()
    ]
    return int(hashlib.sha256(json.dumps([form, BLOB.descr]).encode()).hexdigest()[:12], 16) | 1


def _ring_dtypes(rings: Collection[str] = RINGS) -> dict[str, np.dtype[Any]]:
    """Records of those of our rings that are among these, in our order."""
    own = {"exec": PROCESS_EXEC.ring_dtype, "blob": BLOB}
    return {name: own.get(name) or np.dtype((np.void, slot_size(name))) for name in RINGS if name in rings}


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
            pinned.lease(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + (_COMPILE_TIMEOUT_S + lease_s) * 1_000_000_000)
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
    child = Path(__file__).parent / "loader" / "child.py"
    try:
        done = subprocess.run(
            [python, "-I", str(child)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMPILE_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        msg = f"{python} is missing: BCC belongs to the distribution's Python"
        raise ProgramError(msg, fix="apt-get install python3 python3-bpfcc") from error
    except subprocess.TimeoutExpired as error:
        msg = f"compiling the programs took longer than {_COMPILE_TIMEOUT_S} s"
        raise ProgramError(msg, fix="look at the machine's load") from error
    finally:
        leftover = Path(str(request["pin"]))
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"error": f"the compile child ended with status {done.returncode}", "fix": ""}
    if answer.get("ok"):
        return dict(answer["missing"])
    shutil.rmtree(leftover, ignore_errors=True)
    detail = next((line.strip() for line in reversed(done.stderr.splitlines()) if _TELLING.search(line)), "")
    message = f"eBPF programs cannot be loaded: {answer.get('error')}" + (f" ({detail})" if detail else "")
    lacking = _LACKING.search(f"{done.stderr}\n{answer.get('error')}")
    reason = str(answer.get("reason") or (MISSING_FEATURE if lacking else BAD_PROGRAM))
    raise ProgramError(message, fix=str(answer.get("fix") or "run `daemoneye doctor`"), reason=reason)


def remove_pins(instance: str) -> None:
    """Remove whatever an instance has pinned, of whichever layout: with the pins, the kernel drops programs and rings that nobody holds."""
    home = BPFFS / "daemoneye" / instance
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):  # others' pins may stand beside ours
        home.parent.rmdir()
