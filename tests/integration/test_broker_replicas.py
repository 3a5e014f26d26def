"""Three servers, one of which is lost with its disk and replaced, or falls silent, while a sensor's publisher goes on: nothing is lost, all is there thrice."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from daemoneye import subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.broker.connection import PING_S
from daemoneye.broker.link import Link
from daemoneye.errors import DaemonEyeError
from daemoneye.streams import declared
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.spool import Entry, Spool
from tests.support.broker import Broker, running, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STREAM = subjects.EVENTS(0)
STREAMS = declared(events_max_bytes=64 << 20, findings_max_bytes=8 << 20)
# The only lane into which a role with a password may write; to the broker one is as good as the other.
LANE = "loss"
ROWS = 3
EPOCH = 0xE
DEADLINE_S = 60.0
# Two pings, and the silent server may be tried again, twice for six seconds; the rest is for a machine that has other things to do.
ELSEWHERE_S = 2 * PING_S + 20.0


class Node:
    """A spool that is filled without a pause, and the publisher that empties it into whichever server answers."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self.written = 0
        self.refused: list[str] = []
        access = broker.access("analytics")
        urls = tuple(f"tls://localhost:{port}" for port in broker.clients)
        self.spool = Spool(directory, max_bytes=64 << 20)
        self.publisher = Publisher(self.spool, replace(access, urls=urls), node="node-1", on_refused=self._refused)
        self._tasks: list[asyncio.Task[None]] = []

    def _refused(self, entry: Entry, reason: str) -> None:
        self.refused.append(f"{entry.first_sequence}: {reason}")

    async def _fill(self) -> None:
        while True:
            self.spool.append(os.urandom(2000), lane=LANE, epoch=EPOCH, first_sequence=self.written * ROWS, rows=ROWS)
            self.spool.sync()
            self.written += 1
            self.publisher.notify()
            await asyncio.sleep(0.01)  # its pace, and not a wait for something

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self.publisher.run()), asyncio.create_task(self._fill())]

    async def goes_on(self, more: int = 50) -> None:
        """Wait until so many more batches are acknowledged."""
        wanted = self.publisher.stats.published + more
        async with asyncio.timeout(DEADLINE_S):
            while self.publisher.stats.published < wanted:
                await asyncio.sleep(0.02)

    @property
    def server(self) -> int:
        """Port of the server that it is connected to, 0 for none."""
        return port_of(self.publisher._client) if self.publisher._client else 0

    async def stop(self) -> bool:
        """End the filling; whether all of it is acknowledged."""
        publishing, filling = self._tasks
        filling.cancel()
        drained = await self.publisher.drain(DEADLINE_S)
        publishing.cancel()
        await asyncio.gather(publishing, filling, return_exceptions=True)
        self.spool.close()
        return drained


def port_of(client: Client) -> int:
    """Of the server that it is connected to, 0 for none."""
    return (client.connected_url and client.connected_url.port) or 0


async def streams_of_three(broker: Broker) -> None:
    client = await broker.connect("operator")
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await ensure_streams(client.jetstream(timeout=5), STREAMS, replicas=3)
                break
            except DaemonEyeError:  # the servers elect one of them first
                await asyncio.sleep(0.2)
    await client.close()


async def whole(broker: Broker, server: int) -> StreamInfo:
    """What a server says of the stream, once all three have all of it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                client = await broker.connect("cli", server)
                info = await client.jetstream(timeout=2).stream_info(STREAM)
                await client.close()
            except (nats.errors.Error, OSError, TimeoutError):
                await asyncio.sleep(0.1)
                continue
            others = (info.cluster and info.cluster.leader and info.cluster.replicas) or []
            if len(others) == 2 and all(peer.current and not peer.offline for peer in others):
                return info
            await asyncio.sleep(0.1)


async def stored(jetstream: JetStreamContext) -> Counter[int]:
    """How often each batch is in the stream, by its first sequence."""
    state = (await jetstream.stream_info(STREAM)).state
    found: Counter[int] = Counter()
    for sequence in range(state.first_seq, state.last_seq + 1):
        message = await jetstream.get_msg(STREAM, sequence, direct=True)
        assert message.headers
        found[int(message.headers["Nats-Msg-Id"].rpartition("/")[2])] += 1
    return found


async def test_a_server_lost_with_its_disk_is_replaced_and_carries_again(tmp_path: Path) -> None:
    with running(tmp_path, replicas=3) as broker:
        for server in range(3):
            await broker.ready(server)
        await streams_of_three(broker)
        node = Node(broker, tmp_path / "spool")
        node.start()
        await node.goes_on()
        info = await whole(broker, 0)
        assert info.cluster
        assert info.cluster.leader
        lost = int(info.cluster.leader.rpartition("-")[2])  # the one that is written to: the hardest

        broker.lose(lost)
        await node.goes_on()
        broker.start(lost)
        await broker.ready(lost)
        await whole(broker, lost)
        assert (tmp_path / f"data-{lost}").is_dir()

        # Two of three make a majority only if the new one is as good as the others.
        second = (lost + 1) % 3
        broker.lose(second)
        await node.goes_on()
        assert await node.stop(), "not everything was acknowledged"
        assert node.refused == []

        client = await broker.connect("cli", lost)
        copies = await stored(client.jetstream(timeout=5))
        await client.close()
        assert sorted(copies) == list(range(0, node.written * ROWS, ROWS))
        assert set(copies.values()) == {1}, "the broker knows what it has, although another server leads"


async def test_a_server_that_falls_silent_is_left_for_another_and_nothing_is_lost(tmp_path: Path) -> None:
    """Not killed, which the kernel tells of: its host is gone, or what lies between."""
    with running(tmp_path, replicas=3) as broker:
        for server in range(3):
            await broker.ready(server)
        await streams_of_three(broker)
        node = Node(broker, tmp_path / "spool")
        node.start()
        await node.goes_on()
        silent = broker.clients.index(await until("the publisher is connected", lambda: node.server, DEADLINE_S))
        again = asyncio.Event()
        # The others of an installation connect by a link; this one to the same server, which nats-py leaves to chance.
        urls = tuple(f"tls://localhost:{port}" for port in broker.clients)
        link = Link(replace(broker.access("operator"), urls=urls), "test", asyncio.Event())
        link.on_reconnect = again.set
        client = await link.connect()
        while client and port_of(client) != broker.clients[silent]:
            await link.close(client)
            client = await link.connect()
        assert client

        broker.silence(silent)
        await asyncio.gather(
            until("the publisher noticed", lambda: node.server not in {0, broker.clients[silent]}, ELSEWHERE_S),
            until("the link is elsewhere", again.is_set, ELSEWHERE_S),
        )
        await until("the link stays there", lambda: port_of(client) not in {0, broker.clients[silent]}, ELSEWHERE_S)
        await node.goes_on()

        broker.speak(silent)
        await whole(broker, silent)
        assert await node.stop(), "not everything was acknowledged"
        assert node.refused == []
        copies = await stored(client.jetstream(timeout=5))
        await link.close(client)
        assert sorted(copies) == list(range(0, node.written * ROWS, ROWS))
        assert set(copies.values()) == {1}, (
            "what the silent one had been sent it forwards when it goes on: the broker knows it"
        )
