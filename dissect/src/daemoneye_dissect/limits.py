# SPDX-License-Identifier: GPL-2.0-only
"""What the process may: nothing that it does not need, and nothing for long.

Responsible for privileges, memory, time and for ending with the parent; each of them holds before the first byte of a frame is read.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from daemoneye_dissect import sandbox

NOBODY: Final = 65_534
MEMORY: Final = 512 << 20
"""Bytes of address space; loaded it has 90 MiB, and a message and its answer 32."""
FILES: Final = 64
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITY_VERSION: Final = 0x20080522
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def confine() -> int:
    """Give up every privilege and set the limits that hold for good; the user id that is left.

    Root becomes nobody. In a container without the right to change users (CAP_SETUID) the user stays, without any capability; what the kernel refuses
    the process (`daemoneye_dissect.sandbox`) does not depend on the user.

    Raises:
        OSError: The kernel refuses something that everybody may.
    """
    if os.geteuid() == 0:
        with suppress(PermissionError):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Behind the change of user, which takes it back. A parent that has gone already shows as the end of stdin.
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sandbox.close()
    return os.geteuid()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have the kernel end the process if this takes longer, by the clock or in CPU time: no code of ours needs to run for that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, none):
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")
