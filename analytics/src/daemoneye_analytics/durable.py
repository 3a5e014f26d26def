"""A durable consumer as the broker has it: the place of one part in one event stream.

Responsible for putting it there and for asking after it; what is read from it is `daemoneye_analytics.consumer`'s affair. The broker deletes and
makes it for whoever may, so the lease is renewed right before: time that a process slept through is in no clock of its own.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from daemoneye import subjects
from daemoneye_analytics.lease import Lease

_LOG = logging.getLogger(__name__)
ACK_WAIT_S: Final = 60.0
MAX_ACK_PENDING: Final = 2048


class Durable:
    """One part's on one stream; without a lease nobody else is there to place it.

    Attributes:
        stream: Name of the stream.
        name: Its own.
    """

    def __init__(self, jetstream: JetStreamContext, shard: int, part: int, lease: Lease | None) -> None:
        self.stream = subjects.EVENTS(shard)
        self.name = f"analytics-{part}"
        self._jetstream = jetstream
        self._lease = lease

    async def place(self, position: int) -> int:
        """Have everything delivered after this sequence of the stream, once and in order; the sequence that it became, 0 in a stream that begins anew.

        Raises:
            TimeoutError: The consumer is, or may be, another replica's: nothing was touched.
            nats.errors.Error: The broker does not do it.
        """
        stream = await self._jetstream.stream_info(self.stream)
        if stream.state.last_seq < position:
            _LOG.warning(
                "stream %s begins anew: it ends at %d, before %d", self.stream, stream.state.last_seq, position
            )
            position = 0
        if self._lease and not await self._lease.confirm():
            raise TimeoutError("another replica may have the lease")
        with contextlib.suppress(NotFoundError):
            await self._jetstream.delete_consumer(self.stream, self.name)
        await self._jetstream.add_consumer(
            self.stream,
            ConsumerConfig(
                name=self.name,
                durable_name=self.name,
                description="daemoneye analytics",
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=position + 1,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_S,
                max_ack_pending=MAX_ACK_PENDING,
            ),
        )
        return position

    async def look(self) -> ConsumerInfo | None:
        """What the broker says of it; None if it has none.

        Raises:
            nats.errors.Error: The broker does not answer.
        """
        try:
            return await self._jetstream.consumer_info(self.stream, self.name)
        except NotFoundError:
            return None

    async def acknowledged(self) -> int:
        """Stream sequence up to which a predecessor's findings are stored, 0 without one.

        Raises:
            nats.errors.Error: The broker does not answer, or has no stream.
        """
        await self._jetstream.stream_info(self.stream)
        info = await self.look()
        return info.ack_floor.stream_seq if info and info.ack_floor else 0
