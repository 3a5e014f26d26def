"""Ports of this machine for servers that tests start.

Outside of the range from which the kernel takes ports of its own for whoever connects, and each of pytest-xdist's workers has a part for itself: nobody
else takes a port between this answer and the server's start.
"""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress
from typing import Final

_FIRST: Final = 12_000
_EACH: Final = 3_000
_WORKERS: Final = 6
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
# Two runs of pytest on one machine begin at different places.
_NUMBERS = itertools.count(os.getpid() * 101)


def free_ports(count: int) -> list[int]:
    """So many, on none of which anybody listens."""
    found: list[int] = []
    for _ in range(_EACH):
        if len(found) == count:
            return found
        port = _FIRST + _WORKER * _EACH + next(_NUMBERS) % _EACH
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            found.append(port)
    raise AssertionError(f"of {_EACH} ports from {_FIRST + _WORKER * _EACH} on none is free")


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
