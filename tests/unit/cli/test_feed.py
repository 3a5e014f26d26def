"""Who says what: a node may bear any name, a component's, too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.envelope import Batch
from daemoneye_cli.broker import Broker
from daemoneye_cli.feed import Feed
from daemoneye_cli.tally import Tally
from tests.support.newer import ADDED, NEWER, descriptor, message
from tests.unit.analytics.factory import Exec


class Nothing:
    wants_batches = False
    wants_scores = False

    async def on_batch(self, batch: Any) -> None:
        pass

    async def on_finding(self, finding: dict[str, Any]) -> None:
        pass

    async def on_score(self, score: dict[str, Any]) -> None:
        pass

    async def on_loss(self, loss: dict[str, Any]) -> None:
        pass


async def test_a_node_named_analytics_is_no_component(tmp_path: Path) -> None:
    declared = streams.declared(events_max_bytes=16 << 20)
    broker = Broker(tmp_path, node="analytics", max_store_bytes=2 * streams.reserved_bytes(declared))
    tally = Tally("analytics", lambda: 0.0)
    heard: dict[tuple[str, str], dict[str, Any]] = {}

    async def on_status(origin: str, name: str, status: dict[str, Any]) -> None:
        heard[origin, name] = status

    await broker.start()
    try:
        connections = {role: await broker.connect(role) for role in ("cli", "sensor", "analytics")}
        await ensure_streams(connections["cli"].jetstream(), declared)
        await Feed(connections["cli"], Nothing(), tally, on_status=on_status, tell=print).start()
        subject = {"sensor": subjects.status("analytics"), "analytics": subjects.component("analytics")}
        async with asyncio.timeout(60):
            # Again and again, as heartbeats come: nats-py's flush sends its PING past what is buffered, so it waits for no subscription.
            while len(heard) < 2:
                for role, where in subject.items():
                    await connections[role].publish(where, json.dumps({"state": role}).encode())
                    await connections[role].flush()
        assert heard == {("component", "analytics"): {"state": "analytics"}, ("node", "analytics"): {"state": "sensor"}}
        assert tally.as_status()["processes"] == {
            "node/analytics": {"state": "sensor"},
            "analytics": {"state": "analytics"},
        }
        for connection in connections.values():
            await connection.close()
    finally:
        await broker.stop()


class Shown(Nothing):
    wants_batches = True

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.losses: list[dict[str, Any]] = []

    async def on_batch(self, batch: Batch) -> None:
        self.batches.append(batch)

    async def on_loss(self, loss: dict[str, Any]) -> None:
        self.losses.append(loss)


async def test_after_a_roll_back_the_spool_of_a_newer_sensor_is_shown(tmp_path: Path) -> None:
    declared = streams.declared(events_max_bytes=16 << 20)
    broker = Broker(tmp_path, node="n1", max_store_bytes=2 * streams.reserved_bytes(declared))
    shown, said, tally = Shown(), list[str](), Tally("n1", lambda: 0.0)

    async def on_status(*_: object) -> None:
        pass

    await broker.start()
    try:
        cli, sensor = [await broker.connect(role) for role in ("cli", "sensor")]
        await ensure_streams(cli.jetstream(), declared)
        feed = Feed(cli, shown, tally, on_status=on_status, tell=said.append)
        await feed.start()
        reading = asyncio.create_task(feed.events())
        for record in (NEWER, ADDED):
            await sensor.publish(subjects.schemas(record.hash), descriptor(record))
        # As with the publisher: what a batch is read by is stored before the batch is sent.
        async with asyncio.timeout(60):
            while (await cli.jetstream().stream_info(subjects.SCHEMAS)).state.messages < 2:
                await asyncio.sleep(0.02)
        batch = message([Exec(exe=b"/bin/new", pid=10)], things=2)
        await sensor.publish(subjects.events(0, "n1", "urgent"), batch)
        async with asyncio.timeout(60):
            while not shown.losses or not shown.batches:
                await asyncio.sleep(0.02)
        reading.cancel()
        await cli.close()
        await sensor.close()
    finally:
        await broker.stop()
    (read,) = shown.batches
    assert [section.record.name for section in read.sections if not section.context] == ["process_exec"]
    tally.add_workloads(read)
    assert [(loss["count"], loss["stage"]) for loss in shown.losses] == [(2, "decode")]
    assert (tally.events, dict(tally.lost)) == (3, {"decode": 2})
    assert len(said) == 2


def test_other_nodes_keep_their_names() -> None:
    tally = Tally("n1", lambda: 0.0)
    tally.add_node("n1", {"state": "running"})
    tally.add_component("analytics", {"state": "ready"})
    assert list(tally.as_status()["processes"]) == ["n1", "analytics"]
