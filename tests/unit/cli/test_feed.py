"""Who says what: a node may bear any name, a component's, too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye_cli.broker import Broker
from daemoneye_cli.feed import Feed
from daemoneye_cli.tally import Tally


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
        await Feed(connections["cli"], Nothing(), tally, on_status=on_status).start()
        subject = {"sensor": subjects.status("analytics"), "analytics": subjects.component("analytics")}
        async with asyncio.timeout(20):
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


def test_other_nodes_keep_their_names() -> None:
    tally = Tally("n1", lambda: 0.0)
    tally.add_node("n1", {"state": "running"})
    tally.add_component("analytics", {"state": "ready"})
    assert list(tally.as_status()["processes"]) == ["n1", "analytics"]
