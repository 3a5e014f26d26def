"""The processes of one machine's installation: broker, analytics and sensor.

Responsible for starting them in order, for starting again what crashes, and for ending them so that what was seen is
judged and kept: the sensor first (it drains), then analytics (it finishes and checkpoints), then the broker. Not for
what they say on the broker (:mod:`daemoneye_cli.feed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.errors import MachineError
from daemoneye_cli import client, configuration
from daemoneye_cli.broker import Broker
from daemoneye_cli.child import Backoff, Child
from daemoneye_cli.configuration import Plan
from daemoneye_cli.logfile import LogLine

SENSOR_GRACE_S: Final = 10.0
ANALYTICS_GRACE_S: Final = 20.0
_POLL_S: Final = 0.1
_SPARE: Final = 64 * configuration.MIB


class Supervisor:
    """Starts and ends the processes of ``plan``; ``on_line`` gets what they log and what happens to them."""

    def __init__(self, plan: Plan, *, on_line: Callable[[LogLine], None], backoff: Backoff | None = None) -> None:
        self._plan = plan
        self._on_line = on_line
        self._backoff = backoff or Backoff()
        self._declared = streams.declared(events_max_bytes=plan.sizes.events_stream)
        if plan.evidence:
            self._declared += (streams.evidence(),)
        self._stopping = asyncio.Event()
        self.broker_restarts = 0
        self.broker = Broker(
            plan.state.broker,
            node=plan.node,
            port=plan.port,
            # Twice: nats-server looks for the room of a stream before it sees that the stream is there already.
            max_store_bytes=2 * streams.reserved_bytes(self._declared) + _SPARE,
        )
        self.sensor = self._child("sensor", "daemoneye_sensor", restart=plan.replay is None)
        self.analytics = self._child("analytics", "daemoneye_analytics", restart=True)

    @property
    def restarts(self) -> dict[str, int]:
        """Starts after the first, by process."""
        return {
            "broker": self.broker_restarts,
            "sensor": self.sensor.restarts,
            "analytics": self.analytics.restarts,
        }

    async def start_broker(self) -> Client:
        """Start the broker with its streams and write every process's configuration; gives our own connection."""
        plan, broker = self._plan, self.broker
        await broker.start()
        state = plan.state
        access = configuration.access(broker, "cli")
        connection = await client.connect(access, name="daemoneye run", on_trouble=self._trouble)
        await ensure_streams(connection.jetstream(timeout=10), self._declared)
        state.write_private("sensor.json", configuration.sensor(plan, broker))
        state.write_private("analytics.json", configuration.analytics(plan, broker))
        state.write_private("cli.json", {**access, "node": plan.node})
        return connection

    async def keep_broker(self) -> None:
        """Start the broker again whenever it ends; its clients come back by themselves."""
        crashes = 0
        clock = asyncio.get_running_loop().time
        while (process := self.broker.process) is not None:
            started = clock()
            code = await process.wait()
            if self._stopping.is_set():
                return
            crashes = 1 if clock() - started > self._backoff.steady else crashes + 1
            delay = self._backoff.delay(crashes)
            self._on_line(LogLine("broker", "warning", f"ended with status {code}; starting it again in {delay:g} s"))
            await asyncio.sleep(delay)
            if self._stopping.is_set():
                return
            self.broker_restarts += 1
            try:
                await self.broker.restart()
            except MachineError as error:
                if crashes >= self._backoff.attempts_unready:
                    raise
                self._on_line(LogLine("broker", "error", str(error)))

    async def stop_sensor(self) -> None:
        """End the sensor; it sends what its rings hold first."""
        await self.sensor.stop(SENSOR_GRACE_S)

    async def stop_analytics(self) -> None:
        """End analytics; it finishes what it has and writes its checkpoint first."""
        await self.analytics.stop(ANALYTICS_GRACE_S)

    async def stop_broker(self) -> None:
        """End the broker."""
        self._stopping.set()
        await self.broker.stop()

    async def caught_up(self, connection: Client, seconds: float) -> bool:
        """Wait until analytics has acknowledged every batch of the stream; False if that took longer."""
        try:
            async with asyncio.timeout(seconds):
                while not await self._has_caught_up(connection):  # noqa: ASYNC110 - the broker tells nobody
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True

    async def _has_caught_up(self, connection: Client) -> bool:
        manager = connection.jetstream(timeout=2)
        with contextlib.suppress(nats.errors.Error):
            consumers = [
                info
                for info in await manager.consumers_info(subjects.EVENTS(0))
                if info.config.durable_name is not None
            ]
            return bool(consumers) and all(not info.num_pending and not info.num_ack_pending for info in consumers)
        return False

    def _child(self, name: str, module: str, *, restart: bool) -> Child:
        state = self._plan.state
        argv = (sys.executable, "-m", module, "--config", str(state.run / f"{name}.json"))
        log = state.logs / f"{name}.log"
        return Child(name, argv, log, on_line=self._on_line, restart=restart, backoff=self._backoff)

    def _trouble(self, text: str) -> None:
        if not self._stopping.is_set():
            self._on_line(LogLine("broker", "warning", text))


def sequences_reached(watermarks: dict[str, Any], node: str, epoch: object, sequences: dict[str, int]) -> bool:
    """Whether analytics' watermarks (node → epoch → lane → next sequence) have come to a sensor's last sequences."""
    lanes = watermarks.get(node, {}).get(str(epoch), {})
    return all(int(lanes.get(lane, 0)) >= int(following) for lane, following in sequences.items() if lane != "loss")
