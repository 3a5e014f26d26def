"""Many requests at once, and one answer for all of them.

Responsible for how many are under way and for letting each have its chance; not for trying again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Final

AT_ONCE: Final = 64


async def together(work: Iterable[Awaitable[None]]) -> None:
    """All of it, some at once; the first failure is raised when all had their chance."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(task: Awaitable[None]) -> None:
        async with gate:
            await task

    results = await asyncio.gather(*map(one, work), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
