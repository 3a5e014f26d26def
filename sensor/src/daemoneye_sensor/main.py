"""The sensor process: puts source, pipeline, spool and publisher together, and speaks to whoever started it.

Nothing is written to stdout; log lines go to stderr. Exit status: 0 ended as told or the input is read, 2 wrong configuration, 3 this machine
lacks something, 1 anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import logging
import signal
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from daemoneye import metrics
from daemoneye.ending import end
from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye.events.registry import RECORDS
from daemoneye.exposition import Exposition, histogram
from daemoneye_sensor import filters, heartbeat, measures, vitals
from daemoneye_sensor import settings as settings_module
from daemoneye_sensor.agent import Agent
from daemoneye_sensor.capturer import Capturer
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.evidence.desk import Desk
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.base import Source
from daemoneye_sensor.sources.ebpf import EbpfSource
from daemoneye_sensor.sources.pcap import PcapSource
from daemoneye_sensor.sources.replay import ReplaySource
from daemoneye_sensor.spool import Spool

GROUP: Final = "daemoneye.sources"
_DRAIN_S: Final = 5.0
"""From a signal on; whoever started us kills what has not ended after ten seconds."""
_REPLAY_DRAIN_S: Final = 600.0
_WORD_S: Final = 10.0
_FILES: Final = ("replay", "pcap")

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def make_source(settings: Settings, explainer: Explainer) -> Source:
    """The source that the settings name: ours, or a third party's entry point.

    Raises:
        ConfigError: There is none of that name, or it lacks a setting.
    """
    if settings.source == "ebpf":
        return EbpfSource(
            bpf_dir=settings.bpf_dir, instance=settings.instance, sizes=settings.rings, events=list(settings.events), explainer=explainer,
        )  # fmt: skip
    if settings.source in _FILES:
        if settings.replay_path is None:
            raise ConfigError(f"source {settings.source}: replay_path is missing")
        if settings.source == "replay":
            return ReplaySource(settings.replay_path)
        return PcapSource(settings.replay_path, _capture({**settings.network, "enable_packet_capture": True}))
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == settings.source:
            made: Source = entry.load()(settings)
            return made
    names = sorted({"ebpf", *_FILES, *(e.name for e in importlib.metadata.entry_points(group=GROUP))})
    msg = f"unknown source {settings.source!r}; there are: {', '.join(names)}"
    raise ConfigError(msg)


def _capture(network: Mapping[str, Any]) -> Capture | None:
    """The capture that a section `network_monitoring` asks for.

    Raises:
        ConfigError: Its filter does not compile, or a value is of another kind.
    """
    try:
        capture = Capture.from_network(network)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network_monitoring: {error}") from error
    if capture is not None:
        problems = filters.check((expression, capture.snaplen) for expression in capture.filters)
        for (expression, _), problem in problems.items():
            raise ConfigError(f"capture_filter {expression!r}: {problem}")
    return capture


async def run(settings: Settings) -> int:
    """The sensor until it is told to stop or its input is read."""
    if settings.configuration == settings_module.FROM_BROKER:
        return await Agent(settings).run()
    spool = Spool(settings.state_dir / "spool", max_bytes=settings.spool_bytes)
    explainer = Explainer()
    source = make_source(settings, explainer)
    losses, delay = Losses(), histogram(metrics.SENSOR_DELAY)
    desk = Desk(settings.node)
    capturer = Capturer(settings, losses, explainer, desk.keeper, desk.oddities)
    try:
        pipeline = Pipeline(source, spool, settings, losses, delay.observe)
        if settings.source == "ebpf":
            capture = _capture(settings.network)
            desk.want(wanted=capture is not None and capture.evidence)
            await capturer.bring(capture, lambda: pipeline)
    except BaseException:
        capturer.end()
        source.close(keep=False)
        spool.close()
        raise
    publisher = Publisher(
        spool, settings.access, node=settings.node, on_refused=losses.refused, shard=settings.shard, on_connected=desk.connected
    )  # fmt: skip
    pipeline.attach(publisher)
    for record in RECORDS:
        publisher.announce_schema(record.hash, json.dumps(record.descriptor(), separators=(",", ":")).encode())
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        asked.set()
        pipeline.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    publishing = asyncio.create_task(publisher.run(), name="publisher")
    beating = asyncio.create_task(_heartbeat(pipeline, publisher, settings, capturer), name="heartbeat")
    page = Exposition(
        "sensor", heartbeat.version(), lambda: (*desk.samples(), *measures.samples(settings, publisher, losses, pipeline, spool=spool)), [delay]
    ).page  # fmt: skip
    serving = vitals.serving(
        settings.health_port,
        alive=lambda: vitals.alive((publishing, beating), pipeline),
        ready=lambda: {"ok": True, "reason": ""},  # whatever this file asks for was loaded before anybody can ask
        metrics=page,
    )
    error = ""
    try:
        async with serving:
            await _beside(pipeline.run(), publishing, beating)
            capturer.end()
            finished = source.finished
            error = str(source.status().get("error") or "")
            if not await _beside(_drained(publisher, asked), publishing, beating):
                unsent, why = spool.entries_unsent, publisher.last_error or "the broker takes too long"
                _log.warning("%d batches were not sent (%s): they stay in the spool for the next start", unsent, why)
            beating.cancel()
            state = "finished" if finished else "stopped"
            word = heartbeat.compose(state, settings, publisher, pipeline, losses=losses, error=error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WORD_S):
                    # Whoever had nothing to send may be at the end before the broker answers, which is another process.
                    while not await publisher.publish_status(word):
                        if not finished or asked.is_set() or publishing.done():
                            break
                        await asyncio.sleep(0.1)
    finally:
        await desk.close()
        await end((beating, publishing))
        capturer.end()
        source.close(keep=settings.keep_programs)
        spool.close()
    if error:
        # Not this process's failure: what could be read was published, and the last status says what could not.
        sys.stderr.write(f"daemoneye-sensor: {error}\n")
    return 0


async def _drained(publisher: Publisher, asked: asyncio.Event) -> bool:
    """Whether everything was sent: what was read of a file is waited for at length, until a signal comes; then not for long."""
    asking, draining = asyncio.create_task(asked.wait()), asyncio.create_task(publisher.drain(_REPLAY_DRAIN_S))
    try:
        await asyncio.wait((asking, draining), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            await asyncio.wait((draining,), timeout=_DRAIN_S)
        return draining.done() and draining.result()
    finally:
        await end((asking, draining))


async def _beside(work: Coroutine[Any, Any, _Result], *others: asyncio.Task[None]) -> _Result:
    """What some work gives; what others raise beside it ends it: without a publisher, say, it would go on for nobody."""
    mine = asyncio.create_task(work)
    try:
        await asyncio.wait((mine, *others), return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            if task.done():
                task.result()
        return await mine
    finally:
        await end([mine])


async def _heartbeat(pipeline: Pipeline, publisher: Publisher, settings: Settings, capturer: Capturer) -> None:
    # The first one as soon as the broker answers: whoever started us waits for it.
    while not await publisher.publish_status(_ready(pipeline, publisher, settings, capturer)):  # noqa: ASYNC110 - the broker is another process
        await asyncio.sleep(0.1)
    while True:
        await asyncio.sleep(settings.status_interval_s)
        pipeline.follow_clock()
        await publisher.publish_status(_ready(pipeline, publisher, settings, capturer))


def _ready(pipeline: Pipeline, publisher: Publisher, settings: Settings, capturer: Capturer) -> dict[str, Any]:
    trouble = capturer.problem[1]
    return heartbeat.compose("ready", settings, publisher, pipeline, losses=pipeline.losses, error=trouble)


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m daemoneye_sensor`."""
    parser = argparse.ArgumentParser(
        prog="python -m daemoneye_sensor", description="DaemonEye's sensor; started by `daemoneye run` or a pod."
    )
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the settings")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        return asyncio.run(run(settings_module.load(arguments.config)))
    except DaemonEyeError as error:
        sys.stderr.write(f"daemoneye-sensor: {error}\n")
        return error.exit_code
