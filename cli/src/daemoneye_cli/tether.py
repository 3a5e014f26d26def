"""Runs a program that ends with the process that started it: ``python tether.py PARENT_PID PROGRAM ARGS…``.

Responsible for one system call before the program begins. A supervisor that is killed cannot stop its children, so the
kernel does it: PR_SET_PDEATHSIG survives execve. A program of its own rather than a ``preexec_fn``, which is not safe
in a process with threads. Standard library only: it is started by path, before any package is found.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def command(program: Sequence[str]) -> list[str]:
    """Give the command line that runs a program so; its first word is a path."""
    return [sys.executable, "-IS", __file__, str(os.getpid()), *program]


def main(argv: list[str]) -> None:
    """Bind this process to its parent, then become the program; the parent may have gone already."""
    parent, program = int(argv[1]), argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    os.execv(program[0], program)  # noqa: S606 - no shell: this is the point of the module


if __name__ == "__main__":
    main(sys.argv)
