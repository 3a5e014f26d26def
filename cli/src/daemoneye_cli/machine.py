"""What a machine is like, as far as it can be read from files.

Responsible for reading below a root directory, so that tests (and containers that mount the host's) can give another
one; not for judging (:mod:`daemoneye_cli.checks`).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CAPABILITIES: Final = {
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""Bit of each capability that matters here (linux/capability.h)."""

SYSTEM_PYTHON: Final = "/usr/bin/python3"
_TIMEOUT_S: Final = 20


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine whose files are below ``root``."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def path(self, absolute: str) -> Path:
        """Give the place of an absolute path."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str:
        """Give a file's text, nothing if it cannot be read."""
        try:
            return self.path(absolute).read_text("utf-8", "backslashreplace")
        except OSError:
            return ""

    def data(self, absolute: str) -> bytes:
        """Give a file's bytes; raises OSError."""
        return self.path(absolute).read_bytes()

    def exists(self, absolute: str) -> bool:
        """Whether there is such a path."""
        return self.path(absolute).exists()

    def glob(self, pattern: str) -> list[Path]:
        """Give the paths below the root that match, sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def kernel(self) -> str:
        """Give the kernel's release, such as 6.1.0-25-amd64."""
        return self.text("/proc/sys/kernel/osrelease").strip()

    def kernel_version(self) -> tuple[int, int]:
        """Give the kernel's first two numbers; (0, 0) if they are not to be found."""
        found = re.match(r"(\d+)\.(\d+)", self.kernel())
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def mounted(self, kind: str, at: str) -> bool:
        """Whether a file system of this kind is mounted there."""
        lines = (line.split() for line in self.text("/proc/self/mounts").splitlines())
        return any(len(line) > 2 and line[1] == at and line[2] == kind for line in lines)

    def mountable(self, kind: str) -> bool:
        """Whether the kernel knows this kind of file system."""
        return any(line.split()[-1:] == [kind] for line in self.text("/proc/filesystems").splitlines())

    def capabilities(self) -> frozenset[str]:
        """Give the effective capabilities of this process, of those that matter."""
        found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)", self.text("/proc/self/status"), re.MULTILINE)
        mask = int(found[1], 16) if found else 0
        return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)

    def default_interface(self) -> str | None:
        """Give the interface of the IPv4 default route, the one of the least metric."""
        routes = [line.split() for line in self.text("/proc/net/route").splitlines()[1:]]
        usual = [(int(route[6]), route[0]) for route in routes if len(route) > 7 and int(route[1] + route[7], 16) == 0]
        return min(usual)[1] if usual else None

    def bcc_version(self) -> str:
        """Give the version of BCC for the distribution's Python; raises :class:`LookupError` with the reason."""
        python = self.path(SYSTEM_PYTHON)
        code = "import bcc; print(bcc.__version__)"
        try:
            run = subprocess.run(
                [python, "-I", "-c", code], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LookupError(f"{python} does not run: {error}") from None
        if run.returncode != 0:
            raise LookupError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"{python} failed")
        return run.stdout.strip()
