"""The sensor's port: whether it lives, whether it is ready, and its metrics.

Responsible for what being alive means and for serving while a context lasts; what ready means is its caller's affair, what the metrics are
:mod:`daemoneye_sensor.measures`'. Without a port there is none of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from daemoneye import health
from daemoneye.errors import ConfigError
from daemoneye_sensor.pipeline import Pipeline

STUCK_S: Final = 60.0
"""A pipeline looks at its source four times a second; one that has not for so long never will."""


def alive(tasks: Iterable[asyncio.Task[Any]], pipeline: Pipeline | None) -> dict[str, Any]:
    """The answer of /healthz: these tasks run, and the pipeline, if there is one, turns. A broker that is away is no reason to begin anew."""
    reason = next((f"its task {task.get_name()} has ended" for task in tasks if task.done()), "")
    if not reason and pipeline is not None and pipeline.running:
        still = time.monotonic() - pipeline.turned
        reason = f"it has not looked at its source for {still:.0f} s" if still > STUCK_S else ""
    return {"ok": not reason, "reason": reason}


@asynccontextmanager
async def serving(
    port: int, *, alive: health.Answer, ready: health.Answer, metrics: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Answer on a port, with 0 on none.

    Raises:
        ConfigError: The port is taken.
    """
    async with AsyncExitStack() as stack:
        if port:
            try:
                await stack.enter_async_context(health.serving(port, alive=alive, ready=ready, metrics=metrics))
            except OSError as error:
                raise ConfigError(f"cannot serve on health_port {port}: {error}") from error
        yield
