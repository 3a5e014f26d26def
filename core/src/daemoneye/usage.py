"""What this process costs: CPU, memory, wake-ups.

Responsible for reading the kernel's counters of the process and of its container; for heartbeats and metrics alike.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc/self")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Since the start of the process.

    Attributes:
        cpu_s: Seconds of user and system time.
        rss_bytes: Resident memory now.
        peak_bytes: Most memory that the container used, children and page cache included; without a container the process's greatest resident memory.
        wakeups: Voluntary context switches.
    """

    cpu_s: float
    rss_bytes: int
    peak_bytes: int
    wakeups: int


def now(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Usage:
    """As of now; what cannot be read is 0."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = _container_peak(proc, cgroups) or used.ru_maxrss * _KIB
    return Usage(round(used.ru_utime + used.ru_stime, 3), _rss(proc), peak, used.ru_nvcsw)


def _rss(proc: Path) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int((proc / "statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _container_peak(proc: Path, cgroups: Path) -> int:
    """The cgroup's ``memory.peak`` (v2, Linux 5.19) or ``memory.max_usage_in_bytes`` (v1); 0 without either.

    A container sees its own cgroup as the root of the mount, and in v1 its path as the host does: both places are tried. The machine's root is
    nobody's container.
    """
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            unified = number == "0"
            if not unified and "memory" not in controllers.split(","):
                continue
            root = cgroups if unified else cgroups / "memory"
            name = "memory.peak" if unified else "memory.max_usage_in_bytes"
            places = [root / path.lstrip("/") / name] if path != "/" else []
            if path != "/" or unified:  # the root of v2 has no such file, but for who sees a container's as root
                places.append(root / name)
            for place in places:
                with contextlib.suppress(OSError, ValueError):
                    return int(place.read_text())
    return 0
