"""The publisher: carries the spool's batches to JetStream, in order, until the broker says that it has them.

Responsible for the connection, for acknowledgements, retries and refusals, and for moving the spool's cursor; not for
what a batch holds nor for making streams.

Delivery is at least once and in order: one batch is in flight, so that a lane's batches stand in the stream as in the
spool and a reader may take a jump in their sequences for a loss. (A batch is what a node made in a quarter of a second:
several in flight would win nothing.) When it fails in a way that may pass (no answer, no stream yet, no room,
connection lost), it is sent again under the same message id, which the broker deduplicates for the length of its window
and readers by sequence for ever. When the broker refuses it for good (too large, not permitted), it is reported and
skipped, so that it never holds up the rest.

What nats-py does not do for us: a permission violation only reaches ``error_cb`` while the publish waits for its
time-out; the size check forgets the headers, and the server answers a message that only they make too large by closing
the connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import nats.errors
from nats.aio.client import Client
from nats.js.api import Header
from nats.js.errors import APIError

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye.broker.connection import Connection
from daemoneye.ending import end
from daemoneye.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nats.js import JetStreamContext

    from daemoneye_sensor.spool import Entry, Spool

_ACK_TIMEOUT_S: Final = 5.0
_BACKOFF_S: Final = (0.1, 5.0)
_RECONNECT_S: Final = (0.25, 4.0)
# In a cluster the broker asks before it lets a sensor in, of all at once when it was away.
_CONNECT_S: Final = 6
_DECIDED_S: Final = 4
_PENDING_BYTES: Final = 16 << 20  # one batch always fits: the broker takes 8 MiB
_CURSOR_EVERY_S: Final = 2.0
_CLOSE_S: Final = 2.0
_MINUTE: Final = 60.0
_HEADER_ROOM: Final = 512
# JetStream's error codes for a message that will never fit: larger than the stream allows, headers too large.
_REFUSED_CODES: Final = frozenset({10054, 10097})
_DENIED: Final = re.compile(r'permissions violation for publish to "([^"]*)"', re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stats:
    """Counters since the start; ``bytes`` counts payload bytes of the batches in ``published``."""

    published: int = 0
    refused: int = 0
    retries: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    kind: Literal["acknowledged", "refused", "retry"]
    reason: str = ""


@dataclass(slots=True)
class _Flight:
    entry: Entry
    subject: str
    task: asyncio.Task[_Outcome]
    denied: str = ""

    def outcome(self) -> _Outcome:
        if self.denied:
            return _Outcome("refused", self.denied)
        return _Outcome("retry", "the connection was lost") if self.task.cancelled() else self.task.result()


class Publisher:
    """Sends what ``spool`` holds for ``node`` (its plain name) to event shard ``shard``; without a spool, heartbeats alone.

    ``on_refused(entry, reason)`` is called in the event loop for every batch that the broker refused for good; a
    refused loss record must not make another one. ``on_connected(client)`` is called with every new connection, which
    others may use until it closes. Everything here belongs to one event loop.
    """

    def __init__(
        self,
        spool: Spool | None,
        access: Access,
        *,
        node: str,
        on_refused: Callable[[Entry, str], None],
        on_connected: Callable[[Client], None] | None = None,
        shard: int = 0,
        ack_timeout: float = _ACK_TIMEOUT_S,
    ) -> None:
        self.stats = Stats()
        self.last_error = ""
        self._spool = spool
        self._token = subjects.escape_node(node)
        self._access = replace(access, inbox_suffix=self._token)
        self._on_refused = on_refused
        self._on_connected = on_connected
        self._ack_timeout = ack_timeout
        self._status_subject = subjects.status(node)
        self._subjects = {lane: subjects.events(shard, node, lane) for lane in subjects.LANES}
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None
        self._schemas: dict[str, bytes] = {}  # announced, not yet acknowledged
        self._flight: _Flight | None = None
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._failures = 0
        self._resume_at = 0.0
        self._save_at: float | None = None
        self._logged = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether the broker can be written to now."""
        return self._client is not None and self._client.is_connected

    def use(self, spool: Spool | None) -> None:
        """Send what another spool holds from now on, or nothing; the former one may then be closed."""
        if self._flight is not None:
            self._flight.task.cancel()
            self._flight = None
        self._spool = spool
        self.notify()

    def notify(self) -> None:
        """Say that the spool has new durable batches."""
        self._wake.set()

    def announce_schema(self, schema_hash: str, descriptor: bytes) -> None:
        """Have a schema's descriptor published before any further batch; raises ConfigError for a malformed hash."""
        self._schemas[subjects.schemas(schema_hash)] = descriptor
        self.notify()

    async def publish_status(self, status: Mapping[str, Any]) -> bool:
        """Send a heartbeat if the broker is there (plain NATS, nobody acknowledges it); say whether it was sent."""
        if self._client is None or not self._client.is_connected:
            return False
        try:
            await self._client.publish(self._status_subject, json.dumps(status, separators=(",", ":")).encode())
        except (nats.errors.Error, OSError) as error:
            self.last_error = str(error)
            return False
        return True

    async def drain(self, deadline: float) -> bool:
        """Wait up to ``deadline`` seconds until everything in the spool is acknowledged; say whether it is."""
        self._drained.clear()
        self.notify()
        try:
            async with asyncio.timeout(deadline):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Publish until cancelled; raises ConfigError if the connection's settings are unusable."""
        connecting = asyncio.create_task(self._keep_connected(), name="nats-connection")
        connecting.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                self._wake.clear()
                if connecting.done():
                    connecting.result()
                self._collect()
                if self.connected and time.monotonic() >= self._resume_at:
                    await self._send_schemas()
                    self._send_next()
                if self._flight is None and not (self._spool and self._spool.entries_unsent):
                    self._drained.set()
                self._save_cursor_if_due()
                await self._sleep()
        finally:
            pending = [connecting, *([self._flight.task] if self._flight else [])]
            await end(pending)
            self._flight = None
            self._save_cursor()

    # --- the batch in flight

    def _send_next(self) -> None:
        """Put the next unsent batch in flight, if none is."""
        if self._flight is not None or self._spool is None or (entry := self._spool.next_unsent(None)) is None:
            return
        subject = self._subjects[entry.lane]
        task = asyncio.create_task(self._attempt(entry, subject))
        task.add_done_callback(lambda _: self._wake.set())
        self._flight = _Flight(entry, subject, task)

    def _collect(self) -> None:
        """Act on the answer for the batch in flight, if it is there."""
        flight = self._flight
        if flight is None or not flight.task.done():
            return
        self._flight = None
        outcome = flight.outcome()
        if outcome.kind == "retry":
            self._back_off(outcome.reason)
            return
        self._failures = 0
        if outcome.kind == "acknowledged":
            self.stats.published += 1
            self.stats.bytes += len(flight.entry.payload)
            self.last_error = ""
        else:
            self.stats.refused += 1
            self.last_error = outcome.reason
            _log.error("the broker refused a batch of lane %s: %s", flight.entry.lane, outcome.reason)
            self._on_refused(flight.entry, outcome.reason)
        # A refused batch is done with too; the report about it is in the pipeline's hands by now.
        if self._spool is not None:
            self._spool.acknowledge(flight.entry)
        if self._save_at is None:
            self._save_at = time.monotonic() + _CURSOR_EVERY_S

    def _back_off(self, reason: str) -> None:
        self._failures += 1
        self.stats.retries += 1
        self.last_error = reason
        self._resume_at = time.monotonic() + pause(_BACKOFF_S, self._failures - 1)
        _log.log(logging.WARNING if self._failures == 1 else logging.DEBUG, "publishing pauses: %s", reason)

    async def _attempt(self, entry: Entry, subject: str) -> _Outcome:
        payload = bytes(entry.payload)
        return await self._publish(subject, payload, self._message_id(entry, payload))

    def _message_id(self, entry: Entry, payload: bytes) -> str:
        # The broker holds ids against each other stream by stream, whoever sent them, and tells the last one to who sends it a wrong one: an id
        # that another node could foresee it could use up, and our batch would be acknowledged without being stored. Nobody foresees its bytes.
        digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
        return f"{self._token}/{entry.epoch:x}/{entry.lane}/{digest}/{entry.first_sequence}"

    async def _publish(self, subject: str, payload: bytes, message_id: str) -> _Outcome:
        client, jetstream = self._client, self._jetstream
        if client is None or jetstream is None:
            return _Outcome("retry", "there is no connection")
        if len(payload) + _HEADER_ROOM > client.max_payload:
            return _Outcome("refused", f"{len(payload)} bytes are more than the broker takes ({client.max_payload})")
        try:
            headers = {Header.MSG_ID.value: message_id} if message_id else None
            await jetstream.publish(subject, payload, timeout=self._ack_timeout, headers=headers)
        except APIError as error:
            reason = f"{error.description} (JetStream error {error.err_code})"
            return _Outcome("refused" if error.err_code in _REFUSED_CODES else "retry", reason)
        except nats.errors.TimeoutError:
            return _Outcome("retry", f"the broker did not acknowledge within {self._ack_timeout:g} s")
        except (nats.errors.Error, OSError, ValueError) as error:
            return _Outcome("retry", str(error) or type(error).__name__)
        return _Outcome("acknowledged")

    async def _send_schemas(self) -> None:
        for subject, descriptor in list(self._schemas.items()):
            # No message id: within the broker's window a repetition must replace a descriptor that was purged.
            outcome = await self._publish(subject, descriptor, "")
            if outcome.kind == "retry":
                self._back_off(outcome.reason)
                return
            if outcome.kind == "refused":
                _log.error("the broker refused a schema's descriptor: %s", outcome.reason)
            if self._schemas.get(subject) is descriptor:
                del self._schemas[subject]

    # --- time

    async def _sleep(self) -> None:
        """Wait for anything to happen: an answer, a notification, the end of a pause, the cursor's time."""
        now = time.monotonic()
        due = [moment for moment in (self._resume_at, self._save_at) if moment is not None and moment > now]
        try:
            async with asyncio.timeout(min(due) - now if due else None):
                await self._wake.wait()
        except TimeoutError:
            return

    def _save_cursor_if_due(self) -> None:
        if self._save_at is not None and time.monotonic() >= self._save_at:
            self._save_cursor()

    def _save_cursor(self) -> None:
        self._save_at = None
        if self._spool is None:
            return
        try:
            self._spool.save_cursor()
        except MachineError as error:  # a full disk: batches may be sent twice after a crash, nothing is lost
            self.last_error = str(error)
            _log.warning("%s", error)

    # --- the connection

    async def _keep_connected(self) -> None:
        """Hold a connection for ever, each time with freshly read credentials."""
        failures = 0
        while True:
            closed, client, options = asyncio.Event(), Connection(), self._access.options()
            try:
                await self._connect(client, options, closed)
                self._client, self._jetstream = client, client.jetstream()
                self.last_error, failures = "", 0
                self._wake.set()
                if self._on_connected:
                    self._on_connected(client)
                await closed.wait()
                self.last_error = self.last_error or "the connection was lost"
            except nats.errors.NoServersError:
                failures += 1  # _on_error was told the reason
            except (nats.errors.Error, OSError, TimeoutError) as error:
                failures += 1
                self.last_error = str(error) or type(error).__name__
            finally:
                self._disconnected()
                said = self.last_error
                await _close(client)
                self.last_error = said  # not what a closing connection complains about
            if failures and time.monotonic() - self._logged >= _MINUTE:
                self._logged = time.monotonic()
                _log.warning("broker %s: %s", self._access.url, self.last_error)
            await asyncio.sleep(pause(_RECONNECT_S, failures))

    async def _connect(self, client: Connection, options: Mapping[str, Any], closed: asyncio.Event) -> None:
        async def on_closed() -> None:
            closed.set()

        await client.connect(
            **options,
            name=f"daemoneye-sensor {self._token}",
            error_cb=self._on_error,
            closed_cb=on_closed,
            # One attempt: nats-py's own reconnecting keeps old passwords, closes for good after some errors and
            # sends what it has buffered beside what we send again.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_CONNECT_S,
            pending_size=_PENDING_BYTES,
        )
        # nats-py takes whatever comes first for the answer, also the PING that a server sends while it has not decided yet.
        try:
            await client.flush(_DECIDED_S)
        except nats.errors.FlushTimeoutError:
            raise nats.errors.Error(
                "the broker does not say whether it lets this sensor in; is the callout away?"
            ) from None

    def _disconnected(self) -> None:
        self._client = self._jetstream = None
        if self._flight:
            self._flight.task.cancel()
        self._wake.set()

    async def _on_error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        denied = _DENIED.search(self.last_error)
        flight = self._flight
        # nats-py hands the server's text on in lower case.
        if denied and flight and flight.subject.lower() == denied[1].lower() and not flight.task.done():
            flight.denied = self.last_error
            flight.task.cancel()


def pause(bounds: tuple[float, float], failures: int) -> float:
    """Seconds until the next attempt after so many failures: from the lower bound on twice as long each, up to the upper one; spread over sensors."""
    low, high = bounds
    # A broker may be away for days: no float holds two to the power of a thousand.
    return min(high, low * 2 ** min(failures, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads sensors in time


async def _close(client: Connection) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await client.close()
    except (TimeoutError, nats.errors.Error, OSError) as error:
        _log.debug("closing the connection: %r", error)
        # It waits for the other side's farewell, which a server that is still asking for us does not send: nothing may be left open behind it.
        client.abort()
