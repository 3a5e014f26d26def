"""One event stream, read in order.

Responsible for which message is the next one, and for what was taken being acknowledged when a checkpoint covers it; what messages mean is
`daemoneye_analytics.consumer`'s affair.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye.broker.link import TRANSIENT
from daemoneye.broker.pull import Puller
from daemoneye_analytics.durable import Durable
from daemoneye_analytics.store import Store

_LOG: Final = logging.getLogger(__name__)


class Reader:
    """Of one stream, by its durable consumer.

    Attributes:
        stream: Its name.
        placed: Whether the broker has the consumer on the stream, as far as is known.
        position: Sequence of the last message that was taken.
        lag: Messages that have not been taken.
    """

    def __init__(self, client: Client, durable: Durable, store: Store) -> None:
        self.stream = durable.stream
        self.placed = False
        self.position = 0
        self.lag = 0
        self._client = client
        self._durable = durable
        self._store = store
        self._puller: Puller | None = None
        self._covered = 0
        self._unacknowledged: list[Msg] = []
        self._fresh = True

    async def begin(self, position: int | None) -> None:
        """Go on after the message that a checkpoint covers, or without one after those that a predecessor acknowledged."""
        if position is None:
            position = await self._store.persist(
                self._durable.acknowledged, f"ask after consumer {self._durable.name} of {self.stream}"
            )
        self.position = self._covered = position

    async def place(self) -> None:
        """Have the broker deliver everything after `position`, once and in order, unless it does already."""
        if self.placed and self._puller is not None and not self._puller.gone:
            return
        await self.close()
        self._unacknowledged.clear()  # they lie before the new consumer's beginning
        self.position = await self._store.persist(
            partial(self._durable.place, self.position), f"place consumer {self._durable.name} on {self.stream}"
        )
        self._puller = Puller(self._client, self.stream, self._durable.name)
        await self._store.persist(self._puller.open, "subscribe")
        self.placed = self._fresh = True

    async def get(self, timeout: float) -> list[Msg]:  # noqa: ASYNC109 - no message is the usual case, not an error
        """The messages that have come, in order; waits for the first. Only after `place`."""
        assert self._puller is not None  # noqa: S101
        return await self._puller.get(timeout)

    async def next(self, message: Msg) -> bool:
        """Whether this message is the next one, to be processed now. One that was delivered again is not; where some are missing, all are asked for anew."""
        metadata = message.metadata
        place = metadata.sequence.stream
        if place <= self.position:
            # What a checkpoint covers has lost its acknowledgement; the rest gets one with the next checkpoint.
            if place <= self._covered:
                await self._acknowledge(message)
            return False
        if place > self.position + 1 and not (self._fresh and metadata.sequence.consumer == 1):
            # Either the stream was trimmed there or messages went to somebody else: asking again tells which.
            self.placed = False
            return False
        self._fresh = False
        return True

    def take(self, message: Msg, *, acknowledge: bool) -> None:
        """The message has been processed; it is to be acknowledged when that is covered, unless it was refused."""
        if acknowledge:
            self._unacknowledged.append(message)
        self.position = message.metadata.sequence.stream
        self.lag = message.metadata.num_pending

    def taken(self) -> tuple[int, int]:
        """What a checkpoint covers that is written now: for `cover`."""
        return self.position, len(self._unacknowledged)

    async def cover(self, taken: tuple[int, int]) -> None:
        """A checkpoint that covers this is stored."""
        self._covered, count = taken
        covered = self._unacknowledged[:count]
        del self._unacknowledged[:count]
        for message in covered:
            await self._acknowledge(message)

    async def look(self) -> None:
        """Ask after the consumer when nothing comes: whether it is still there, and whether it really has nothing."""
        try:
            info = await self._durable.look()
        except TRANSIENT as error:
            self._store.complain(f"cannot ask after consumer {self._durable.name} of {self.stream}: {error!r}")
            return
        if info is None:
            _LOG.warning("consumer %s of %s is missing; it is made again", self._durable.name, self.stream)
            self.placed = False
            return
        # What was delivered and not taken waits, too.
        waiting = max((info.num_ack_pending or 0) - len(self._unacknowledged), 0)
        self.lag = (info.num_pending or 0) + waiting

    async def close(self) -> None:
        """Let go of everything that still comes."""
        if self._puller is not None:
            await self._puller.close()

    async def _acknowledge(self, message: Msg) -> None:
        try:
            await message.ack()
        except TRANSIENT as error:
            # Delivered again, it will be acknowledged again.
            self._store.complain(f"cannot acknowledge: {error!r}")
