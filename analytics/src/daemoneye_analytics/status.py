"""Analytics' status on the broker, for whoever watches.

Responsible for when status messages go out: at the start, every few seconds, and soon after progress, which `daemoneye run --replay`
waits for. What they say is the consumer's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT

SUBJECT: Final = subjects.component("analytics")
_PACE_S: Final = 0.5


class StatusPublisher:
    """Publishes what `describe` gives, if anything, at most twice a second, at least every `interval` seconds."""

    def __init__(self, client: Client, describe: Callable[[], dict[str, Any] | None], interval: float) -> None:
        self._client = client
        self._describe = describe
        self._interval = interval
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """There is progress to tell."""
        self._changed.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._changed.clear()
            await self.publish()
            await asyncio.sleep(_PACE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._interval - _PACE_S, 0)):
                    await self._changed.wait()

    async def publish(self) -> None:
        """Publish once; a broker that is away misses it."""
        if self._client.is_connected and (said := self._describe()) is not None:
            with contextlib.suppress(*TRANSIENT):
                await self._client.publish(SUBJECT, json.dumps(said, separators=(",", ":")).encode())
                await self._client.flush(2)
