"""`python -m daemoneye_analytics --config FILE`: the analytics process.

Responsible for the process: its arguments, log, signals, connection and exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client

from daemoneye.errors import DaemonEyeError
from daemoneye_analytics import registry
from daemoneye_analytics.consumer import Consumer
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.settings import Settings, load
from daemoneye_analytics.store import TRANSIENT

_LOG = logging.getLogger("daemoneye_analytics")
_RETRY_S: Final = 1
_CLOSE_S: Final = 5.0
_CLOSE_AWAY_S: Final = 0.5
_MINUTE: Final = 60.0


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


async def serve(settings: Settings) -> None:
    """Connect, consume until a signal comes, disconnect."""
    pipeline = Pipeline(registry.build(settings.detectors, behavioral=settings.behavioral))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    link = _Link(settings, stop)
    client = await link.connect()
    if client is None:
        return
    consumer = Consumer(
        client, shard=settings.shard, pipeline=pipeline, stop=stop, status_interval=settings.status_interval
    )
    link.on_reconnect = consumer.replace
    try:
        await consumer.run()
    finally:
        # Closing flushes; with the broker away it raises or waits, and there is nothing left to say.
        with contextlib.suppress(*TRANSIENT):
            async with asyncio.timeout(_CLOSE_S if client.is_connected else _CLOSE_AWAY_S):
                await client.close()


class _Link:
    """The connection, made again for ever; its troubles are logged once a minute."""

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self.on_reconnect: Callable[[], None] = lambda: None
        self._settings = settings
        self._stop = stop
        self._logged = float("-inf")

    async def connect(self) -> Client | None:
        """A connection; None when the process is asked to end before there is one."""
        options = self._settings.broker.options()
        while not self._stop.is_set():
            attempt = asyncio.ensure_future(self._attempt(options))
            stop = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({attempt, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not attempt.done():
                attempt.cancel()
                return None
            client = attempt.result()
            if client is not None:
                return client
        return None

    async def _attempt(self, options: dict[str, Any]) -> Client | None:
        client = Client()
        try:
            await client.connect(
                name="daemoneye-analytics",
                # The first connection is tried again here, later ones by nats-py; its defaults give up after 60 attempts and
                # notice a silent partition after minutes.
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RETRY_S,
                connect_timeout=5,
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=self._error,
                reconnected_cb=self._reconnected,
                **options,
            )
        except TRANSIENT as error:
            await self._error(error)
            await asyncio.sleep(_RETRY_S)
            return None
        return client

    async def _error(self, error: Exception) -> None:
        if time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _LOG.warning("broker %s: %s", self._settings.broker.url, str(error) or repr(error))

    async def _reconnected(self) -> None:
        _LOG.info("connected to the broker again")
        self.on_reconnect()
