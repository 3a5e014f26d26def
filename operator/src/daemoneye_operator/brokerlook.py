"""What the broker holds: its streams' sizes and its store's.

Responsible for asking now and then and for having no answer rather than an old one; not for what is said about it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from nats.js.api import DiscardPolicy
from nats.js.errors import NotFoundError

from daemoneye.broker.link import TRANSIENT
from daemoneye_operator.bus import Bus

EVERY_S: Final = 30.0
_AGAIN_S: Final = 5.0
_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class StreamLook:
    """One stream: `discard` is what goes when it is full, ``old`` or ``new`` messages; `max_bytes` -1 is no limit of its own."""

    name: str
    bytes: int
    messages: int
    max_bytes: int
    discard: str


@dataclass(frozen=True, slots=True)
class Look:
    """All of our streams that there are, and the bytes that the account has on the broker's disks, copies included."""

    streams: tuple[StreamLook, ...] = ()
    store_bytes: int = 0


class BrokerLook:
    """Looks every half minute."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._newest: Look | None = None

    @property
    def look(self) -> Look | None:
        """The newest; None while the broker is away, or has not been asked since it came."""
        return self._newest if self._bus.connected else None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            if not self._bus.connected:
                self._newest = None
                await self._bus.ready.wait()
            try:
                self._newest = await self._ask()
            except TRANSIENT:
                self._newest = None  # what is wrong with the broker, the bus says
            await asyncio.sleep(EVERY_S if self._newest else _AGAIN_S)

    async def _ask(self) -> Look | None:
        client = self._bus.client
        if client is None or not client.is_connected:
            return None
        jetstream = client.jetstream(timeout=_TIMEOUT_S)
        streams = []
        for stream in self._bus.declared():
            try:
                info = await jetstream.stream_info(stream.name)
            except NotFoundError:
                continue  # about to be made
            discard = DiscardPolicy(info.config.discard or "old").value  # nats-py leaves the answer's word as it is
            streams.append(
                StreamLook(stream.name, info.state.bytes, info.state.messages, info.config.max_bytes or -1, discard)
            )
        account = await jetstream.account_info()
        return Look(tuple(streams), account.storage)
