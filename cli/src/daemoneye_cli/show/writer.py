"""Writing lines to standard output without ever holding up the rest of the program.

Responsible for a reader that is slow (the lines wait, nobody else does), that has gone (:class:`OutputClosed`), or that
never reads again while we are asked to end; not for what the lines say.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_PIECE: Final = 4096
"""PIPE_BUF of Linux: a pipe that polls as writable takes this much without blocking."""
_POLL_MS: Final = 200


class OutputClosed(Exception):  # noqa: N818 - no error: who reads us has seen enough
    """Nobody reads standard output any more."""


class LineWriter:
    """Writes text to a file descriptor in a thread of its own, in order."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._abandoned = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="output")

    async def write(self, text: str) -> None:
        """Write ``text``; returns when it is written, raises :class:`OutputClosed` if that cannot be."""
        if text:
            data = text.encode("utf-8", "backslashreplace")
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, data)

    def abandon(self) -> None:
        """Give up what is not written yet: the program ends."""
        self._abandoned.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _write(self, data: bytes) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        rest = memoryview(data)
        while rest:
            if self._abandoned.is_set():
                raise OutputClosed
            for _, events in poll.poll(_POLL_MS):
                if events & (select.POLLERR | select.POLLNVAL):
                    raise OutputClosed
                try:
                    rest = rest[os.write(self._descriptor, rest[:_PIECE]) :]
                except BlockingIOError:  # somebody made the description non-blocking
                    continue
                except OSError:
                    raise OutputClosed from None
