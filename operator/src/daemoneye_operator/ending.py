"""Parts of a process that run side by side until it is to end.

Responsible for running them and for what their end means; not for what says that it is time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from daemoneye.ending import end


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
