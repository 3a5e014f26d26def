"""The durable consumer: messages of one event stream, each of which takes effect once.

Responsible for reading the stream in order, for the moment at which messages are acknowledged, and for going on after any crash. What
batches mean is `daemoneye_analytics.pipeline`'s affair.

A checkpoint holds detectors, watermarks and the stream sequence up to which they have seen everything. A message is acknowledged when
its findings are stored *and* a checkpoint covers it. Whoever starts goes on at the checkpoint's sequence, with a consumer placed there
anew: waiting for the broker to deliver again what was in flight would take `ack_wait`, and newer messages would overtake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from daemoneye import envelope, subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.broker.pull import Puller
from daemoneye.envelope import Batch
from daemoneye.errors import CorruptData
from daemoneye_analytics.checkpoint import Checkpoint
from daemoneye_analytics.detectors.base import Detector
from daemoneye_analytics.follower import Follower
from daemoneye_analytics.losses import Losses
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.pods import Pods
from daemoneye_analytics.status import StatusPublisher
from daemoneye_analytics.store import Stopped, Store

_LOG = logging.getLogger(__name__)
ACK_WAIT_S: Final = 60.0
MAX_ACK_PENDING: Final = 2048
CHECKPOINT_MESSAGES: Final = 200
CHECKPOINT_S: Final = 5.0
_IDLE_S: Final = 1.0
_LOOK_S: Final = 10.0
_AWAY_S: Final = 0.2
_VERSION: Final = version("daemoneye-analytics")


class Consumer:
    """Reads one shard until it is asked to stop.

    With `known`, the detectors that there are, the cluster's policies say which of them run; as long as they say nothing, messages wait
    in the stream. Without, the pipeline is as it was made.

    Attributes:
        corrupt: Messages that were no batches.
        lag: Messages of the stream that have not been read.
    """

    def __init__(
        self,
        client: Client,
        *,
        shard: int,
        pipeline: Pipeline,
        stop: asyncio.Event,
        status_interval: float = 10.0,
        known: Mapping[str, type[Detector]] | None = None,
    ) -> None:
        self.corrupt = 0
        self.lag = 0
        self._client = client
        self._jetstream = client.jetstream(timeout=5)
        self._stream = subjects.EVENTS(shard)
        self._name = f"analytics-{shard}"
        self._shard = shard
        self._pipeline = pipeline
        self._stop = stop
        self._store = Store(self._jetstream, shard, stop)
        self._follower = None if known is None else Follower(client, known, self._store.complain)
        self._status = StatusPublisher(client, self.describe, status_interval)
        self._puller: Puller | None = None
        self._state = "ready"
        self._told: dict[str, Any] = {}
        self._position = 0
        self._covered = 0
        self._number = 0
        self._unacknowledged: list[Msg] = []
        self._unwritten = 0
        self._written = time.monotonic()
        # False while detectors know of a message whose findings are not stored: no checkpoint may be written then.
        self._consistent = True
        self._looked = float("-inf")
        self._placed = False
        self._fresh_place = True
        self._corrupt_logged = float("-inf")
        self._losses = Losses()

    async def run(self) -> None:
        """Read until `stop` is set; then finish what was taken and write a checkpoint."""
        try:
            await self._restore()
            self._puller = await self._place()
            if self._follower:
                await self._store.persist(self._follower.open, "subscribe to the configuration")
        except Stopped:
            return
        status = asyncio.create_task(self._status.run())
        try:
            while not self._stop.is_set():
                await self._turn()
        except Stopped:
            _LOG.warning("stopped while the broker was away: what it had not stored will be read again")
        finally:
            if self._unwritten and self._consistent and self._client.is_connected:
                await self._checkpoint()
            status.cancel()
            await asyncio.gather(status, return_exceptions=True)
            await self._status.publish()
            if self._puller is not None:
                await self._puller.close()

    def replace(self) -> None:
        """The connection was made anew: what was in flight is gone, so the consumer is placed again."""
        self._placed = False
        if self._follower:
            self._follower.again()

    def ready(self) -> dict[str, Any]:
        """Whether it can do its work, and why not: the answer of /readyz."""
        reason = ""
        if not self._client.is_connected:
            reason = "it has no connection to the broker"
        elif not self._placed:
            reason = f"it has no consumer on stream {self._stream} yet"
        return {"ok": not reason, "reason": reason, **self._about()}

    def describe(self) -> dict[str, Any]:
        """The status message."""
        return {
            **self._about(),
            "state": "waiting" if self._follower and not self._follower.configuration else self._state,
            "watermarks": self._told,
            "findings": self._pipeline.findings,
            "events": self._pipeline.events,
            "lag": self.lag,
            "corrupt": self.corrupt,
            "ignored": self._pipeline.ignored,
            "refused": self._store.refused,
            "detectors": self._pipeline.status(),
        }

    def _about(self) -> dict[str, Any]:
        """Its version, and in a cluster the configuration that it runs."""
        about: dict[str, Any] = {"version": _VERSION}
        if self._follower:
            now = self._follower.configuration
            about |= {
                "config": now.hash if now else "",
                "config_error": self._follower.error,
                "problems": dict(now.problems) if now else {},
                "unwanted": self._pipeline.unwanted,
            }
        return about

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _turn(self) -> None:
        if not self._client.is_connected:
            await self._store.pause(_AWAY_S)
            return
        if not self._placed or self._puller is None or self._puller.gone:
            self._puller = await self._place()
        try:
            messages = await self._get(self._puller) if await self._in_force() else await self._held()
        except TRANSIENT as error:
            self._store.complain(f"cannot read {self._stream}: {error!r}")
            await self._store.pause(_AWAY_S)
            return
        if not messages and (self._stop.is_set() or not self._client.is_connected):
            return
        for message in messages:
            if not self._placed or self._stop.is_set():
                break
            if not await self._in_force():
                self._placed = False  # what was taken and not looked at is delivered again
                break
            await self._take(message)
        if messages:
            self._told = self._pipeline.watermarks.by_node()
            self._state = "running"
            self._status.changed()
        elif time.monotonic() - self._looked >= _LOOK_S:
            await self._look()
        await self._losses.tell(self._pipeline.watermarks, self._store)
        idle = _IDLE_S if not messages else CHECKPOINT_S
        if self._unwritten and (self._unwritten >= CHECKPOINT_MESSAGES or time.monotonic() - self._written >= idle):
            await self._checkpoint()

    async def _get(self, puller: Puller) -> list[Msg]:
        """The next messages; returns early, without any, when the process is asked to stop or the configuration may have changed."""
        get = asyncio.ensure_future(puller.get(_IDLE_S))
        others = self._interruptions()
        try:
            await asyncio.wait({get, *others}, return_when=asyncio.FIRST_COMPLETED)
            return get.result() if get.done() else []
        finally:
            for future in (get, *others):
                future.cancel()

    async def _held(self) -> list[Msg]:
        """No messages: they wait in the stream until there is a configuration."""
        others = self._interruptions()
        try:
            await asyncio.wait(others, timeout=_IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in others:
                future.cancel()
        return []

    def _interruptions(self) -> list[asyncio.Future[Any]]:
        events = [self._stop, *([self._follower.changed] if self._follower else [])]
        return [asyncio.ensure_future(event.wait()) for event in events]

    async def _in_force(self) -> bool:
        """Let a change of the configuration take effect; whether messages may be read."""
        if self._follower is None:
            return True
        changed = await self._follower.look()
        now = self._follower.configuration
        if changed:
            self._status.changed()
        if changed and now:
            self._pipeline.configure(now.chosen, now.wants)
            names = ", ".join(sorted(now.wants)) or "no detector"
            _LOG.info("runs configuration %s: %d policies, %s", now.hash, len(now.policies), names)
        return now is not None

    async def _decoded(self, data: bytes) -> Batch:
        """A batch, after a look at the configuration if it names policies that are not known."""
        batch = envelope.decode(data)
        if self._follower:
            self._follower.miss({name for names in Pods(batch).policies for name in names})
            await self._in_force()
        return batch

    async def _take(self, message: Msg) -> None:
        metadata = message.metadata
        place = metadata.sequence.stream
        if place <= self._position:
            # Delivered again. What a checkpoint covers has lost its acknowledgement; the rest gets one with the next checkpoint.
            if place <= self._covered:
                await self._acknowledge(message)
            return
        if place > self._position + 1 and not self._fresh_place:
            # Either the stream was trimmed there or messages are in flight to nobody: asking again tells which.
            self._placed = False
            return
        self._fresh_place = False
        self._consistent = False
        try:
            findings = self._pipeline.process(await self._decoded(message.data))
        except Exception as error:  # noqa: BLE001 - whatever a message holds, it must not end analytics
            await self._refuse(message, error)
        else:
            await self._store.findings(findings)
            self._unacknowledged.append(message)
        self._position = place
        self._consistent = True
        self._unwritten += 1
        self.lag = metadata.num_pending
        if self.lag == 0:
            self._pipeline.watermarks.settled = True

    async def _refuse(self, message: Msg, error: Exception) -> None:
        self.corrupt += 1
        if time.monotonic() - self._corrupt_logged >= 60:
            self._corrupt_logged = time.monotonic()
            reason = str(error) if isinstance(error, CorruptData) else repr(error)
            _LOG.warning(
                "message %d of %s skipped (%d so far): %s",
                message.metadata.sequence.stream,
                self._stream,
                self.corrupt,
                reason,
            )
        try:
            await message.term()
        except TRANSIENT as failure:
            self._store.complain(f"cannot terminate a message: {failure!r}")

    # ── the consumer's place in the stream ──────────────────────────────────────────────────────────────────────────

    async def _place(self) -> Puller:
        """Have the broker deliver everything after `_position`, once and in order."""
        if self._puller is not None:
            await self._puller.close()
        self._unacknowledged.clear()  # they lie before the new consumer's beginning
        await self._store.persist(self._create, f"place consumer {self._name} on {self._stream}")
        puller = Puller(self._client, self._stream, self._name)
        await self._store.persist(puller.open, "subscribe")
        self._placed = self._fresh_place = True
        return puller

    async def _create(self) -> None:
        stream = await self._jetstream.stream_info(self._stream)
        if stream.state.last_seq < self._position:
            _LOG.warning(
                "stream %s begins anew: it ends at %d, before %d", self._stream, stream.state.last_seq, self._position
            )
            self._position = 0
        with contextlib.suppress(NotFoundError):
            await self._jetstream.delete_consumer(self._stream, self._name)
        await self._jetstream.add_consumer(
            self._stream,
            ConsumerConfig(
                name=self._name,
                durable_name=self._name,
                description="daemoneye analytics",
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._position + 1,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_S,
                max_ack_pending=MAX_ACK_PENDING,
            ),
        )

    async def _look(self) -> None:
        """Ask after the consumer when nothing comes: whether it is still there, and whether it really has nothing."""
        self._looked = time.monotonic()
        try:
            info: ConsumerInfo = await self._jetstream.consumer_info(self._stream, self._name)
        except NotFoundError:
            _LOG.warning("consumer %s is missing; it is made again", self._name)
            self._placed = False
        except TRANSIENT as error:
            self._store.complain(f"cannot ask after consumer {self._name}: {error!r}")
        else:
            # What was delivered and not taken waits, too.
            self.lag = (info.num_pending or 0) + max((info.num_ack_pending or 0) - len(self._unacknowledged), 0)
            if self.lag == 0:
                self._pipeline.watermarks.settled = True

    # ── what lasts ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _restore(self) -> None:
        for saved in await self._store.load():
            try:
                losses = Losses.restored(saved.facts["consumer"])
                self._pipeline.restore(saved.facts, saved.detectors)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                _LOG.error("refused checkpoint %d: %r", saved.number, error)
                continue
            self._losses = losses
            self._position = self._covered = saved.position
            self._number = saved.number
            self._told = self._pipeline.watermarks.by_node()
            _LOG.info("goes on after message %d of %s (checkpoint %d)", self._position, self._stream, self._number)
            return
        self._position = await self._store.persist(self._acknowledged, f"ask after consumer {self._name}")
        _LOG.info("starts without a checkpoint after message %d of %s", self._position, self._stream)

    async def _acknowledged(self) -> int:
        """Stream sequence up to which a predecessor's findings are stored, 0 without one."""
        await self._jetstream.stream_info(self._stream)
        try:
            info = await self._jetstream.consumer_info(self._stream, self._name)
        except NotFoundError:
            return 0
        return info.ack_floor.stream_seq if info.ack_floor else 0

    async def _checkpoint(self) -> None:
        """Write everything down, then acknowledge what it covers."""
        self._written = time.monotonic()
        number, place, covered = self._number + 1, self._position, list(self._unacknowledged)
        facts = {**self._pipeline.facts(), "consumer": self._losses.facts()}
        if not await self._store.save(Checkpoint(number, place, facts, self._pipeline.states())):
            return
        self._number, self._covered, self._unwritten = number, place, 0
        del self._unacknowledged[: len(covered)]
        for message in covered:
            await self._acknowledge(message)

    async def _acknowledge(self, message: Msg) -> None:
        try:
            await message.ack()
        except TRANSIENT as error:
            # Delivered again, it will be acknowledged again.
            self._store.complain(f"cannot acknowledge: {error!r}")
