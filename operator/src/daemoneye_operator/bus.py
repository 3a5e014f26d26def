"""The operator's side of the broker: streams, heartbeats, values of buckets.

Responsible for one connection and for what is sent and heard on it; not for what it means (`reconcile`) nor for findings
(:mod:`daemoneye_operator.findingsink`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.broker.bucket import Bucket
from daemoneye.broker.link import TRANSIENT, Link
from daemoneye.errors import CorruptData, DaemonEyeError
from daemoneye_operator.reconcile.judges import Judges
from daemoneye_operator.reconcile.nodes import Heartbeats, NodeReport
from daemoneye_operator.settings import OperatorSettings

_ANALYTICS: Final = "analytics"
_ACK_S: Final = 5.0
_RETRY_S: Final = 2.0
_MINUTE: Final = 60.0
# What waits to be looked at: a hundred of the largest, thousands of common ones. nats-py drops what comes beyond.
_PENDING_BYTES: Final = 32 << 20

_log = logging.getLogger(__name__)


class Bus:
    """The connection and what is heard on it.

    Attributes:
        client: The connection; None before the first one and after the end.
        ready: Set while connected and every stream is there.
        listening_since: Since when heartbeats are heard, seconds since 1970.
        judges: What analytics last said.
        connections: How often the broker was found ready: another number means that it may have lost what it held.
        trouble: Why the bus is not ready, one sentence.
    """

    def __init__(self, settings: OperatorSettings, heartbeats: Heartbeats, changed: Callable[[], None]) -> None:
        self.client: Client | None = None
        self.ready = asyncio.Event()
        self.listening_since = time.time()
        self.judges = Judges(settings.analytics_parts)
        self.connections = 0
        self.trouble = "not connected to the broker yet"
        self._settings = settings
        self._heartbeats = heartbeats
        self._changed = changed
        self._complained = float("-inf")
        self._again = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether something can be sent now."""
        return self.client is not None and self.client.is_connected and self.ready.is_set()

    async def run(self, link: Link) -> None:
        """Hold a connection until cancelled, or until the link gives up because the process ends."""
        link.on_reconnect = self._reconnected
        while (client := await link.connect()) is not None:
            self.client = client
            try:
                heartbeats = subjects.status("x").removesuffix("x") + "*"
                await client.subscribe(heartbeats, cb=self._heartbeat, pending_bytes_limit=_PENDING_BYTES)
                await client.subscribe(subjects.component(_ANALYTICS), cb=self._component)
                self.listening_since = time.time()
                await self._hold(link, client)
            except TRANSIENT as error:
                self._complain(f"the broker is away: {error!r}")
            finally:
                self.ready.clear()
                self.client = None
                await link.close(client)

    async def _hold(self, link: Link, client: Client) -> None:
        """Until the connection is of no use any more: closed, or away while credentials have changed."""
        while not link.stale(client):
            if not self.ready.is_set():
                await self._make_streams(link, client)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._again.wait()
            self._again.clear()
            if not client.is_connected and not self.trouble:
                self.trouble = "the connection to the broker is lost"
                self._changed()

    def bucket(self, name: str) -> Bucket:
        """A KV bucket.

        Raises:
            DaemonEyeError: There is no connection.
        """
        if self.client is None:
            raise DaemonEyeError("there is no connection to the broker")
        return Bucket(self.client, name)

    async def _make_streams(self, link: Link, client: Client) -> None:
        """Try until every stream is there; a broker that has just started may not be ready for it."""
        while not link.stale(client):
            try:
                await ensure_streams(
                    client.jetstream(timeout=_ACK_S), self.declared(), replicas=self._settings.streams.replicas
                )
            except DaemonEyeError as error:
                self._complain(str(error))
            except (*TRANSIENT, APIError) as error:
                self._complain(f"the broker does not make the streams: {error!r}")
            else:
                self.trouble = ""
                self.connections += 1
                self.ready.set()
                self._changed()
                return
            await asyncio.sleep(_RETRY_S)

    def declared(self) -> tuple[streams.Stream, ...]:
        """The streams that the broker is to have."""
        wanted = self._settings.streams
        kept = streams.declared(
            wanted.shards,
            self._settings.analytics_parts,
            events_max_bytes=wanted.events_max_bytes,
            events_max_age=wanted.events_max_age,
            findings_max_bytes=wanted.findings_max_bytes,
            findings_max_age=wanted.findings_max_age,
        )
        evidence = self._settings.evidence
        more = (streams.evidence(max_bytes=evidence.max_bytes, max_age=evidence.max_age),) if evidence.enabled else ()
        return (*kept, *streams.buckets(), *more)

    def _reconnected(self) -> None:
        # A broker that lost its disk has no streams any more: they are made again before anything is sent.
        self.listening_since = time.time()
        self.ready.clear()
        self._again.set()
        self._changed()

    async def _heartbeat(self, message: Msg) -> None:
        if not self._heartbeats.admits(message.subject, time.monotonic()):
            self._complain(
                f"{message.subject}: heartbeats come faster than a sensor sends any; those too many are dropped"
            )
            return
        try:
            report = NodeReport.read(message.subject, message.data, time.time())
        except CorruptData as error:
            self._heartbeats.dropped += 1
            self._complain(str(error))
            return
        if self._heartbeats.put(report):
            self._changed()

    async def _component(self, message: Msg) -> None:
        try:
            said = json.loads(message.data)
        except ValueError as error:
            self._complain(f"analytics' heartbeat is no JSON: {error}")
            return
        if self.judges.hear(said, time.time()):
            self._changed()

    def _complain(self, text: str) -> None:
        self.trouble = text if not self.ready.is_set() else self.trouble
        if time.monotonic() - self._complained >= _MINUTE:
            self._complained = time.monotonic()
            _log.warning("%s", text)
