"""The sensor in a cluster: runs what the broker says, changes it without a restart, and answers how that went.

Responsible for the order of things: documents come (:mod:`daemoneye_sensor.configuration`), source, pipeline and spool are brought to them,
heartbeats say the rest. Nothing that a configuration says ends the process: one that this release cannot read leaves the former
(:func:`daemoneye_sensor.answers.check`), what cannot run here is refused with its reason, and tried again.

A change never restarts the flow: rows that the rings hold at that moment are judged by the former configuration, also those that wait for
their pod's document, then selectors and the programs' switch change at once. At the end, too, nothing waits any more: with the programs the rings
may go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client

from daemoneye import metrics
from daemoneye.ending import end
from daemoneye.events.registry import RECORDS
from daemoneye.exposition import Exposition, histogram
from daemoneye.metrics import Sample
from daemoneye.nodeconfig import NodeAnswer, NodeConfig
from daemoneye_sensor import answers, filters, heartbeat, measures, procfs, vitals
from daemoneye_sensor.capturer import Capturer
from daemoneye_sensor.configuration import Configured, Follower, Store
from daemoneye_sensor.enrich.bundles import Bundles
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.enrich.podrows import PodIdentities
from daemoneye_sensor.enrich.pods import Pods
from daemoneye_sensor.enrich.selection import Selection, captures
from daemoneye_sensor.evidence.desk import Desk
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.observer import Observer
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.spool import Spool
from daemoneye_sensor.store import SpoolInUse

REMOVED: Final = "removed"
_DRAIN_S: Final = 10.0
_LEAVE_S: Final = 5.0
_OTHER_S: Final = 0.5
_NOTHING: Final = ("", "")

_log = logging.getLogger(__name__)


class Agent:
    """One node's sensor. Everything here belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pods = Pods()
        bundles = Bundles(settings.runtime_tasks)
        self._identities = PodIdentities(self._pods, bundles)
        self._packets = PodIdentities(self._pods, bundles, self._identities.cgroups)
        self._explainer = Explainer(self._identities, self._packets)
        self._store = Store(settings.state_dir)
        self._losses = Losses()
        self._delay = histogram(metrics.SENSOR_DELAY)
        self._evidence = Desk(settings.node)
        self._observer = Observer(settings, self._losses, self._explainer, self._identities, self._delay.observe)
        self._capturer = Capturer(
            settings, self._losses, self._explainer, self._evidence.keeper, self._evidence.oddities
        )
        self._follower = Follower(settings.node, self._pods, on_configured=self._told, on_news=self._news)
        self._publisher = Publisher(
            None, settings.access, node=settings.node, on_refused=self._losses.refused, shard=settings.shard, on_connected=self._connected
        )  # fmt: skip
        self._spool: Spool | None = None
        self._pipeline: Pipeline | None = None
        self._flow: asyncio.Task[None] | None = None
        self._wanted: Configured | None = None
        self._current: Configured | None = None
        self._broken: Mapping[str, str] = {}  # policies whose selectors mean nothing, whatever they ask for
        self._filters: Mapping[tuple[str, int], str] = {}
        self._trouble = self._capture = _NOTHING
        self._held_up = ""
        self._removed = False
        self._answer = self._answered(Configured("", NodeConfig(), b""))
        self._stopping = False
        self._changed = asyncio.Event()
        self._beat = asyncio.Event()

    async def run(self) -> int:
        """Until told to stop; raises what makes it useless (a spool that cannot be written, credentials that cannot be read)."""
        procfs.see_host_cgroups()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        for record in RECORDS:
            self._publisher.announce_schema(
                record.hash, json.dumps(record.descriptor(), separators=(",", ":")).encode()
            )
        tasks: list[asyncio.Task[None]] = []
        serving = vitals.serving(
            self._settings.health_port,
            alive=lambda: vitals.alive(tasks, self._pipeline),
            ready=self._ready,
            metrics=Exposition("sensor", heartbeat.version(), self._samples, [self._delay]).page,
        )
        try:
            async with serving:
                if not await self._take_spool():
                    return 0
                self._wanted = self._store.load()
                publishing = asyncio.create_task(self._publisher.run(), name="publisher")
                beating = asyncio.create_task(self._heartbeat(), name="heartbeat")
                tasks += publishing, beating
                while not self._stopping:
                    self._changed.clear()
                    await self._bring()
                    if not self._stopping:
                        await self._wait(*tasks)
                self._capturer.end()
                await self._end_flow()
                await self._publisher.drain(_DRAIN_S)
                beating.cancel()
                await self._publisher.publish_status(self._status(REMOVED if self._removed else "stopped"))
        finally:
            await self._follower.close()
            await self._evidence.close()
            await end((*tasks, *([self._flow] if self._flow else [])))
            self._capturer.end()
            self._observer.close(keep=self._settings.keep_programs)
            if self._spool is not None:
                self._spool.close()
        return 0

    def stop(self) -> None:
        """Have `run` end."""
        self._stopping = True
        self._changed.set()

    async def _take_spool(self) -> bool:
        """Open the spool, if there is one; false when told to stop before the node's other sensor had ended.

        Two sensors are on a node for as long as nobody has taken the former's pod away. The second says nothing in the node's name until then: to
        end and be started again would cost minutes of the kubelet's patience, after the other has gone.
        """
        while not self._stopping:
            try:
                if self._spool_directory.is_dir():
                    self._open_spool()
            except SpoolInUse as error:
                if not self._held_up:
                    _log.warning("waiting for the node's other sensor to end: %s", error)
                self._held_up = f"the node's other sensor has not ended: {error}"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_OTHER_S):
                        await self._changed.wait()
            else:
                self._held_up = ""
                return True
        return False

    # --- what comes in

    def _connected(self, client: Client) -> None:
        self._follower.connected(client)
        self._evidence.connected(client)
        self._beat.set()

    def _told(self, configured: Configured) -> None:
        self._wanted = configured
        self._changed.set()

    def _news(self) -> None:
        """A pod's document came: rows may wait for it. Or the follower's trouble changed: whoever wonders is told."""
        if self._pipeline is not None:
            self._pipeline.wake()
        if self._follower.trouble != self._trouble:
            self._trouble = self._follower.trouble
            self._beat.set()

    async def _wait(self, *tasks: asyncio.Task[None]) -> None:
        """Until something changed, or programs or a capture are to be tried again; a task that ended by itself ends the process."""
        change = asyncio.create_task(self._changed.wait())
        watched: list[asyncio.Task[Any]] = [change, *tasks, *([self._flow] if self._flow else [])]
        pauses = (self._capturer.retry_in, self._observer.retry_in)
        pause = min((pause for pause in pauses if pause is not None), default=None)
        done, _ = await asyncio.wait(watched, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        change.cancel()
        for task in done - {change}:
            task.result()

    # --- carrying it out

    async def _bring(self) -> None:
        """Bring source and spool to what is wanted."""
        wanted = self._wanted
        if wanted is None:
            return
        news = self._current is None or wanted.hash != self._current.hash
        if wanted.config.remove:
            if news:
                await self._leave()
                self._current = wanted
                self._say(wanted)
            return
        if news:
            asked = {place for policy in wanted.config.policies if (place := answers.filter_of(policy)) is not None}
            self._filters = await asyncio.to_thread(filters.check, asked) if asked else {}
            self._switch(wanted)
        await self._observer.bring(self._open_spool, self._flowing, news=news)
        capture = Capture.from_config(wanted.config)
        if capture is not None:
            capture = capture.without({expression for expression, _ in self._filters})
        await self._capturer.bring(capture, self._flowing)
        self._say(wanted)
        if news:
            await asyncio.to_thread(self._store.save, wanted)

    def _switch(self, wanted: Configured) -> None:
        """Another configuration from this moment on."""
        if self._pipeline is not None:
            self._identities.waits = False
            self._pipeline.turn()
            self._identities.waits = True
        selection, capturing = Selection(wanted.config), Selection(wanted.config, captures)
        self._identities.select(selection)
        self._packets.select(capturing)
        self._broken = {**selection.broken, **capturing.broken}
        self._observer.want(answers.events_of(wanted.config))
        self._evidence.configured(wanted.config)
        self._current = wanted
        self._removed = False
        _log.info("configuration %s: %d policies", wanted.hash, len(wanted.config.policies))

    def _flowing(self) -> Pipeline:
        """The pipeline, which turns from when there is first something to look at."""
        if self._pipeline is None:
            self._pipeline = Pipeline(None, self._open_spool(), self._settings, self._losses)
            self._pipeline.attach(self._publisher)
            self._flow = asyncio.create_task(self._pipeline.run(), name="pipeline")
        return self._pipeline

    async def _leave(self) -> None:
        """Leave the node: send what is there, then programs, pins, spool and configuration go."""
        self._observer.want(())
        self._capturer.end()
        await self._end_flow()
        if not await self._publisher.drain(_LEAVE_S):
            _log.warning("the node is left with batches that could not be sent")
        self._observer.leave()
        self._pipeline = None
        self._publisher.use(None)
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._store.remove()
        shutil.rmtree(self._spool_directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._settings.state_dir.rmdir()
        self._filters = {}
        self._removed = True
        _log.info("the node is left: programs, pins and spool are gone")

    async def _end_flow(self) -> None:
        if self._flow is None or self._pipeline is None:
            return
        self._identities.waits = False
        self._pipeline.stop()
        await self._flow
        self._flow = None

    @property
    def _spool_directory(self) -> Path:
        return self._settings.state_dir / "spool"

    def _open_spool(self) -> Spool:
        if self._spool is None:
            self._spool = Spool(self._spool_directory, max_bytes=self._settings.spool_bytes)
            self._publisher.use(self._spool)
        return self._spool

    # --- what goes out

    def _say(self, current: Configured) -> None:
        """Answer at once; not before all is known, for an answer counts."""
        self._answer = self._answered(current)
        self._beat.set()

    def _answered(self, current: Configured) -> NodeAnswer:
        self._capture = self._capturer.problem
        return answers.answer(
            current.hash,
            current.config,
            programs=self._observer.problem,
            capture=self._capture,
            filters=self._filters,
            selectors={} if self._removed else self._broken,
            sockets=answers.of_sockets(self._observer.events, self._observer.missing),
        )

    async def _heartbeat(self) -> None:
        while True:
            self._beat.clear()
            if self._pipeline is not None:
                self._pipeline.follow_clock()
            # A capture fails and recovers by itself: interfaces come and go.
            if self._current is not None and self._capturer.problem != self._capture:
                self._answer = self._answered(self._current)
            await self._publisher.publish_status(self._status(REMOVED if self._removed else "ready"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.status_interval_s):
                    await self._beat.wait()

    def _status(self, state: str) -> dict[str, Any]:
        answer = replace(self._answer, problem=self._trouble) if self._trouble[0] else self._answer
        return heartbeat.compose(
            state,
            self._settings,
            self._publisher,
            self._pipeline,
            spool=self._spool,
            error=self._observer.problem[1],
            losses=self._losses,
            config=answer.to_json(),
        )

    def _ready(self) -> dict[str, Any]:
        """The answer of /readyz: it does what its node's configuration says."""
        reason = self._held_up
        if not reason and self._current is None:
            reason = self._trouble[1] or "it has no configuration yet"
        elif not reason and not self._observer.loaded:
            reason = self._observer.problem[1] or "its programs are not loaded yet"
        config = "" if self._current is None else self._current.hash
        return {"ok": not reason, "reason": reason, "version": heartbeat.version(), "config": config}

    def _samples(self) -> Iterator[Sample]:
        yield from self._evidence.samples()
        yield from measures.samples(
            self._settings,
            self._publisher,
            self._losses,
            self._pipeline,
            spool=self._spool,
            loaded=self._observer.loaded,
            answer=self._answer,
            pods=len(self._pods),
        )
