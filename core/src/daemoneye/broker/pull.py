"""Messages of a pull consumer, as they come.

Responsible for keeping one pull request with the broker and for noticing when the consumer is gone. nats-py's own `fetch` waits out its
whole timeout once the first message has come, or after a request that timed out (nats.py #986); a finding would be late by that.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

_BATCH: Final = 128
_MAX_BYTES: Final = 64 * 1024 * 1024
_EXPIRES_S: Final = 5.0
# A request that was never answered, neither by messages nor by its end, went down with a connection.
_SILENCE_S: Final = _EXPIRES_S + 3.0
_HEARTBEAT: Final = "100"
_GONE: Final = ("503", "Consumer Deleted", "Consumer is push based")


class Puller:
    """One durable consumer of one stream, read by requests of up to 128 messages or 64 MiB.

    Attributes:
        gone: The broker said that the consumer does not exist.
    """

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self.gone = False
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._messages: list[Msg] = []
        self._arrived = asyncio.Event()
        self._outstanding = 0
        self._heard = 0.0

    async def open(self) -> None:
        """Subscribe to the answers."""
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_message)

    async def close(self) -> None:
        """Let go of everything that still comes."""
        if self._subscription is not None and self._client.is_connected:
            await self._subscription.unsubscribe()
        self._messages.clear()

    async def get(self, timeout: float) -> list[Msg]:  # noqa: ASYNC109 - no message is the usual case, not an error
        """The messages that have come, in order; waits up to `timeout` seconds for the first, then gives what there is."""
        if not self._messages:
            silent = time.monotonic() - self._heard > _SILENCE_S
            if self._outstanding <= 0 or silent:
                await self._request()
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        messages, self._messages = self._messages, []
        return messages

    async def _request(self) -> None:
        # Without a connection the client would keep it, and send it when the consumer may be somebody else's.
        if not self._client.is_connected:
            return
        self._outstanding = _BATCH
        self._heard = time.monotonic()
        request = {"batch": _BATCH, "expires": int(_EXPIRES_S * 1e9), "max_bytes": _MAX_BYTES}
        await self._client.publish(self._subject, json.dumps(request).encode(), self._inbox)

    async def _on_message(self, message: Msg) -> None:
        self._heard = time.monotonic()
        status = (message.headers or {}).get("Status") if not message.data else None
        if status is None:
            self._outstanding -= 1
            self._messages.append(message)
            self._arrived.set()
        elif status != _HEARTBEAT:
            self._outstanding = 0
            text = f"{status} {(message.headers or {}).get('Description', '')}"
            if any(sign in text for sign in _GONE):
                self.gone = True
            self._arrived.set()
