"""The identity publisher on a real API server, with the rights that the chart gives it, and a real broker beside."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.broker.admin import ensure_streams
from daemoneye.podidentity import PodIdentity
from daemoneye.streams import buckets
from daemoneye_operator import identity
from daemoneye_operator.identity import publisher as module
from tests.cluster.harness import binaries, configs
from tests.cluster.harness.cluster import NODE, PAUSE, Cluster
from tests.cluster.release import namespace_of_tests, wait
from tests.support.broker import Broker, heard, running
from tests.support.ports import free_ports

pytestmark = pytest.mark.cluster
NAMESPACE = "identity-test"
ACCOUNT = "identity-test"
RULES = [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}]


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[kubernetes.client.ApiClient]:
    """A client that may no more than the publisher's service account."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    rbac = "rbac.authorization.k8s.io/v1"
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": ACCOUNT}, "rules": RULES},
        {
            "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT}, "roleRef": role, "subjects": [subject],
        },
    ]  # fmt: skip
    configuration = kubernetes.client.Configuration()
    configuration.host = cluster.server
    configuration.ssl_ca_cert = str(cluster.state / "pki" / "ca.crt")
    with namespace_of_tests(cluster, NAMESPACE, {"team": "red"}):
        cluster.apply("\n---\n".join(map(json.dumps, objects)))
        token = cluster.kubectl("create", "token", ACCOUNT, "--namespace", NAMESPACE)
        configuration.api_key = {"BearerToken": f"Bearer {token.strip()}"}
        client = kubernetes.client.ApiClient(configuration)
        yield client
        client.close()
    cluster.kubectl("delete", f"clusterrolebinding/{ACCOUNT}", f"clusterrole/{ACCOUNT}")


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(module, "GRACE_S", 1.0)
    with running(tmp_path) as broker:
        await broker.ready()
        client = await broker.connect("operator")
        await ensure_streams(client.jetstream(timeout=20), buckets())
        await client.close()
        yield broker


class Sensor:
    """What the node's sensor reads."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.known: dict[str, PodIdentity] = {}
        self.messages = 0

    async def note(self, message: Any) -> None:
        self.messages += 1
        key = message.subject.rpartition(".")[2]
        data = values.value(message)
        if data is None:
            self.known.pop(key, None)
        else:
            self.known[key] = PodIdentity.decode(data)

    def named(self, name: str) -> PodIdentity | None:
        """What it knows of the pod whose name begins so."""
        return next((pod for pod in self.known.values() if pod.name.startswith(name)), None)

    async def until(self, what: str, condition: Callable[[], Any], seconds: float = 180.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; known: {self.known}"
            await asyncio.sleep(0.02)
        return value


@asynccontextmanager
async def listening(broker: Broker) -> AsyncIterator[Sensor]:
    sensor = Sensor(await broker.onlooker())
    prefix = subjects.key_value(subjects.NODES_BUCKET, f"{subjects.escape_node(NODE)}.pod.*")
    await sensor.client.subscribe(prefix, cb=sensor.note)
    await heard(sensor.client)
    yield sensor
    await sensor.client.close()


@asynccontextmanager
async def publishing(broker: Broker, api: kubernetes.client.ApiClient) -> AsyncIterator[None]:
    settings = broker.settings.model_copy(update={"health_port": free_ports(1)[0]})
    stop = asyncio.Event()
    task = asyncio.create_task(identity.serve(settings, broker.access("identity"), api, stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


def deployment(name: str, **labels: str) -> str:
    labels = {"app": name, **labels}
    container = {"name": "main", "image": PAUSE, "imagePullPolicy": "Never"}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    return json.dumps(
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
    )  # fmt: skip


async def apply(cluster: Cluster, *arguments: str, text: str | None = None) -> None:
    await asyncio.to_thread(lambda: cluster.kubectl(*arguments, input=text))


async def test_a_deployments_pod_from_its_binding_to_its_end(
    cluster: Cluster, api: kubernetes.client.ApiClient, broker: Broker
):
    async with listening(broker) as sensor, publishing(broker, api):
        # Pods that were there before come as well.
        await sensor.until("CoreDNS", lambda: sensor.named("coredns"))
        await apply(cluster, "apply", "--server-side", "-f", "-", text=deployment("cart", tier="front"))
        pod = await sensor.until("the pod", lambda: sensor.named("cart-"))
        seen = time.time()
        assert (pod.namespace, pod.owner_kind, pod.owner_name) == (NAMESPACE, "Deployment", "cart")
        assert pod.workload("main") == f"{NAMESPACE}/Deployment/cart/main"
        assert pod.labels["tier"] == "front"
        assert pod.namespace_labels["team"] == "red"
        assert pod.images == {"main": PAUSE}
        assert pod.service_account == "default"
        value = await asyncio.to_thread(cluster.get, "pod", pod.name, NAMESPACE)
        assert value["metadata"]["uid"] == pod.uid
        scheduled = next(c for c in value["status"]["conditions"] if c["type"] == "PodScheduled")
        assert seen - _seconds(scheduled["lastTransitionTime"]) < 10.0, "seconds, and times of the API are whole ones"

        await apply(cluster, "label", "pod", pod.name, "--namespace", NAMESPACE, "colour=blue")
        await sensor.until("its label", lambda: (sensor.named("cart-") or pod).labels.get("colour") == "blue")
        await apply(cluster, "label", "namespace", NAMESPACE, "team=blue", "--overwrite")
        await sensor.until("its namespace's", lambda: (sensor.named("cart-") or pod).namespace_labels["team"] == "blue")

        await apply(cluster, "delete", "deployment", "cart", "--namespace", NAMESPACE)
        await sensor.until("its removal", lambda: sensor.named("cart-") is None)


async def test_a_restart_converges_and_writes_nothing_twice(
    cluster: Cluster, api: kubernetes.client.ApiClient, broker: Broker
):
    await apply(cluster, "apply", "--server-side", "-f", "-", text=deployment("stays"))
    await apply(cluster, "apply", "--server-side", "-f", "-", text=deployment("goes"))
    async with listening(broker) as sensor:
        async with publishing(broker, api):
            await sensor.until("all", lambda: all(map(sensor.named, ("stays-", "goes-", "coredns"))))
        await apply(cluster, "delete", "deployment", "goes", "--namespace", NAMESPACE)
        gone = ["wait", "--for=delete", "pod", "--selector=app=goes", "--namespace", NAMESPACE, "--timeout=180s"]
        await apply(cluster, *gone)
        await apply(cluster, "apply", "--server-side", "-f", "-", text=deployment("new"))
        before = sensor.messages
        async with publishing(broker, api):
            await sensor.until("the new", lambda: sensor.named("new-"))
            await sensor.until("the removal", lambda: sensor.named("goes-") is None)
        assert sensor.named("stays-")
        # The new pod, and the one that went; a pod may be told twice while it is being made.
        assert sensor.messages - before <= 4
    await apply(cluster, "delete", "deployment", "stays", "new", "--namespace", NAMESPACE)


async def test_an_api_server_that_restarts_is_found_again(
    cluster: Cluster, api: kubernetes.client.ApiClient, broker: Broker
):
    async with listening(broker) as sensor, publishing(broker, api):
        await sensor.until("CoreDNS", lambda: sensor.named("coredns"))
        await asyncio.to_thread(_restart, cluster)
        await apply(cluster, "apply", "--server-side", "-f", "-", text=deployment("after"))
        await sensor.until("a pod that came after", lambda: sensor.named("after-"))
        assert sensor.named("coredns"), "nothing was forgotten meanwhile"
    await apply(cluster, "delete", "deployment", "after", "--namespace", NAMESPACE)


def _restart(cluster: Cluster) -> None:
    programs = {name: binaries.tool(name) for name in binaries.KUBERNETES}
    cluster.processes.end("kube-apiserver")
    cluster.processes.start("kube-apiserver", configs.control_plane(cluster, programs)["kube-apiserver"])
    wait("API server", lambda: cluster.kubectl("get", "--raw", "/readyz") == "ok")
    # These two end when they lose the API server, as in any cluster where something starts them again.
    for name in ("kube-controller-manager", "kube-scheduler"):
        if not cluster.processes.running(name):
            cluster.processes.start(name, configs.control_plane(cluster, programs)[name])


def _seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()
