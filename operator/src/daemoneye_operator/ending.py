"""Parts of a process that run side by side until it is to end.

Responsible for ending them, all of them and in bounded time; not for what says that it is time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

_TIMES: Final = 10
_WAIT_S: Final = 1.0


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
        await _end(tasks)
    for task in ended:
        if not task.cancelled():
            task.result()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for _ in range(_TIMES):
        # Once is not enough: asyncio.wait_for, which nats-py uses, forgets a cancellation that comes together with its result (Python 3.11).
        pending = [task for task in tasks if not task.done()]
        if not pending:
            break
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_WAIT_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # taken note of: asyncio would complain of one that nobody asked for
