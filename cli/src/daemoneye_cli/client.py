"""Reading the broker: a connection that comes back, and streams read in order without a gap.

Responsible for nats-py's habits (reconnecting for ever, swallowed errors, consumers that die with the broker) and for
nothing that the messages hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from daemoneye.broker.connection import Connection
from daemoneye.errors import MachineError

_CONNECT_S: Final = 5
_FIRST_S: Final = 10.0
_BATCH: Final = 256
_EXPIRES_S: Final = 20.0
_HEARTBEAT_S: Final = 2.0
_SILENCE_S: Final = 5.0
"""Longer than two heartbeats: the consumer is gone, with the broker that was restarted, say."""
_RETRY_S: Final = 0.25
_IDLE_CONSUMER_S: Final = 60.0


async def connect(
    access: Mapping[str, Any], *, name: str, on_trouble: Callable[[str], None] = lambda _: None
) -> Client:
    """Connect with ``access`` (url, user, password, inbox_prefix; in a cluster tls, an SSLContext, and tls_hostname).

    The connection then comes back by itself for ever.

    ``on_trouble`` gets one sentence for every error that nats-py tells nobody else. Raises :class:`MachineError` if
    there is no broker to begin with.
    """
    told: list[Exception] = []

    first = asyncio.timeout(_FIRST_S)

    async def trouble(error: Exception) -> None:
        told[:] = [error]
        on_trouble(f"broker: {_words(error)}")
        if isinstance(error, ssl.SSLCertVerificationError):
            with contextlib.suppress(RuntimeError):  # of a connection that there was
                first.reschedule(0)  # the next attempt would see the same certificate

    if access.get("tls") is not None:
        # With TLS asyncio warns of every connection's end, for nats-py's protocol answers True there.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "user": access["user"],
        "password": access["password"],
        "inbox_prefix": str(access["inbox_prefix"]),
        "tls": access.get("tls"),
        "tls_hostname": access.get("tls_hostname"),
        "name": name,
        "error_cb": trouble,
        "connect_timeout": _CONNECT_S,
        "reconnect_time_wait": _RETRY_S,
        "max_reconnect_attempts": -1,
        "allow_reconnect": True,
    }
    client = Connection()
    try:
        # nats-py would try an absent broker, or one with another's certificate, for ever.
        async with first:
            await client.connect(str(access["url"]), **options)
    except (NatsError, OSError, TimeoutError) as error:
        with contextlib.suppress(NatsError, OSError):
            await client.close()
        raise MachineError(
            f"the broker at {access['url']} does not answer: {_words(told[0] if told else error)}",
            fix=str(access.get("fix", "daemoneye doctor says what is wrong")),
        ) from None
    return client


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


async def last_sequence(client: Client, stream: str) -> int:
    """Give the sequence of a stream's newest message, 0 for a stream that never had one."""
    info = await client.jetstream(timeout=5).stream_info(stream)
    return int(info.state.last_seq)


async def streams_of(client: Client, subject: str) -> list[str]:
    """Give the names of the streams that keep messages of a subject, which may have wildcards."""
    asked = json.dumps({"subject": subject}).encode()
    message = await client.request("$JS.API.STREAM.NAMES", asked, timeout=5)
    return sorted(json.loads(message.data).get("streams") or ())


class StreamReader:
    """Reads one stream in order, each message once, from ``next_sequence`` on, whatever happens to the broker between.

    Pull requests of our own on an ephemeral consumer that is made anew, from the next message, whenever it falls
    silent: nats-py's ``fetch`` stalls after a timeout (nats.py #986) and its ordered consumer misses a restart.
    """

    def __init__(self, client: Client, stream: str, next_sequence: int) -> None:
        self.stream = stream
        self.next_sequence = next_sequence
        self._client = client
        self._moved = asyncio.Condition()

    async def run(self, handle: Callable[[Msg], Awaitable[None]]) -> None:
        """Hand every message to ``handle``, until the connection is closed; what ``handle`` raises ends it."""
        # nats-py turns the cancellation of a reader into an error of its own once the connection is closed.
        while not self._client.is_closed:
            try:
                await self._consume(handle)
            except (NatsError, TimeoutError, NotFoundError, OSError):
                await asyncio.sleep(_RETRY_S)

    async def reached(self, sequence: int) -> None:
        """Wait until the message with this sequence has been handled."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.next_sequence > sequence)

    async def _consume(self, handle: Callable[[Msg], Awaitable[None]]) -> None:
        client = self._client
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        try:
            info = await client.jetstream(timeout=5).add_consumer(
                self.stream,
                ConsumerConfig(
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=max(1, self.next_sequence),
                    ack_policy=AckPolicy.NONE,
                    inactive_threshold=_IDLE_CONSUMER_S,
                    mem_storage=True,
                ),
            )
            request = {"batch": _BATCH, "expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
            pull = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{info.name}"
            left = 0
            while True:
                if left == 0:
                    await client.publish(pull, json.dumps(request).encode(), reply=inbox)
                    left = _BATCH
                message = await subscription.next_msg(timeout=_SILENCE_S)
                if status := (message.headers or {}).get("Status"):
                    left = _after_status(status, left)
                    continue
                left -= 1
                sequence = message.metadata.sequence.stream
                await handle(message)
                async with self._moved:
                    self.next_sequence = sequence + 1
                    self._moved.notify_all()
        finally:
            if not client.is_closed:
                with contextlib.suppress(NatsError):
                    await subscription.unsubscribe()


def _after_status(status: str, left: int) -> int:
    """Say how many messages the pull still owes after a status message: all for a heartbeat, none for an end."""
    if status == "100":
        return left
    if status in {"404", "408"}:
        return 0
    raise NatsError(f"pull ended with status {status}")
