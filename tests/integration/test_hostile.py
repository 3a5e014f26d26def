"""A sensor that was taken over and does its worst under its own name: others are heard, and nothing grows without bound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nats.errors
import pytest

from daemoneye import subjects, usage
from daemoneye.broker.bucket import Bucket
from daemoneye.broker.link import Link
from daemoneye_operator import brokerconf
from daemoneye_operator.bus import Bus
from daemoneye_operator.reconcile.nodes import BURST, Heartbeats
from tests.support.apiserver import ApiServer
from tests.support.broker import heard, until
from tests.support.sensors import NODE, NODES, OTHER, Place, Pods, place_in, put

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, api: ApiServer, sensor_pods: Pods) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("hostile"), api, sensor_pods) as place:
        yield place


def heartbeat(**content: object) -> bytes:
    return json.dumps({"state": "ready", "version": "1", **content}).encode()


async def test_a_flood_of_heartbeats_costs_others_nothing(place: Place):
    heartbeats, stop = Heartbeats(), asyncio.Event()
    bus = Bus(place.broker.settings, heartbeats, lambda: None)
    running = asyncio.create_task(bus.run(Link(place.broker.access("operator"), "operator", stop)))
    hostile, other = await place.sensor(NODE), await place.sensor(OTHER)
    await until("the operator is ready", bus.ready.is_set)
    flooding = True
    large = heartbeat(padding="x" * 200_000)

    async def flood() -> None:
        while flooding:
            for body in (large, b"no heartbeat", b"[" * 100_000, heartbeat(config={"policies": [{}] * 10_000})):
                await hostile.publish(subjects.status(NODE), body)
            await hostile.flush()

    before = usage.now().rss_bytes
    attack = asyncio.create_task(flood())
    try:
        await until("the flood is dropped", lambda: heartbeats.dropped > 200, 60)
        for number in range(5):
            await other.publish(subjects.status(OTHER), heartbeat(version=str(number)))
            await until(
                "the other node is heard",
                lambda: OTHER in heartbeats.reports and heartbeats.reports[OTHER].version == str(number),  # noqa: B023 - awaited at once
            )
    finally:
        flooding = False
        await attack
    assert set(heartbeats.reports) <= {NODE, OTHER}
    assert usage.now().rss_bytes - before < 200 << 20  # the flood's own buffers are in this process, too
    stop.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.gather(hostile.close(), other.close())


async def test_a_value_of_ten_megabytes_is_refused_and_the_next_one_taken(place: Place):
    errors: list[Exception] = []
    identity = await place.broker.connect("identity", errors=errors)
    bucket, key = Bucket(identity, NODES), subjects.node_pod(NODE, "0a1b2c3d-0000-4000-8000-123456789abc")
    with pytest.raises(nats.errors.Error):
        await bucket.write(key, b"x" * (10 << 20))
    with pytest.raises(nats.errors.Error):
        await bucket.write(key, b"x" * (2 << 20))  # the broker takes it, the bucket does not
    await bucket.write(key, b"small")
    sensor = await place.sensor(NODE)
    assert await Bucket(sensor, NODES).read(key) == b"small"
    # Who does not keep to the limit that the server told loses the connection, and nobody else does.
    raw = await place.sensor(OTHER, errors=errors)
    raw._max_payload = 64 << 20
    with contextlib.suppress(nats.errors.Error, OSError):
        await raw.publish(subjects.status(OTHER), b"x" * (10 << 20))
        await raw.flush(1)
    await until("it is cut off", lambda: not raw.is_connected)
    await heard(sensor)
    await asyncio.gather(identity.close(), sensor.close())


async def test_a_flood_of_events_is_bounded_by_the_stream(place: Place, tmp_path: Path):
    """The oldest go first: what analytics had not read is a jump in the sequence, which it counts (test_analytics)."""
    hostile = await place.sensor(NODE)
    subject = subjects.events(0, NODE, "urgent")
    for _ in range(40):
        await hostile.publish(subject, b"x" * (4 << 20))
    await hostile.flush()
    operator = await place.broker.connect("operator")
    limit = place.broker.settings.streams.events_max_bytes
    # As much as fits, and not a message more.
    assert 0 < (await operator.jetstream().stream_info(subjects.EVENTS(0))).state.bytes <= limit
    await asyncio.gather(hostile.close(), operator.close())


def test_the_pace_of_one_node():
    heartbeats = Heartbeats(limit=3)
    at_once = [heartbeats.admits("daemoneye.v1.status.a", 0.0) for _ in range(40)]
    assert at_once.count(True) == BURST
    assert heartbeats.dropped == 40 - BURST
    assert heartbeats.admits("daemoneye.v1.status.b", 0.0), "another node's is its own"
    assert heartbeats.admits("daemoneye.v1.status.a", 1.0)
    for number in range(100):
        heartbeats.admits(f"daemoneye.v1.status.{number}", 2.0)
    assert len(heartbeats._allowed) == 3


async def test_nobody_has_another_nodes_batches_taken_for_duplicates(place: Place):
    """The broker compares message ids in the whole stream, and tells the last one to whoever expects another."""
    hostile = await place.sensor(NODE)
    own = subjects.events(0, NODE, "urgent")
    async with place.publishing(place.access(OTHER), node=OTHER) as (spool, publisher):
        put(spool, publisher, 7001)
        assert await publisher.drain(60)
        said = (await hostile.request(own, b"0", timeout=30, headers={"Nats-Expected-Last-Msg-Id": "x"})).data.decode()
        (known,) = re.findall(r"wrong last msg ID: ([^\"]+)/7001", said)
        for number in range(7002, 7010):
            await hostile.jetstream().publish(own, b"0", headers={"Nats-Msg-Id": f"{known}/{number}"})
        put(spool, publisher, *range(7002, 7010))
        assert await publisher.drain(60)
    operator = await place.broker.connect("operator")
    seen = (await operator.jetstream().stream_info(subjects.EVENTS(0), subjects_filter=">")).state.subjects or {}
    assert seen[subjects.events(0, OTHER, "urgent")] == 9
    await asyncio.gather(hostile.close(), operator.close())


@pytest.fixture
def crowded(
    tmp_path: Path, api: ApiServer, sensor_pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, int]]:
    monkeypatch.setattr(brokerconf, "MAX_SENSOR_CONNECTIONS", 3)
    with place_in(tmp_path, api, sensor_pods) as place:
        yield place, 3


async def test_who_opens_connections_without_end_leaves_room_for_the_other_roles(crowded: tuple[Place, int]):
    place, limit = crowded
    clients = [await place.sensor(NODE) for _ in range(limit)]
    with pytest.raises(nats.errors.Error, match="maximum account active connections exceeded"):
        await place.sensor(NODE)
    clients += [await place.broker.connect(role) for role in ("operator", "analytics", "identity", "cli")]
    await asyncio.gather(*(client.close() for client in clients))
