"""The durable consumer: messages of one event stream, each of which takes effect once.

Responsible for reading the stream in order, for the moment at which messages are acknowledged, and for going on after any crash. What
batches mean is `daemoneye_analytics.pipeline`'s affair.

A checkpoint holds detectors, watermarks and the stream sequence up to which they have seen everything. A message is acknowledged when
its findings are stored *and* a checkpoint covers it. Whoever starts goes on at the checkpoint's sequence, with a consumer placed there
anew: waiting for the broker to deliver again what was in flight would take `ack_wait`, and newer messages would overtake.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.broker.pull import Puller
from daemoneye.broker.schemas import Schemas
from daemoneye.ending import end
from daemoneye.envelope import Batch
from daemoneye.errors import CorruptData
from daemoneye_analytics import answers
from daemoneye_analytics.checkpoint import Checkpoint
from daemoneye_analytics.detectors.base import Detector
from daemoneye_analytics.durable import Durable
from daemoneye_analytics.follower import Follower
from daemoneye_analytics.lease import Lease
from daemoneye_analytics.losses import Losses
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.pods import Pods
from daemoneye_analytics.progress import Progress
from daemoneye_analytics.status import StatusPublisher
from daemoneye_analytics.store import Stopped, Store
from daemoneye_analytics.vault.arming import Arming

_LOG = logging.getLogger(__name__)
CHECKPOINT_MESSAGES: Final = 200
CHECKPOINT_S: Final = 5.0
CHECKPOINT_SHARE: Final = 0.05
"""Of the time, at most, goes into checkpoints: what many workloads were learned by is tens of megabytes."""
_IDLE_S: Final = 1.0
_LOOK_S: Final = 10.0
_AWAY_S: Final = 0.2


class Consumer:
    """Reads one shard until it is asked to stop.

    With `known`, the detectors that there are, the cluster's policies say which of them run; as long as they say nothing, messages wait
    in the stream. Without, the pipeline is as it was made. With a lease nothing is read or written while that may be another replica's.

    Attributes:
        shard: Number of the stream.
        stream: Its name.
        placed: Whether the broker has its consumer on the stream.
        state: `ready` before the first message, then `running`.
        told: Watermarks by node, as the status message says them.
        pipeline: What batches go through.
        progress: What is counted.
        store, schemas: What is kept on the broker, and what batches are read by.
        follower: The cluster's configuration, if that is followed.
    """

    def __init__(  # noqa: PLR0913 - what a process consists of comes together here
        self,
        client: Client,
        *,
        shard: int,
        pipeline: Pipeline,
        progress: Progress,
        stop: asyncio.Event,
        status_interval: float = 10.0,
        known: Mapping[str, type[Detector]] | None = None,
        arming: Arming | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.progress = progress
        self._client = client
        jetstream = client.jetstream(timeout=5)
        self._durable = Durable(jetstream, shard, lease)
        self.stream = self._durable.stream
        self.shard = shard
        self._lease = lease
        self._stop = stop
        self.store = Store(jetstream, shard, stop, progress)
        self.schemas = Schemas(jetstream, complain=self.store.complain, pause=self.store.pause)
        self.follower = None if known is None else Follower(client, known, self.store.complain)
        self._arming = arming
        self._status = StatusPublisher(client, lambda: answers.describe(self) if self._may() else None, status_interval)
        self._puller: Puller | None = None
        self.state = "ready"
        self.told: dict[str, Any] = {}
        self._position = 0
        self._covered = 0
        self._number = 0
        self._unacknowledged: list[Msg] = []
        self._unwritten = 0
        self._written = time.monotonic()
        self._took = 0.0
        # False while detectors know of a message whose findings are not stored: no checkpoint may be written then.
        self._consistent = True
        self._looked = float("-inf")
        self.placed = False
        self._fresh_place = True
        self._corrupt_logged = float("-inf")
        self._losses = Losses()

    async def run(self) -> None:
        """Read until `stop` is set; then finish what was taken and write a checkpoint."""
        try:
            await self._restore()
            self._puller = await self._place()
            if self.follower:
                await self.store.persist(self.follower.open, "subscribe to the configuration")
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
            await end([status])
            await self._status.publish()
            if self._puller is not None:
                await self._puller.close()

    def replace(self) -> None:
        """The connection was made anew: what was in flight is gone, so the consumer is placed again."""
        self.placed = False
        if self.follower:
            self.follower.again()

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._client.is_connected

    def _may(self) -> bool:
        """Whether the stream is this process's."""
        return self._lease is None or self._lease.holds()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _turn(self) -> None:
        self.progress.turn()
        if not (self._client.is_connected and self._may()):
            await self.store.pause(_AWAY_S)
            return
        if not self.placed or self._puller is None or self._puller.gone:
            self._puller = await self._place()
        try:
            messages = await self._get(self._puller) if await self._in_force() else await self._held()
        except TRANSIENT as error:
            self.store.complain(f"cannot read {self.stream}: {error!r}")
            await self.store.pause(_AWAY_S)
            return
        if not messages and (self._stop.is_set() or not self._client.is_connected):
            return
        for message in messages:
            if not self.placed or self._stop.is_set():
                break
            if not await self._in_force() or not self._may():
                self.placed = False  # what was taken and not looked at is delivered again
                break
            await self._take(message)
            self.progress.turn()
            await asyncio.sleep(0)  # however many wait, the broker's pings and the kubelet's probes are answered
        if messages:
            self.told = self.pipeline.watermarks.by_node()
            self.state = "running"
            self._status.changed()
        elif time.monotonic() - self._looked >= _LOOK_S:
            await self._look()
        await self._losses.tell(self.pipeline.watermarks, self.store)
        idle = _IDLE_S if not messages else CHECKPOINT_S
        elapsed = time.monotonic() - self._written
        due = self._unwritten >= CHECKPOINT_MESSAGES or elapsed >= idle
        if self._unwritten and due and elapsed >= self._took / CHECKPOINT_SHARE:
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
        events = [self._stop, *([self.follower.changed] if self.follower else [])]
        return [asyncio.ensure_future(event.wait()) for event in events]

    async def _in_force(self) -> bool:
        """Let a change of the configuration take effect; whether messages may be read."""
        if self.follower is None:
            return True
        changed = await self.follower.look()
        now = self.follower.configuration
        if changed:
            self._status.changed()
        if changed and now:
            self.pipeline.configure(now.chosen, now.wants, now.thresholds, now.budgets, now.exemptions)
            names = ", ".join(sorted(now.wants)) or "no detector"
            _LOG.info("runs configuration %s: %d policies, %s", now.hash, len(now.policies), names)
        return now is not None

    async def _decoded(self, message: Msg) -> Batch:
        """A batch, after a look at the configuration if it names policies that are not known."""
        batch = await self.schemas.decode(message.data)
        if self.follower:
            about = batch.envelope
            # A sensor may send under its own node's name only, and write whatever it likes. (On one machine a replay tells of other nodes.)
            if not subjects.is_events_of(message.subject, about.node, about.lane):
                raise CorruptData(f"{message.subject} brought a batch of node {about.node!r}, lane {about.lane!r}")
            self.follower.miss({name for names in Pods(batch).policies for name in names})
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
        if place > self._position + 1 and not (self._fresh_place and metadata.sequence.consumer == 1):
            # Either the stream was trimmed there or messages went to somebody else: asking again tells which.
            self.placed = False
            return
        self._fresh_place = False
        self._consistent = False
        try:
            batch = await self._decoded(message)
            before = self.pipeline.counts.events
            findings = self.pipeline.process(batch)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a message holds, it must not end analytics
            await self._refuse(message, error)
        else:
            if self.pipeline.counts.events > before and batch.envelope.lane != "loss":
                self.progress.process(batch.envelope)
            await self.store.findings(findings)
            await self.store.scores(self.pipeline.scores(), place)
            configuration = self.follower.configuration if self.follower else None
            if self._arming:
                self._arming.offer(findings, configuration.evidence if configuration else {})
            self._unacknowledged.append(message)
        self._position = place
        self._consistent = True
        self._unwritten += 1
        self.progress.lag = metadata.num_pending
        if self.progress.lag == 0:
            self.pipeline.watermarks.settled = True

    async def _refuse(self, message: Msg, error: Exception) -> None:
        self.progress.corrupt += 1
        if time.monotonic() - self._corrupt_logged >= 60:
            self._corrupt_logged = time.monotonic()
            reason = str(error) if isinstance(error, CorruptData) else repr(error)
            _LOG.warning(
                "message %d of %s skipped (%d so far): %s",
                message.metadata.sequence.stream,
                self.stream,
                self.progress.corrupt,
                reason,
            )
        try:
            await message.term()
        except TRANSIENT as failure:
            self.store.complain(f"cannot terminate a message: {failure!r}")

    # ── the consumer's place in the stream ──────────────────────────────────────────────────────────────────────────

    async def _place(self) -> Puller:
        """Have the broker deliver everything after `_position`, once and in order."""
        if self._puller is not None:
            await self._puller.close()
        self._unacknowledged.clear()  # they lie before the new consumer's beginning
        self._position = await self.store.persist(
            partial(self._durable.place, self._position), f"place consumer {self._durable.name} on {self.stream}"
        )
        puller = Puller(self._client, self.stream, self._durable.name)
        await self.store.persist(puller.open, "subscribe")
        self.placed = self._fresh_place = True
        return puller

    async def _look(self) -> None:
        """Ask after the consumer when nothing comes: whether it is still there, and whether it really has nothing."""
        self._looked = time.monotonic()
        try:
            info = await self._durable.look()
        except TRANSIENT as error:
            self.store.complain(f"cannot ask after consumer {self._durable.name}: {error!r}")
            return
        if info is None:
            _LOG.warning("consumer %s is missing; it is made again", self._durable.name)
            self.placed = False
            return
        # What was delivered and not taken waits, too.
        waiting = max((info.num_ack_pending or 0) - len(self._unacknowledged), 0)
        self.progress.lag = (info.num_pending or 0) + waiting
        if self.progress.lag == 0:
            self.pipeline.watermarks.settled = True

    # ── what lasts ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _restore(self) -> None:
        for saved in await self.store.load():
            try:
                losses = Losses.restored(saved.facts["consumer"])
                self.pipeline.restore(saved.facts, saved.detectors)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                _LOG.error("refused checkpoint %d: %r", saved.number, error)
                continue
            self._losses = losses
            self._position = self._covered = saved.position
            self._number = saved.number
            self.told = self.pipeline.watermarks.by_node()
            _LOG.info("goes on after message %d of %s (checkpoint %d)", self._position, self.stream, self._number)
            return
        self._position = await self.store.persist(
            self._durable.acknowledged, f"ask after consumer {self._durable.name}"
        )
        _LOG.info("starts without a checkpoint after message %d of %s", self._position, self.stream)

    async def _checkpoint(self) -> None:
        """Write everything down, then acknowledge what it covers."""
        if not self._may():
            return
        begun = time.monotonic()
        number, place, covered = self._number + 1, self._position, list(self._unacknowledged)
        facts = {**self.pipeline.facts(), "consumer": self._losses.facts()}
        stored = await self.store.save(Checkpoint(number, place, facts, self.pipeline.states()))
        self._written = time.monotonic()
        self._took = self._written - begun
        if not stored:
            return
        self.progress.save()
        self._number, self._covered, self._unwritten = number, place, 0
        del self._unacknowledged[: len(covered)]
        for message in covered:
            await self._acknowledge(message)

    async def _acknowledge(self, message: Msg) -> None:
        try:
            await message.ack()
        except TRANSIENT as error:
            # Delivered again, it will be acknowledged again.
            self.store.complain(f"cannot acknowledge: {error!r}")
