"""The consumer: messages of the event streams, each of which takes effect once.

Responsible for the moment at which messages are acknowledged, and for going on after any crash. The order within a stream is
`daemoneye_analytics.reader`'s affair, what batches mean `daemoneye_analytics.pipeline`'s.

A checkpoint holds detectors, watermarks and the sequence of each stream up to which they have seen everything. A message is acknowledged when
its findings are stored *and* a checkpoint covers it. Whoever starts goes on at the checkpoint's sequences, with consumers placed there
anew: waiting for the broker to deliver again what was in flight would take `ack_wait`, and newer messages would overtake. A node's events are all
in one stream; in which order messages of several streams come does not matter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
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
from daemoneye_analytics.reader import Reader
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
    """Reads all event streams for one part of the workloads until it is asked to stop.

    With `known`, the detectors that there are, the cluster's policies say which of them run; as long as they say nothing, messages wait
    in the streams. Without, the pipeline is as it was made. With a lease nothing is read or written while that may be another replica's.

    Attributes:
        readers: Of the streams, in the order of their numbers.
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
        shards: int,
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
        self._lease = lease
        self._stop = stop
        self._share = pipeline.share
        self.store = Store(jetstream, self._share, shards, stop, progress)
        self.readers = [
            Reader(client, Durable(jetstream, shard, self._share.part, lease), self.store) for shard in range(shards)
        ]
        self.schemas = Schemas(jetstream, complain=self.store.complain, pause=self.store.pause)
        self.follower = None if known is None else Follower(client, known, self.store.complain)
        self._arming = arming
        self._status = StatusPublisher(client, lambda: answers.describe(self) if self._may() else None, status_interval)
        self.state = "ready"
        self.told: dict[str, Any] = {}
        self._number = 0
        self._unwritten = 0
        self._written = time.monotonic()
        self._took = 0.0
        # False while detectors know of a message whose findings are not stored: no checkpoint may be written then.
        self._consistent = True
        self._looked = float("-inf")
        self._corrupt_logged = float("-inf")
        self._losses = Losses()

    async def run(self) -> None:
        """Read until `stop` is set; then finish what was taken and write a checkpoint."""
        try:
            await self._restore()
            await self._place()
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
            for reader in self.readers:
                await reader.close()

    def replace(self) -> None:
        """The connection was made anew: what was in flight is gone, so the consumers are placed again."""
        for reader in self.readers:
            reader.placed = False
        if self.follower:
            self.follower.again()

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._client.is_connected

    def _may(self) -> bool:
        """Whether the part is this process's."""
        return self._lease is None or self._lease.holds()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _turn(self) -> None:
        self.progress.turn()
        if not (self._client.is_connected and self._may()):
            await self.store.pause(_AWAY_S)
            return
        await self._place()
        try:
            messages = await self._get() if await self._in_force() else await self._held()
        except TRANSIENT as error:
            self.store.complain(f"cannot read the event streams: {error!r}")
            await self.store.pause(_AWAY_S)
            return
        if not messages and (self._stop.is_set() or not self._client.is_connected):
            return
        for reader, message in messages:
            if self._stop.is_set():
                break
            if not await self._in_force() or not self._may():
                self.replace()  # what was taken and not looked at is delivered again
                break
            if reader.placed:
                await self._take(reader, message)
            self.progress.turn()
            await asyncio.sleep(0)  # however many wait, the broker's pings and the kubelet's probes are answered
        if messages:
            self.told = self.pipeline.watermarks.by_node()
            self.state = "running"
            self._status.changed()
        elif time.monotonic() - self._looked >= _LOOK_S:
            await self._look()
        await self._losses.tell(self.pipeline.watermarks, self.store, self._share)
        idle = _IDLE_S if not messages else CHECKPOINT_S
        elapsed = time.monotonic() - self._written
        due = self._unwritten >= CHECKPOINT_MESSAGES or elapsed >= idle
        if self._unwritten and due and elapsed >= self._took / CHECKPOINT_SHARE:
            await self._checkpoint()

    async def _place(self) -> None:
        for reader in self.readers:
            await reader.place()

    async def _get(self) -> list[tuple[Reader, Msg]]:
        """The next messages; returns early, without any, when the process is asked to stop or the configuration may have changed."""
        gets = {asyncio.ensure_future(reader.get(_IDLE_S)): reader for reader in self.readers}
        others = self._interruptions()
        try:
            await asyncio.wait({*gets, *others}, return_when=asyncio.FIRST_COMPLETED)
            return [(reader, message) for get, reader in gets.items() if get.done() for message in get.result()]
        finally:
            for future in (*gets, *others):
                future.cancel()

    async def _held(self) -> list[tuple[Reader, Msg]]:
        """No messages: they wait in the streams until there is a configuration."""
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

    async def _take(self, reader: Reader, message: Msg) -> None:
        if not await reader.next(message):
            return
        self._consistent = refused = False
        try:
            batch = await self._decoded(message)
            before = self.pipeline.counts.events
            findings = self.pipeline.process(batch)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a message holds, it must not end analytics
            refused = True
            await self._refuse(reader, message, error)
        else:
            if self.pipeline.counts.events > before and batch.envelope.lane != "loss":
                self.progress.process(batch.envelope)
            await self.store.findings(findings)
            await self.store.scores(self.pipeline.scores(), f"{reader.stream}-{message.metadata.sequence.stream}")
            configuration = self.follower.configuration if self.follower else None
            if self._arming:
                self._arming.offer(findings, configuration.evidence if configuration else {})
        reader.take(message, acknowledge=not refused)
        self._consistent = True
        self._unwritten += 1
        self._lags()

    def _lags(self) -> None:
        self.progress.lag = sum(reader.lag for reader in self.readers)
        if self.progress.lag == 0:
            self.pipeline.watermarks.settled = True

    async def _look(self) -> None:
        """Ask after the consumers when nothing comes."""
        self._looked = time.monotonic()
        for reader in self.readers:
            await reader.look()
        self._lags()

    async def _refuse(self, reader: Reader, message: Msg, error: Exception) -> None:
        # What cannot be read says whose it is by its subject alone.
        self.progress.corrupt += self._share.node(message.subject)
        if time.monotonic() - self._corrupt_logged >= 60:
            self._corrupt_logged = time.monotonic()
            reason = str(error) if isinstance(error, CorruptData) else repr(error)
            _LOG.warning(
                "message %d of %s skipped (%d so far): %s",
                message.metadata.sequence.stream,
                reader.stream,
                self.progress.corrupt,
                reason,
            )
        try:
            await message.term()
        except TRANSIENT as failure:
            self.store.complain(f"cannot terminate a message: {failure!r}")

    # ── what lasts ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _restore(self) -> None:
        for saved in await self.store.load():
            try:
                # Which nodes' losses it tells depends on the division, and so does which numbers it gave them.
                same = saved.parts == self._share.parts
                losses = Losses.restored(saved.facts["consumer"]) if same else Losses()
                self.pipeline.restore(saved.facts, saved.detectors)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                _LOG.error("refused checkpoint %d: %r", saved.number, error)
                continue
            self._losses = losses
            self._number = saved.number
            self.told = self.pipeline.watermarks.by_node()
            await self._begin(saved.positions, f"goes on after %s (checkpoint {saved.number})")
            if saved.parts < self._share.parts and not self._share.part:
                await self.store.bequeath(saved)
            return
        await self._begin({}, "starts without a checkpoint after %s")

    async def _begin(self, positions: Mapping[int, int], words: str) -> None:
        for shard, reader in enumerate(self.readers):
            await reader.begin(positions.get(shard))
        _LOG.info(words, ", ".join(f"message {reader.position} of {reader.stream}" for reader in self.readers))

    async def _checkpoint(self) -> None:
        """Write everything down, then acknowledge what it covers."""
        if not self._may():
            return
        begun = time.monotonic()
        number, taken = self._number + 1, [reader.taken() for reader in self.readers]
        facts = {
            **self.pipeline.facts(),
            "consumer": self._losses.facts(),
            "positions": {str(shard): position for shard, (position, _) in enumerate(taken)},
            "parts": self._share.parts,
        }
        stored = await self.store.save(Checkpoint(number, taken[0][0], facts, self.pipeline.states()))
        self._written = time.monotonic()
        self._took = self._written - begun
        if not stored:
            return
        self.progress.save()
        self._number, self._unwritten = number, 0
        for reader, what in zip(self.readers, taken, strict=True):
            await reader.cover(what)
