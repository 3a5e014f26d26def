"""Parts of a process that run side by side until it is to end.

Responsible for running them, for the signals that ask a process to end, and for what an end means.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from daemoneye.ending import end


def on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; called in the loop that waits for it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def run_until(stop: asyncio.Event, *parts: Coroutine[Any, Any, None]) -> None:
    """Run all until `stop`, or until one ends by itself: its error, if it has one, is raised when the others have ended.

    What a part raises because it is ended is nobody's affair.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        stopping.cancel()
        await end(tasks)
    for task in ended:
        if not task.cancelled():
            task.result()
