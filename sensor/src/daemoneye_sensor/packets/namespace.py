"""Network namespaces: the node's, and doing something in another one."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_Made = TypeVar("_Made")


def of_node(proc: Path = Path("/proc")) -> Path:
    """The node's network namespace as a file, by a process that may be looked at.

    Process 1 of some machines lets nobody look, whatever he may (it is not dumpable); the next one, the kernel's own, is in the same namespace.
    """
    first = proc / "1/ns/net"
    try:
        first.stat()
    except OSError:
        return proc / "2/ns/net"
    return first


def within(netns: Path | None, make: Callable[[], _Made]) -> _Made:
    """Call in a network namespace, given as a file (None: our own): in a thread of its own, for a namespace is a thread's, and ends with it.

    Raises:
        OSError: There is no such namespace, no right to enter it, or `make` raised it.
    """
    if netns is None:
        return make()
    made: list[_Made] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _LIBC.setns(fd, _CLONE_NEWNET) < 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(fd)
            made.append(make())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]
