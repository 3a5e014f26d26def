"""The kernel's table of open sockets, as user space looks at it every ten seconds.

Responsible for ending UDP sockets that fell silent, for the kernel has no event of their end, and for knowing whose sockets are open. Not for
rows that the programs send themselves.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from daemoneye.events.addresses import protocol_number
from daemoneye.events.registry import EVENTS
from daemoneye.events.sets import unique
from daemoneye.events.socket_close import SOCKET_CLOSE
from daemoneye.events.sockets import Ending
from daemoneye_sensor import bpfsys

EVERY_S: Final = 10.0
IDLE_NS: Final = 60 * 1_000_000_000
"""A UDP socket that was silent for so long has ended; if it speaks again, it is told as a new one."""
_ENDED_AT_ONCE: Final = 2048
"""A system call each: the rest waits for the next look."""
_ENTRY: Final = np.dtype([("row", SOCKET_CLOSE.dtype), ("identity", "<u8"), ("told", "<u4"), ("unused", "<u4")])
"""`struct de_socket` of bpf/include/common.bpf.h."""
_UDP: Final = protocol_number("udp")


class OpenSockets:
    """What the last look saw.

    Attributes:
        open: Sockets.
        owners: Keys of the processes that own them, ascending, u64.
    """

    def __init__(self, fd: int) -> None:
        """Look at the map of this descriptor, which stays the caller's."""
        self._fd = fd
        self._next = 0.0
        self.open = 0
        self.owners = np.zeros(0, np.uint64)

    def look(self) -> np.ndarray | None:
        """Rows of socket_close for what fell silent, in whichever order; None when it is not yet time to look.

        The kernel has forgotten them by then: a sensor that dies before they are in its spool does not tell them.
        """
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + EVERY_S
        keys, entries = bpfsys.lookup_batch(self._fd, _ENTRY)
        rows = entries["row"]
        self.open = len(rows)
        self.owners = unique(rows["process_uid"])
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        silent = (rows["proto"] == _UDP) & (rows["last_time"] + np.uint64(IDLE_NS) < np.uint64(now))
        ended = [bpfsys.take(self._fd, key, _ENTRY.itemsize) for key in keys[silent][:_ENDED_AT_ONCE].tolist()]
        gone = np.frombuffer(b"".join(filter(None, ended)), _ENTRY)["row"].copy()
        gone["time"], gone["event"], gone["ending"] = now, EVENTS["socket_close"].id, Ending.IDLE
        self.open -= len(gone)
        return gone
