"""What sensors meet in a cluster, without the cluster: a broker with streams, the callout's process, an API server, and tokens in files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import nats.errors
import pytest
from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye.broker.admin import ensure_streams
from daemoneye.errors import DaemonEyeError
from daemoneye.streams import buckets, declared
from daemoneye_operator.reconcile import daemonset
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.spool import Spool
from tests.chart.chart import NAMESPACE
from tests.support import broker, callout
from tests.support.apiserver import ApiServer
from tests.support.broker import Broker
from tests.support.callout import SENSOR, Callout

STREAMS: Final = (*declared(events_max_bytes=64 << 20, findings_max_bytes=8 << 20), *buckets())
NODE: Final = "node-1.example"
OTHER: Final = "node-2"
AUDIENCE: Final = daemonset.token_audience(broker.settings())
NODES: Final = subjects.NODES_BUCKET
CONFIGS: Final = subjects.CONFIGS_BUCKET
HASH: Final = "0a" * 16
EVENTS: Final = subjects.EVENTS(0)
Pods = dict[str, dict[str, Any]]
"""Node → the sensor's pod there."""


def pods_of(api: ApiServer) -> Pods:
    """A sensor's pod on both nodes."""
    return {node: api.pod(NAMESPACE, f"sensor-{at}", node, SENSOR) for at, node in enumerate((NODE, OTHER))}


class Place:
    """One of them. The two nodes' keys hold their names."""

    def __init__(self, directory: Path, of: Broker, by: Callout, api: ApiServer, pods: Pods) -> None:
        self.broker, self.callout, self.api = of, by, api
        self._directory = directory
        self._pods = pods

    def token(self, node: str = NODE) -> str:
        """What the kubelet writes for the sensor of a node."""
        return self.api.token(NAMESPACE, SENSOR, AUDIENCE, self._pods[node])

    def access(self, node: str = NODE, token: str | None = None) -> Access:
        """The way of a node's sensor, with a new token of its own or with this one."""
        path = self._directory / f"token-{node}"
        path.write_text(self.token(node) if token is None else token)
        return self.known_access(node)

    def known_access(self, node: str) -> Access:
        """The same with the token that was written last."""
        return self.broker.sensor_access(self._directory / f"token-{node}", node)

    async def sensor(self, node: str = NODE, errors: list[Exception] | None = None) -> Client:
        """A connection of a node's sensor."""
        return await self.broker.connect(self.access(node), errors=errors)

    async def refused(self, access: Access) -> float:
        """Seconds until it was."""
        began = time.monotonic()
        with pytest.raises((nats.errors.Error, OSError)):
            await self.broker.connect(access)
        return time.monotonic() - began

    @contextlib.asynccontextmanager
    async def publishing(self, access: Access, node: str = NODE) -> AsyncIterator[tuple[Spool, Publisher]]:
        """A node's spool and its publisher, which comes back sooner than one of thousands should when the broker was away."""
        spool = Spool(self._directory / "spool", max_bytes=64 << 20)
        publisher = Publisher(spool, access, node=node, on_refused=_never, ack_timeout=1.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("daemoneye_sensor.publisher._DECIDED_S", 1)
            patch.setattr("daemoneye_sensor.publisher._RECONNECT_S", (0.1, 0.5))
            patch.setattr("daemoneye_sensor.publisher._CLOSE_S", 0.5)
            running = asyncio.create_task(publisher.run())
            try:
                yield spool, publisher
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                spool.close()

    async def stored(self) -> list[int]:
        """What `put` wrote, as the stream has it."""
        operator = await self.broker.connect("operator")
        try:
            jetstream = operator.jetstream(timeout=10)
            state = (await jetstream.stream_info(EVENTS)).state
            messages = [await jetstream.get_msg(EVENTS, at) for at in range(state.first_seq, state.last_seq + 1)]
            return [int(message.data or b"0") for message in messages]
        finally:
            await operator.close()


def _never(*refused: object) -> None:
    raise AssertionError(refused)


def put(spool: Spool, publisher: Publisher, *numbers: int) -> None:
    """Spool batches."""
    for number in numbers:
        spool.append(b"%d" % number, lane="urgent", epoch=0xAB, first_sequence=number, rows=1)
    spool.sync()
    publisher.notify()


@contextlib.contextmanager
def place_in(
    directory: Path, api: ApiServer, pods: Pods, life: float = 3600.0, **nats_settings: Any
) -> Iterator[Place]:
    """One that is ready; ended whatever happens. `life` is that of a connection, in seconds."""
    with broker.running(directory / "broker", **nats_settings) as of:
        asyncio.run(_filled(of))
        with callout.running(of, api, directory / "callout", life) as by:
            asyncio.run(by.ready())
            yield Place(directory, of, by, api, pods)


async def _filled(of: Broker) -> None:
    for server in range(of.settings.nats.replicas):
        await of.ready(server)
    operator = await of.connect("operator")
    jetstream = operator.jetstream(timeout=3)
    async with asyncio.timeout(60):
        while True:
            try:
                await ensure_streams(jetstream, STREAMS)
                break
            except DaemonEyeError:  # several servers elect one of them first
                await asyncio.sleep(0.1)
    for node in (NODE, OTHER):
        await jetstream.publish(subjects.key_value(NODES, subjects.node_config(node)), node.encode())
    await jetstream.publish(subjects.key_value(CONFIGS, HASH), b"configuration")
    await operator.close()
