"""Work that a signal ends.

Responsible for ending it soon and in order, whatever it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from daemoneye_cli.show.writer import OutputClosed

_END_S: Final = 2.0


async def until_signal(work: Coroutine[Any, Any, None], end: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` until it is done, until nobody reads its output, or until a signal: then without waiting for anybody for long.

    ``end`` lets go of what holds the work up.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    working, stopping = asyncio.create_task(work), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            with contextlib.suppress(OutputClosed):
                working.result()
    finally:
        # A cancellation alone may be swallowed on its way through nats-py and wait_for (cpython #86296); a closed connection ends the rest.
        stopping.cancel()
        working.cancel()
        await end()
        await asyncio.wait({working}, timeout=_END_S)
