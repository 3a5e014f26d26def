"""`python -m daemoneye_analytics --config FILE`: the analytics process.

Responsible for the process: its arguments, log, signals, connection, health and exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from nats.aio.client import Client

from daemoneye import health
from daemoneye.broker.link import Link
from daemoneye.ending import end
from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye.exposition import Exposition
from daemoneye_analytics import answers, measures, registry
from daemoneye_analytics.behaviour import signing
from daemoneye_analytics.budget import MACHINE
from daemoneye_analytics.consumer import Consumer
from daemoneye_analytics.lease import Lease, holder, take_one
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.progress import Progress
from daemoneye_analytics.registry import Chosen
from daemoneye_analytics.settings import BROKER, Settings, load
from daemoneye_analytics.share import WHOLE, Share
from daemoneye_analytics.vault.arming import Arming, wanted
from daemoneye_analytics.vault.bucket import Bucket
from daemoneye_analytics.vault.door import Door
from daemoneye_analytics.vault.reviews import Reviews


def main(arguments: Sequence[str] | None = None) -> int:
    """Run analytics until SIGTERM or SIGINT; the exit status."""
    parser = argparse.ArgumentParser(prog="daemoneye-analytics", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="configuration file, JSON")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load(options.config)
        asyncio.run(serve(settings))
    except DaemonEyeError as error:
        print(f"daemoneye-analytics: {error}", file=sys.stderr)  # noqa: T201 - one line for a person
        return error.exit_code
    return 0


_STALE_EVERY_S: Final = 1.0


async def serve(settings: Settings) -> None:
    """Connect, consume until a signal comes, disconnect."""
    # What signs stored models must outlast the process and be nobody else's: the password is both; a new one costs a training.
    if secret := str(settings.broker.options().get("password") or ""):
        signing.use(secret.encode())
    known = None
    chosen: list[Chosen] = []
    progress = Progress()
    if settings.configuration == BROKER:
        known = registry.available()
        names = tuple(known)
    else:
        chosen = registry.build(
            settings.detectors,
            behavioral=settings.behavioral,
            machine_learning=settings.machine_learning,
            analysis=settings.analysis,
        )
        names = tuple(detector.declaration.name for detector, _ in chosen)
    reviews = Reviews.of_pod(settings.evidence.service_account) if settings.evidence else None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    consumer: Consumer | None = None
    leases: list[Lease] = []
    arming: Arming | None = None
    door: Door | None = None

    page = Exposition(
        "analytics",
        answers.VERSION,
        lambda: measures.samples(consumer, names, arming, door, leases),
        [progress.event_delay, progress.finding_delay],
    ).page
    async with AsyncExitStack() as stack:
        if settings.health_port:
            serving = health.serving(
                settings.health_port,
                alive=lambda: answers.alive(consumer),
                ready=lambda: answers.ready(consumer, leases),
                metrics=page,
            )
            try:
                await stack.enter_async_context(serving)
            except OSError as error:
                raise ConfigError(f"cannot serve on health_port {settings.health_port}: {error}") from error
        link = Link(settings.broker, "daemoneye-analytics", stop)
        client = await link.connect()
        if client is None:
            return
        bucket = Bucket(client)
        arming, door = await _vault(settings, reviews, bucket, client, stack)
        # In a cluster there may be several replicas; on one machine whoever started this process sees to it that there is one.
        if settings.configuration == BROKER:
            leases += [Lease(client, part, holder(), settings.lease_seconds) for part in range(settings.parts)]
        watching = asyncio.create_task(_until_stale(link, client, stop))
        try:
            lease = await take_one(leases, stop) if leases else None
            if lease or not leases:
                async with AsyncExitStack() as judging:
                    if arming:
                        await bucket.listen()
                        judging.push_async_callback(end, [asyncio.create_task(arming.run())])
                    progress.begin()
                    pipeline = Pipeline(share=Share(lease.part, settings.parts) if lease else WHOLE)
                    if known is None:
                        pipeline.configure(chosen, budgets={MACHINE: settings.alert_budget})
                    consumer = Consumer(
                        client,
                        shards=settings.shards,
                        pipeline=pipeline,
                        progress=progress,
                        stop=await judging.enter_async_context(lease.kept(stop)) if lease else stop,
                        status_interval=settings.status_interval,
                        known=known,
                        arming=arming,
                        lease=lease,
                    )
                    link.on_reconnect = consumer.replace
                    await consumer.run()
        finally:
            watching.cancel()
            await link.close(client)
        if any(lease.lost.is_set() for lease in leases):
            raise DaemonEyeError("another replica judges the events by now: the process is started anew, to stand by")
        if watching.done() and not watching.cancelled():
            raise DaemonEyeError(
                "the broker wants other credentials, or closed the connection for good: the process is started anew"
            )


async def _vault(
    settings: Settings, reviews: Reviews | None, bucket: Bucket, client: Client, stack: AsyncExitStack
) -> tuple[Arming | None, Door | None]:
    """Who has packets kept and who gives them out, where the settings ask for it."""
    if settings.keep:
        (every,) = wanted([{"evidence": settings.keep}]).values() or (None,)
        return Arming(client, bucket, "", every=every), None
    if not settings.evidence or not reviews:
        return None, None
    door = Door(bucket, reviews)
    try:
        await stack.enter_async_context(door.open(settings.evidence.port))
    except OSError as error:
        raise ConfigError(f"cannot give out evidence on port {settings.evidence.port}: {error}") from error
    return Arming(client, bucket, settings.evidence.namespace), door


async def _until_stale(link: Link, client: Client, stop: asyncio.Event) -> None:
    """Have the process end when its connection is of no use any more: what it had not stored is read again."""
    while not link.stale(client):  # noqa: ASYNC110 - files and another process' connection have no event
        await asyncio.sleep(_STALE_EVERY_S)
    stop.set()
