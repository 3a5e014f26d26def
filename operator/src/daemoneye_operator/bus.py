"""The operator's side of the broker: streams, heartbeats, values of buckets.

Responsible for one connection and for what is sent and heard on it; not for what it means (`reconcile`) nor for findings
(:mod:`daemoneye_operator.findingsink`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.broker.link import TRANSIENT, Link
from daemoneye.errors import CorruptData, DaemonEyeError
from daemoneye_operator.reconcile.nodes import Heartbeats, NodeReport
from daemoneye_operator.settings import OperatorSettings

_ANALYTICS: Final = "analytics"
_ACK_S: Final = 5.0
_RETRY_S: Final = 2.0
_MINUTE: Final = 60.0
_PURGE: Final = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}

_log = logging.getLogger(__name__)


class Bus:
    """The connection and what is heard on it.

    Attributes:
        client: The connection; None before the first one and after the end.
        ready: Set while connected and every stream is there.
        listening_since: Since when heartbeats are heard, seconds since 1970.
        analytics_heard: When analytics was last heard of; None when never.
        analytics_problems: What it then said that it left out of which policy.
        trouble: Why the bus is not ready, one sentence.
    """

    def __init__(self, settings: OperatorSettings, heartbeats: Heartbeats, changed: Callable[[], None]) -> None:
        self.client: Client | None = None
        self.ready = asyncio.Event()
        self.listening_since = time.time()
        self.analytics_heard: float | None = None
        self.analytics_problems: Mapping[str, str] = {}
        self.trouble = "not connected to the broker yet"
        self._settings = settings
        self._heartbeats = heartbeats
        self._changed = changed
        self._complained = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether something can be sent now."""
        return self.client is not None and self.client.is_connected and self.ready.is_set()

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream of the connection.

        Raises:
            DaemonEyeError: There is none.
        """
        if self.client is None:
            raise DaemonEyeError("there is no connection to the broker")
        return self.client.jetstream(timeout=_ACK_S)

    async def run(self, link: Link) -> None:
        """Connect, make the streams, listen; until cancelled, or the link gives up because the process ends."""
        client = await link.connect()
        if client is None:
            return
        self.client = client
        link.on_reconnect = self._reconnected
        try:
            await client.subscribe(subjects.status("x").removesuffix("x") + "*", cb=self._heartbeat)
            await client.subscribe(subjects.component(_ANALYTICS), cb=self._component)
            self.listening_since = time.time()
            while True:
                await self._make_streams()
                while self.ready.is_set():
                    await asyncio.sleep(_RETRY_S)
                    if not client.is_connected and not self.trouble:
                        self.trouble = "the connection to the broker is lost"
                        self._changed()
        finally:
            self.ready.clear()
            self.client = None
            await link.close(client)

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store a value of a bucket.

        Raises:
            TRANSIENT: The broker did not take it now.
        """
        await self.jetstream.publish(subjects.key_value(bucket, key), data, timeout=_ACK_S)

    async def remove(self, bucket: str, key: str) -> None:
        """Remove a key: subscribers see a marker, then nothing of it is left.

        Raises:
            TRANSIENT: The broker did not take it now.
        """
        subject = subjects.key_value(bucket, key)
        await self.jetstream.publish(subject, b"", timeout=_ACK_S, headers=dict(_PURGE))
        await self.jetstream.purge_stream(f"KV_{bucket}", subject=subject)

    async def keys(self, bucket: str, pattern: str) -> list[str]:
        """Keys of a bucket that fit a pattern of subject tokens.

        Raises:
            TRANSIENT: The broker does not answer.
        """
        prefix = subjects.key_value(bucket, "")
        info = await self.jetstream.stream_info(f"KV_{bucket}", subjects_filter=f"{prefix}{pattern}")
        return [subject.removeprefix(prefix) for subject in (info.state.subjects or {})]

    async def _make_streams(self) -> None:
        """Try until every stream is there; a broker that has just started may not be ready for it."""
        while True:
            try:
                await ensure_streams(self.jetstream, self._declared(), replicas=self._settings.streams.replicas)
            except DaemonEyeError as error:
                self._complain(str(error))
            except (*TRANSIENT, APIError) as error:
                self._complain(f"the broker does not make the streams: {error!r}")
            else:
                self.trouble = ""
                self.ready.set()
                self._changed()
                return
            await asyncio.sleep(_RETRY_S)

    def _declared(self) -> tuple[streams.Stream, ...]:
        wanted = self._settings.streams
        kept = streams.declared(
            self._settings.shards,
            events_max_bytes=wanted.events_max_bytes,
            events_max_age=wanted.events_max_age,
            findings_max_bytes=wanted.findings_max_bytes,
            findings_max_age=wanted.findings_max_age,
        )
        return (*kept, *streams.buckets())

    def _reconnected(self) -> None:
        # A broker that lost its disk has no streams any more: they are made again before anything is sent.
        self.listening_since = time.time()
        self.ready.clear()
        self._changed()

    async def _heartbeat(self, message: Msg) -> None:
        try:
            report = NodeReport.read(message.subject, message.data, time.time())
        except CorruptData as error:
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
        found = said.get("problems") if isinstance(said, dict) else None
        problems = {str(k)[:253]: str(v)[:1024] for k, v in found.items()} if isinstance(found, dict) else {}
        news = self.analytics_heard is None or problems != self.analytics_problems
        self.analytics_heard, self.analytics_problems = time.time(), problems
        if news:
            self._changed()

    def _complain(self, text: str) -> None:
        self.trouble = text if not self.ready.is_set() else self.trouble
        if time.monotonic() - self._complained >= _MINUTE:
            self._complained = time.monotonic()
            _log.warning("%s", text)
