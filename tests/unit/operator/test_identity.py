"""The identity publisher between an API server that a test moves and a real broker. tests/cluster/test_identity.py has a real API server, too."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client.parser import text_string_to_metric_families

from daemoneye import metrics, subjects
from daemoneye.broker import values
from daemoneye.broker.admin import ensure_streams
from daemoneye.podidentity import PodIdentity
from daemoneye.streams import buckets
from daemoneye_operator import identity, sight, watch
from daemoneye_operator.identity import publisher as module
from daemoneye_operator.settings import OperatorSettings
from tests.support.broker import Broker, heard, running, until
from tests.support.kubeapi import OBJECTS, KubeApi, serving
from tests.support.ports import free_ports

PODS, NAMESPACES = OBJECTS["pods"], OBJECTS["namespaces"]
NODE = "node-1.example"
FILE = "c0ffee00" * 4
DEADLINE_S = 60.0


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with serving() as api:
        api.put(NAMESPACES, "shop", metadata={"labels": {"team": "red"}})
        yield api


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(module, "GRACE_S", 0.3)
    monkeypatch.setattr(module, "_LOOK_S", 0.2)
    with running(tmp_path) as broker:
        await broker.ready()
        await make_bucket(broker)
        yield broker


async def make_bucket(broker: Broker) -> None:
    client = await broker.connect("operator")
    await ensure_streams(client.jetstream(timeout=20), buckets())
    await client.close()


def pod(api: KubeApi, name: str, uid: str | None = None, node: str = NODE, **metadata: Any) -> str:
    """Put a pod; its key."""
    uid = uid or f"uid-{name}"
    spec = {"nodeName": node, "serviceAccountName": "sa", "containers": [{"name": "main", "image": "img:1"}]}
    api.put(PODS, name, "shop", metadata={"uid": uid, **metadata}, spec=spec)
    return subjects.node_pod(node, uid)


def static_pod(api: KubeApi, name: str, uid: str, **metadata: Any) -> str:
    """Put a static pod's mirror, as its kubelet does; its key."""
    annotations = {"kubernetes.io/config.hash": FILE, "kubernetes.io/config.mirror": FILE}
    owners = [{"kind": "Node", "name": NODE, "controller": True}]
    pod(api, name, uid, annotations=annotations, ownerReferences=owners, **metadata)
    return subjects.node_pod(NODE, FILE)


class Follower:
    """What every node's sensor would hear: what was put, in order."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: list[tuple[str, bytes | None]] = []

    @classmethod
    async def of(cls, broker: Broker) -> Follower:
        self = cls(await broker.onlooker(allow_reconnect=True, max_reconnect_attempts=-1))
        await self.client.subscribe(subjects.key_value(subjects.NODES_BUCKET, "*.>"), cb=self._note)
        await heard(self.client)
        return self

    async def _note(self, message: Msg) -> None:
        key = message.subject.removeprefix(subjects.key_value(subjects.NODES_BUCKET, ""))
        self.heard.append((key, values.value(message)))

    def of_key(self, key: str) -> list[bytes | None]:
        return [value for heard, value in self.heard if heard == key]

    async def value(self, key: str) -> PodIdentity | None:
        """What the bucket holds; asked again where the broker came back a moment ago and this connection has not yet."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with suppress(nats.errors.Error):
                    data = await values.read(self.client, subjects.NODES_BUCKET, key)
                    return None if data is None else PodIdentity.decode(data)


@pytest.fixture
async def sensor(broker: Broker) -> AsyncIterator[Follower]:
    follower = await Follower.of(broker)
    yield follower
    await follower.client.close()


@asynccontextmanager
async def publishing(broker: Broker, api: KubeApi) -> AsyncIterator[OperatorSettings]:
    settings = broker.settings.model_copy(update={"health_port": free_ports(1)[0]})
    stop = asyncio.Event()
    client = api.client()
    task = asyncio.create_task(identity.serve(settings, broker.access("identity"), client, stop))
    try:
        yield settings
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
        client.close()


async def says(settings: OperatorSettings, path: str) -> tuple[int, dict[str, Any]]:
    def ask() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{settings.health_port}{path}", timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, {}

    return await asyncio.to_thread(ask)


async def ready(settings: OperatorSettings) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (answer := await says(settings, "/readyz"))[0] != 200:
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.05)


async def test_a_pods_life(broker: Broker, api: KubeApi, sensor: Follower):
    async with publishing(broker, api) as settings:
        await ready(settings)
        assert (await says(settings, "/healthz"))[0] == 200
        key = pod(api, "cart-1", labels={"app": "cart"})
        await until("the document", lambda: sensor.of_key(key))
        assert await sensor.value(key) == PodIdentity(
            "shop", "cart-1", "uid-cart-1", "Pod", "cart-1", "sa", {"app": "cart"}, {"team": "red"}, {"main": "img:1"}
        )

        pod(api, "cart-1", labels={"app": "cart", "tier": "front"})
        await until("its new label", lambda: len(sensor.of_key(key)) == 2)
        api.put(NAMESPACES, "shop", metadata={"labels": {"team": "blue"}})
        await until("its namespace's new label", lambda: len(sensor.of_key(key)) == 3)
        changed = await sensor.value(key)
        assert changed is not None
        assert (changed.labels, changed.namespace_labels) == ({"app": "cart", "tier": "front"}, {"team": "blue"})

        # What a sensor does not read is not written: only what follows it is heard.
        api.put(NAMESPACES, "shop", metadata={"labels": {"team": "blue"}}, status={"phase": "Active"})
        pod(api, "cart-1", labels={"app": "cart", "tier": "front"}, annotations={"checked": "yes"})
        api.take(PODS, "cart-1", "shop")
        await until("the removal", lambda: None in sensor.of_key(key))
        assert len(sensor.of_key(key)) == 4
        await nothing_left(broker)


async def nothing_left(broker: Broker) -> None:
    client = await broker.connect("operator")
    deadline = time.monotonic() + DEADLINE_S
    while (info := await client.jetstream().stream_info(f"KV_{subjects.NODES_BUCKET}")).state.messages:
        assert time.monotonic() < deadline, f"{info.state.messages} messages are left"
        await asyncio.sleep(0.05)
    await client.close()


async def test_a_pod_that_is_gone_stays_known_for_its_last_events(
    broker: Broker, api: KubeApi, sensor: Follower, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "GRACE_S", 60.0)
    first = pod(api, "short-lived")
    async with publishing(broker, api) as settings:
        await ready(settings)
        await until("the document", lambda: sensor.of_key(first))
        api.take(PODS, "short-lived", "shop")
        later = pod(api, "later")
        await until("what comes after the deletion", lambda: sensor.of_key(later))
        assert await sensor.value(first) is not None


async def test_a_static_pod_that_is_made_anew_keeps_its_key(
    broker: Broker, api: KubeApi, sensor: Follower, monkeypatch: pytest.MonkeyPatch
):
    # Within it the second follows the first, however busy the machine is.
    monkeypatch.setattr(module, "GRACE_S", 2.0)
    key = static_pod(api, "etcd", "uid-1")
    async with publishing(broker, api) as settings:
        await ready(settings)
        await until("the document", lambda: sensor.of_key(key))
        with api.changed:
            api.take(PODS, "etcd", "shop")
            static_pod(api, "etcd", "uid-2")
        gone = pod(api, "gone")
        await until("the second", lambda: len(sensor.of_key(key)) == 2 and sensor.of_key(gone))
        api.take(PODS, "gone", "shop")
        # The other's removal comes when this one's would have come, and after it.
        await until("the other's removal", lambda: None in sensor.of_key(gone))
        assert None not in sensor.of_key(key)
        found = await sensor.value(key)
        assert found is not None
        assert found.uid == "uid-2"


async def test_a_tenants_pod_takes_no_other_pods_document(broker: Broker, api: KubeApi, sensor: Follower):
    victim, static = pod(api, "victim"), static_pod(api, "etcd", "uid-etcd")
    async with publishing(broker, api) as settings:
        await ready(settings)
        await until("both", lambda: sensor.of_key(victim) and sensor.of_key(static))
        own = pod(api, "annotated", annotations={"kubernetes.io/config.hash": "uid-victim"})
        await until("its own document", lambda: sensor.of_key(own))
        # Who forges all that a kubelet says of a static pod comes too late for its key, and his end ends nobody else.
        static_pod(api, "forged", "uid-forged")
        static_pod(api, "etcd", "uid-etcd", labels={"new": "label"})
        await until("the static pod's new label", lambda: len(sensor.of_key(static)) == 2)
        api.take(PODS, "forged", "shop")
        api.take(PODS, "annotated", "shop")
        await until("the other's removal", lambda: None in sensor.of_key(own))
        assert len(sensor.of_key(victim)) == 1
        assert [PodIdentity.decode(value or b"").name for value in sensor.of_key(static)] == ["etcd", "etcd"]
        # And where it came first, the other has its key when it is gone.
        static_pod(api, "late", "uid-late")
        api.take(PODS, "etcd", "shop")
        await until("the heir's document", lambda: len(sensor.of_key(static)) == 3)
        found = await sensor.value(static)
        assert found is not None
        assert found.name == "late"
        api.take(PODS, "late", "shop")
        await until("its removal", lambda: sensor.of_key(static)[-1] is None)


async def test_a_restart_writes_what_changed_and_removes_what_is_gone(broker: Broker, api: KubeApi, sensor: Follower):
    same, other, gone = pod(api, "same"), pod(api, "other"), pod(api, "gone")
    async with publishing(broker, api) as settings:
        await ready(settings)
        await until("all", lambda: len(sensor.heard) == 3)
    pod(api, "other", labels={"new": "label"})
    api.take(PODS, "gone", "shop")
    new = pod(api, "new")
    async with publishing(broker, api) as settings:
        await ready(settings)
        await until("the removal", lambda: None in sensor.of_key(gone))
        await until("the others", lambda: len(sensor.of_key(other)) == 2 and sensor.of_key(new))
    assert len(sensor.of_key(same)) == 1, "what is the same is not written again"


async def test_a_broker_that_lost_everything_gets_everything_again(broker: Broker, api: KubeApi, sensor: Follower):
    keys = [pod(api, f"pod-{i}") for i in range(20)]
    async with publishing(broker, api) as settings:
        await ready(settings)
        await until("all", lambda: len(sensor.heard) == 20)
        broker.stop()
        shutil.rmtree(broker.directory / "data-0")
        broker.start()
        await broker.ready()
        during = pod(api, "during")
        await make_bucket(broker)
        deadline = time.monotonic() + DEADLINE_S
        while missing := [key for key in [*keys, during] if await sensor.value(key) is None]:
            assert time.monotonic() < deadline, missing
            await asyncio.sleep(0.1)
        await ready(settings)


async def test_a_broker_that_is_late_is_waited_for(tmp_path: Path, api: KubeApi):
    key = pod(api, "early")
    with running(tmp_path) as broker:
        broker.stop()
        async with publishing(broker, api) as settings:
            deadline = time.monotonic() + DEADLINE_S
            while not (answer := await says(settings, "/readyz"))[1].get("pods"):
                assert time.monotonic() < deadline, answer
                await asyncio.sleep(0.05)
            assert answer[0] == 503
            assert not answer[1]["broker"]
            broker.start()
            await broker.ready()
            await make_bucket(broker)
            await ready(settings)
            sensor = await Follower.of(broker)
            deadline = time.monotonic() + DEADLINE_S
            while await sensor.value(key) is None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            await sensor.client.close()


async def test_a_pod_whose_namespace_is_not_known_yet_waits_for_its_labels(
    broker: Broker, api: KubeApi, sensor: Follower
):
    api.take(NAMESPACES, "shop")
    async with publishing(broker, api) as settings:
        await ready(settings)
        key = pod(api, "first")
        await asyncio.sleep(0)
        api.put(NAMESPACES, "shop", metadata={"labels": {"team": "green"}})
        await until("the document", lambda: sensor.of_key(key))
        documents = [PodIdentity.decode(value or b"") for value in sensor.of_key(key)]
        assert [document.namespace_labels for document in documents] == [{"team": "green"}]


async def page(settings: OperatorSettings) -> dict[str, dict[str, float]]:
    """Values by metric and label."""

    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.health_port}/metrics", timeout=30) as answer:
            return answer.read().decode()

    families = text_string_to_metric_families(await asyncio.to_thread(ask))
    return {s.name: {",".join(s.labels.values()): s.value for s in f.samples} for f in families for s in f.samples}


async def test_the_page_is_what_is_declared(broker: Broker, api: KubeApi, sensor: Follower):
    async with publishing(broker, api) as settings:
        await ready(settings)
        key = pod(api, "cart-1")
        await until("the document", lambda: sensor.of_key(key))
        deadline = time.monotonic() + DEADLINE_S
        while (told := await page(settings))[metrics.IDENTITY_WRITES.name][""] != 1:
            assert time.monotonic() < deadline
        assert told.keys() == {m.name for m in metrics.ALL.values() if m.component in ("", "identity")}
        assert told[metrics.IDENTITY_PODS.name] == {"": 1}
        assert told[metrics.IDENTITY_NAMESPACES.name] == {"": 1}
        assert told[metrics.IDENTITY_BACKLOG.name] == {"": 0}
        assert told[metrics.BROKER_CONNECTED.name] == {"identity": 1}
        assert told[metrics.IDENTITY_WATCH.name].keys() == {"pods", "namespaces"}
        broker.stop()
        deadline = time.monotonic() + DEADLINE_S
        while (await page(settings))[metrics.BROKER_CONNECTED.name]["identity"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.fixture
def _quick_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    # One watch may come back that much later than the other, and is not blind yet.
    monkeypatch.setattr(sight, "WATCH_S", 4.0)
    monkeypatch.setattr(sight, "_FRESH_S", 0.5)
    monkeypatch.setattr(identity, "_ASK_S", 0.1)
    monkeypatch.setattr(watch, "_LONGEST_WAIT_S", 0.1)


@pytest.mark.usefixtures("_quick_to_judge")
async def test_a_blind_watch_fails_the_liveness_probe(broker: Broker, api: KubeApi):
    async with publishing(broker, api) as settings:
        await ready(settings)
        api.blind.add(PODS)
        deadline = time.monotonic() + DEADLINE_S
        while (answer := await says(settings, "/healthz"))[0] == 200:
            assert time.monotonic() < deadline
            api.put(NAMESPACES, "shop", metadata={"labels": {"team": "red"}})  # as a bookmark would, for that watch
            await asyncio.sleep(0.05)
        status, said = answer
        assert status == 503
        assert said["blind"].startswith("pods: nothing for ")
        assert "namespaces" not in said["blind"]
        api.blind.clear()
        pod(api, "cart-1")
        while (await says(settings, "/healthz"))[0] != 200:
            assert time.monotonic() < deadline + DEADLINE_S
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("_quick_to_judge")
async def test_an_api_server_that_is_away_ends_nobody(broker: Broker, api: KubeApi, sensor: Follower):
    async with publishing(broker, api) as settings:
        await ready(settings)
        api.away = True
        api.drop()
        away = time.monotonic()
        while time.monotonic() - away < 2 * sight.WATCH_S:
            assert await says(settings, "/healthz") == (200, {"ok": True})
            await asyncio.sleep(0.1)
        api.away = False
        key = pod(api, "cart-1")
        await until("the document", lambda: sensor.of_key(key))
        assert await says(settings, "/healthz") == (200, {"ok": True})
