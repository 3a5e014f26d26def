"""Ending tasks, all of them and in bounded time.

Responsible for asking often enough: :func:`asyncio.wait_for` of Python 3.11, which nats-py uses, forgets a cancellation that comes together with
its result, and nats-py itself swallows some. A task that was asked once may so go on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_TIMES: Final = 10
_WAIT_S: Final = 1.0


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until they have ended, for ten seconds at most. What they raise then is taken note of, and nobody's affair."""
    tasks = list(tasks)
    for _ in range(_TIMES):
        pending = [task for task in tasks if not task.done()]
        if not pending:
            break
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_WAIT_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # asyncio would complain of one that nobody asked for
