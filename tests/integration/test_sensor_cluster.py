"""The sensor and a cluster's broker: its configuration, its pods and its answers, with the rights of the role `sensor` and no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.nodeconfig import MAX_BYTES, NodeAnswer, NodeConfig, NodePointer
from daemoneye.podidentity import PodIdentity
from daemoneye_sensor import configuration
from daemoneye_sensor.configuration import Configured, Follower
from daemoneye_sensor.enrich.pods import Pods
from daemoneye_sensor.publisher import Publisher
from tests.support.nodebroker import NODE, NodeBroker, Sensor, broker_in, policy, until
from tests.support.nodebroker import configuration as config_of

pytestmark = pytest.mark.integration

POD = "0a1b2c3d-1111-4222-8333-0123456789ab"
STATIC = "0123456789abcdef" * 2


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NodeBroker]:
    async with broker_in(tmp_path / "broker") as broker:
        yield broker


class Node:
    """A follower on a publisher's connection, and what it was told."""

    def __init__(self, broker: NodeBroker) -> None:
        self.told: list[Configured] = []
        self.news = 0
        self.pods = Pods()
        self.follower = Follower(NODE, self.pods, on_configured=self.told.append, on_news=self._news)
        self.publisher = Publisher(
            None, broker.access, node=NODE, on_refused=lambda *_: None, on_connected=self.follower.connected
        )

    def _news(self) -> None:
        self.news += 1

    @property
    def hash(self) -> str:
        return self.told[-1].hash if self.told else ""


@pytest.fixture
async def node(broker: NodeBroker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(configuration, "_AGAIN_S", 0.1)
    node = Node(broker)
    publishing = asyncio.create_task(node.publisher.run())
    yield node
    await node.follower.close()
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    assert "ermissions" not in node.publisher.last_error


async def test_a_configuration_is_read_at_the_start_and_followed(broker: NodeBroker, node: Node) -> None:
    first, second = config_of(policy("a")), config_of(policy("a"), policy("b"))
    await until(lambda: node.publisher.connected, "connected")
    assert node.told == []
    for config in (first, second, first, NodeConfig()):
        await broker.configure(config)
        await until(lambda: node.hash == config.hash, "the configuration")  # noqa: B023 - awaited at once
        assert node.told[-1].config == config
    assert node.follower.trouble == ("", "")


async def test_what_cannot_be_run_leaves_the_former_and_says_why(broker: NodeBroker, node: Node) -> None:
    good = config_of(policy("good"))
    await broker.configure(good)
    await until(lambda: node.hash == good.hash, "the configuration")
    key = subjects.node_config(NODE)
    large = config_of(policy("x" * MAX_BYTES))
    broken = b'{"policies": 1}'
    await broker.put(subjects.CONFIGS_BUCKET, "c0ffee", broken)
    for pointer, message in (
        (b"no json", "not a pointer to a configuration"),
        (NodePointer("daemoneye_nodes.>").encode(), "is no hash"),
        (NodePointer(good.hash, "node.2").encode(), "not a pointer of this node: it is 'node.2''s"),
        (NodePointer("ab" * 16).encode(), "is not in the bucket daemoneye_configs"),
        (NodePointer("c0ffee").encode(), "other bytes than its name says"),
    ):
        await broker.put(subjects.NODES_BUCKET, key, pointer)
        await until(lambda: message in node.follower.trouble[1], message)  # noqa: B023 - awaited at once
        assert node.follower.trouble[0] == "BadConfiguration"
        assert "the former configuration goes on" in node.follower.trouble[1]
    assert len(large.encode()) > MAX_BYTES  # which the bucket does not take in the first place
    with pytest.raises(nats.errors.Error):
        await broker.configure(large)
    assert node.hash == good.hash
    better = config_of(policy("better"))
    await broker.configure(better)
    await until(lambda: node.hash == better.hash, "the next good one")
    await until(lambda: node.follower.trouble == ("", ""), "the trouble is over")


async def test_a_configuration_that_comes_after_its_pointer_is_taken(broker: NodeBroker, node: Node) -> None:
    config = config_of(policy("late"))
    await broker.put(subjects.NODES_BUCKET, subjects.node_config(NODE), NodePointer(config.hash).encode())
    await until(lambda: node.follower.trouble[0], "the absence is said")
    await broker.put(subjects.CONFIGS_BUCKET, config.hash, config.encode())
    await until(lambda: node.hash == config.hash, "the configuration")


async def test_a_refused_configuration_is_fetched_once(broker: NodeBroker, node: Node) -> None:
    bad = replace(config_of(policy("strange")), kernel={"enable_ebpf": True, "events": ["process_exec"]})
    good = config_of(policy("good"))
    places = {
        "pointer": subjects.direct_get(subjects.NODES_BUCKET, subjects.node_config(NODE)),
        "bad": subjects.direct_get(subjects.CONFIGS_BUCKET, bad.hash),
    }
    asked = dict.fromkeys(places, 0)

    async def count(message: Msg) -> None:
        asked[next(what for what, subject in places.items() if subject == message.subject)] += 1

    for subject in places.values():
        await broker.client.subscribe(subject, cb=count)
    await until(lambda: node.publisher.connected, "connected")
    await broker.configure(bad)
    await until(lambda: "cannot be run by this release" in node.follower.trouble[1], "the refusal")
    for _ in range(3):  # with every connection everything is read again
        before, connection = asked["pointer"], node.publisher._client
        assert connection
        await connection.close()
        await until(lambda: asked["pointer"] > before, "the pointer is read again")  # noqa: B023 - awaited at once
    await broker.configure(good)
    await until(lambda: node.hash == good.hash, "the next configuration")
    await until(lambda: node.follower.trouble == ("", ""), "the trouble is over")
    await broker.configure(bad)
    await until(lambda: "cannot be run by this release" in node.follower.trouble[1], "the refusal is said again")
    assert asked["bad"] == 1
    assert node.hash == good.hash


async def test_what_changes_without_a_connection_is_read_with_the_next(broker: NodeBroker, node: Node) -> None:
    first, second = config_of(policy("first")), config_of(policy("second"))
    await broker.configure(first)
    await broker.pod(POD, PodIdentity("ns", "pod", POD, labels={"a": "1"}))
    await until(lambda: node.hash == first.hash, "the configuration")
    node.pods.ask(POD)
    await until(lambda: node.pods.get(POD), "the pod")
    # A moment without the sensor's subscription: its connection is cut, and everything is changed before it comes back.
    connection = node.publisher._client
    assert connection
    await connection.close()
    await broker.configure(second)
    await broker.pod(POD, PodIdentity("ns", "pod", POD, labels={"a": "2"}))
    await until(lambda: node.hash == second.hash, "the new configuration")
    await until(lambda: (pod := node.pods.get(POD)) and pod.labels == {"a": "2"}, "the pod's new labels")


async def test_a_pointer_that_goes_silences_nobody(broker: NodeBroker, node: Node) -> None:
    config = config_of(policy("a"))
    await broker.configure(config)
    await until(lambda: node.hash == config.hash, "the configuration")
    await broker.put(subjects.NODES_BUCKET, subjects.node_config(NODE), b"", {"KV-Operation": "DEL"})
    other = config_of(policy("b"))
    await broker.configure(other)
    await until(lambda: node.hash == other.hash, "the next configuration")
    assert [told.hash for told in node.told] == [config.hash, other.hash]


async def test_pods_are_followed_and_fetched(broker: NodeBroker, node: Node) -> None:
    await broker.pod(POD, PodIdentity("ns", "before", POD))
    await until(lambda: node.publisher.connected, "connected")
    assert not Pods().ask(POD), "nobody answers"
    assert node.pods.ask(POD)
    await until(lambda: node.pods.get(POD), "the pod that was there")
    assert node.news
    await broker.pod(STATIC, PodIdentity("ns", "after", "u", owner_kind="Node"))
    await until(lambda: node.pods.get(STATIC), "the pod that came")
    await broker.put(subjects.NODES_BUCKET, subjects.node_pod(NODE, "bad"), b"{")
    await broker.pod("anothers", PodIdentity("ns", "before", POD))
    await broker.no_pod(POD)
    await until(lambda: node.pods.living() == [STATIC], "the pod that went")
    assert node.pods.get(POD), "its last events are still to come"
    assert node.pods.get("bad") is None
    assert node.pods.get("anothers") is None, "a document about another pod"


async def test_the_role_may_do_this_and_nothing_more(broker: NodeBroker) -> None:
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    access = replace(broker.access, inbox_suffix=subjects.escape_node(NODE))
    client = await nats.connect(**access.options(), allow_reconnect=False, error_cb=note)
    try:
        foreign = [
            subjects.direct_get(subjects.NODES_BUCKET, subjects.node_config("other")),
            subjects.key_value(subjects.NODES_BUCKET, subjects.node_config(NODE)),
            subjects.key_value(subjects.CONFIGS_BUCKET, "ab"),
            subjects.status("other"),
            subjects.events(0, "other", "urgent"),
            "$JS.API.STREAM.INFO.KV_daemoneye_nodes",
            "$JS.API.CONSUMER.CREATE.KV_daemoneye_nodes",
        ]
        for subject in foreign:
            await client.publish(subject, b"{}")
        await client.subscribe(subjects.key_value(subjects.NODES_BUCKET, "other.>"))
        await client.subscribe(subjects.status(NODE))
        await client.subscribe("_INBOX_sensor.other.>")
        await client.flush()
        await until(lambda: len(errors) == len(foreign) + 3, f"each is refused: {errors}")
        assert await values.read(client, subjects.NODES_BUCKET, subjects.node_config(NODE)) is None
    finally:
        await client.close()


async def test_a_sensor_without_anything_to_do_says_so_and_answers_at_once(broker: NodeBroker, tmp_path: Path) -> None:
    sensor = Sensor(tmp_path, broker, f"test-{os.getpid()}-idle", status_interval_s=60)
    await sensor.start()
    try:
        await until(lambda: broker.heartbeats, "the first heartbeat")
        status = broker.heartbeats[-1][1]
        assert (status["state"], status["version"] != "", status["node"]) == ("ready", True, NODE)
        assert NodeAnswer.from_json(status["config"]) == NodeAnswer(programs=True)
        quiet = {"kernel": {"enable_ebpf": False}}
        capture = {"enable_packet_capture": True, "capture_filter": "port http or"}
        config, seconds = NodeConfig(), list[float]()
        for generation in range(1, 4):
            config = config_of(policy("quiet", generation=generation, network=capture, **quiet))
            begun = time.monotonic()
            await broker.configure(config)
            answer = await broker.answered(config)
            seconds.append(broker.heartbeats[-1][0] - begun)
            assert [(p.generation, p.state, p.reason) for p in answer.policies] == [
                (generation, "Refused", "BadFilter")
            ]
            assert "syntax error" in answer.policies[0].message
        assert min(seconds) < 30, "it does not wait for the next heartbeat, which is a minute away"
        capturing = {"enable_packet_capture": True}
        config = config_of(policy("lost", pod_selector={"matchExpressions": "none"}, network=capturing, **quiet))
        await broker.configure(config)
        (lost,) = (await broker.answered(config)).policies
        assert (lost.state, lost.reason) == ("Refused", "InvalidSpec")
        assert "its selectors cannot be used here" in lost.message
        await broker.put(subjects.NODES_BUCKET, subjects.node_config(NODE), b"nonsense")
        await until(lambda: broker.answer.problem[0] == "BadConfiguration", "the problem")
        assert broker.answer.hash == config.hash
        # A newer operator's document, whole and with the right name, of which this release cannot run a part.
        strange = replace(config, kernel={"enable_ebpf": True, "events": ["process_exec"]})
        odd = config_of(policy("odd", network={"enable_packet_capture": True, "max_packet_size": "whole"}))
        for skewed, message in ((strange, "kernel: "), (odd, "policy 'odd': ")):
            await broker.configure(skewed)
            await until(lambda: message in broker.answer.problem[1], f"the problem with {message}")  # noqa: B023 - awaited at once
            assert broker.answer.problem[0] == "BadConfiguration"
            assert "the former configuration goes on" in broker.answer.problem[1]
            assert broker.answer.hash == config.hash
            assert sensor.returncode is None
        assert broker.heartbeats[-1][1]["source"] == {"name": "ebpf"}, "no program was loaded for this"
        leave = NodeConfig(remove=True)
        await broker.configure(leave)
        await until(lambda: broker.heartbeats[-1][1]["state"] == "removed", "it leaves")
        assert not sensor.state.exists()
        assert await sensor.stop() == 0
        assert broker.heartbeats[-1][1]["state"] == "removed"
    finally:
        await sensor.stop()
