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

ROOM: Final = 65_536
"""Sockets that the table holds: DE_SOCKETS of bpf/include/common.bpf.h."""
EVERY_S: Final = 10.0
IDLE_NS: Final = 60 * 1_000_000_000
"""A UDP socket that was silent for so long has ended; if it speaks again, it is told as a new one."""
_ENDED_AT_ONCE: Final = 2048
"""Two system calls each: the rest waits for the next turn."""
_ENTRY: Final = np.dtype([("row", SOCKET_CLOSE.dtype), ("identity", "<u8"), ("told", "<u4"), ("unused", "<u4")])
"""`struct de_socket` of bpf/include/common.bpf.h."""
_UDP: Final = protocol_number("udp")


class OpenSockets:
    """What the last look saw.

    Attributes:
        open: Sockets.
        owners: Keys of the processes that own them, ascending, u64.
        rows: What the kernel keeps of them, as rows of socket_close.
        ended: Rows of socket_close for what fell silent, in whichever order; the kernel knows these sockets until `forget`.
    """

    def __init__(self, fd: int) -> None:
        """Look at the map of this descriptor, which stays the caller's."""
        self._fd = fd
        self._next = 0.0
        self._keys = np.zeros(0, np.uint64)
        self.open = 0
        self.owners = np.zeros(0, np.uint64)
        self.rows = np.zeros(0, SOCKET_CLOSE.dtype)
        self.ended = np.zeros(0, SOCKET_CLOSE.dtype)

    def look(self) -> bool:
        """Look, unless it is not yet time or what has ended is not forgotten yet; whether it did."""
        if len(self.ended) or time.monotonic() < self._next:
            return False
        keys, entries = bpfsys.lookup_batch(self._fd, _ENTRY)
        self.rows = rows = entries["row"]
        self.open = len(rows)
        self.owners = unique(rows["process_uid"])
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        idle = (rows["proto"] == _UDP) & (rows["last_time"] + np.uint64(IDLE_NS) < np.uint64(now))
        silent = np.flatnonzero(idle)[:_ENDED_AT_ONCE]
        self._next = time.monotonic() + (EVERY_S if len(silent) < _ENDED_AT_ONCE else 0.0)
        self._keys, self.ended = keys[silent], rows[silent]
        self.ended["time"], self.ended["event"], self.ended["ending"] = now, EVENTS["socket_close"].id, Ending.IDLE
        return True

    def forget(self) -> None:
        """What has ended is told: the kernel may forget it, unless it spoke meanwhile. Then it goes on, and its next row counts from its begin."""
        for key, last in zip(self._keys, self.ended["last_time"].tolist(), strict=True):
            held = bpfsys.lookup(self._fd, key.tobytes(), _ENTRY.itemsize)
            if held is not None and int(np.frombuffer(held, _ENTRY)["row"]["last_time"][0]) == last:
                bpfsys.delete(self._fd, key.tobytes())
                self.open -= 1
        self._keys, self.ended = self._keys[:0], self.ended[:0]
