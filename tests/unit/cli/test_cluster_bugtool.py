"""``kubectl daemoneye bugtool`` and ``top``: from a kubectl that answers from files and a real broker, secrets planted wherever a cluster has some."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemoneye import subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.streams import buckets, declared
from daemoneye_cli.clusterbundle import logs
from daemoneye_cli.main import main
from tests.support.broker import Broker, running
from tests.unit.cli import planted
from tests.unit.cli.fakekubectl import Kubectl, finding, forwarded_to, pod, policy, started, told
from tests.unit.cli.heartbeat import heartbeat

pytestmark = pytest.mark.integration
HASH = "ab" * 16


@pytest.fixture
async def broker(tmp_path) -> AsyncIterator[Broker]:
    with running(tmp_path / "broker") as found:
        await found.ready()
        onlooker = await found.onlooker()
        streams = (*declared(events_max_bytes=64 << 20, findings_max_bytes=8 << 20), *buckets(nodes_max_bytes=8 << 20))
        await ensure_streams(onlooker.jetstream(timeout=10), streams)
        await onlooker.close()
        yield found


@pytest.fixture
def cluster(installed: Kubectl, broker: Broker) -> Kubectl:
    """An installation whose objects, Events and logs hold secrets."""
    forwarded_to(installed, broker)
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(planted.settings())}
    sensor = pod("sensor", "node-1")
    sensor["metadata"] |= {"annotations": annotations, "managedFields": [{"manager": "x"}]}
    environment = [
        {"name": "BROKER_PASSWORD", "value": planted.SECRETS["password"]},
        {"name": "NODE", "value": "node-1"},
    ]
    arguments = ["--client-secret", planted.SECRETS["option"]]
    sensor["spec"]["containers"] = [{"name": "sensor", "env": environment, "args": arguments}]
    sensor["status"]["containerStatuses"][0]["restartCount"] = 2
    installed.lists("get pods --namespace security*", sensor, pod("operator"))
    config = {
        "kind": "ConfigMap",
        "metadata": {"name": "eye"},
        "data": {"a.json": json.dumps(planted.settings()), "b.log": planted.log()},
    }
    installed.lists(
        "get configmaps --namespace security*",
        config,
        {"apiVersion": "v1", "kind": "Secret", "data": {"x": planted.SECRETS["token"]}},
    )
    for kind in ("replicasets.apps", "jobs.batch", "services", "serviceaccounts", "persistentvolumeclaims"):
        installed.lists(f"get {kind} --namespace security*")
    for kind in ("deployments.apps", "statefulsets.apps", "daemonsets.apps"):
        installed.lists(
            f"get {kind} --namespace security --selector app.kubernetes.io/name=daemoneye,app.kubernetes.io/instance=eye *",
            sensor,
        )
    installed.fails(
        "get networkpolicies*",
        'Error from server (Forbidden): networkpolicies is forbidden: User "me" cannot list resource',
    )
    installed.lists("get leases*")
    installed.lists("get events --namespace security -o json", {"metadata": {"name": "e"}, "message": planted.log()})
    installed.lists("get federationpeers*", {"metadata": {"name": "peer"}, "spec": planted.settings()})
    installed.lists("get detectionexceptions*")
    installed.lists("get daemoneyepolicies*", policy("everything", captureFilter=planted.log()))
    installed.lists("get findings.daemoneye.io --all-namespaces -o json", leaky_finding())
    installed.gives("logs *", stdout=planted.log())
    return installed


def leaky_finding() -> dict[str, Any]:
    found = finding("fileless-1", explanation=[f"It was told {planted.ARGUMENT}."])
    found["spec"]["subject"]["argv"] = ["till", planted.ARGUMENT, "--client-secret", planted.SECRETS["option"]]
    found["spec"]["processTree"].append({"pid": 2, "exe": "/bin/sh", "argv": ["sh", "-c", planted.ARGUMENT]})
    return found


@contextlib.asynccontextmanager
async def beating(broker: Broker) -> AsyncIterator[None]:
    """Heartbeats of two nodes and of the other parts, and what is configured in the KV buckets."""
    client = await broker.onlooker()
    stream = client.jetstream(timeout=10)
    document = {"policies": [{"name": "everything"}], **planted.settings()}
    await stream.publish(subjects.key_value(subjects.CONFIGS_BUCKET, HASH), json.dumps(document).encode())
    await stream.publish(
        subjects.key_value(subjects.NODES_BUCKET, subjects.node_config("node-1")), json.dumps({"config": HASH}).encode()
    )

    async def beat() -> None:
        moment = 0
        while True:
            moment += 1
            for node, share in (("node-1", 0.002), ("node-2", 0.2)):
                said = heartbeat(moment, cpu=share * moment, wakeups=4 * moment, events=100 * moment)
                said["error"] = f"broker: nats://u:{planted.SECRETS['userinfo']}@host refused {planted.SECRETS['jwt']}"
                await client.publish(subjects.status(node), json.dumps(said).encode())
            for component in ("analytics", "operator", "identity"):
                said = {"state": "running", "version": "0.1.0", "events": moment}
                await client.publish(subjects.component(component), json.dumps(said).encode())
            await asyncio.sleep(0.3)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


async def run(*arguments: str) -> tuple[int, str, str]:
    async with started(*arguments) as (process, _, _):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_everything_is_in_it_but_no_secret(cluster, broker, tmp_path):
    path = tmp_path / "report.tar.gz"
    async with beating(broker):
        status, out, err = await run("bugtool", "--output", str(path))
    assert status == 0, err
    entries = planted.found_in(path)
    assert {
        "versions/local.json", "versions/kubernetes.json", "cluster/nodes.jsonl", "cluster/crds.jsonl", "cluster/namespace.json",
        "resources/daemoneyepolicies.jsonl", "resources/federationpeers.jsonl", "resources/detectionexceptions.jsonl", "resources/findings.jsonl",
        "resources/newest-findings.jsonl", "objects/pods.jsonl", "objects/configmaps.jsonl", "objects/events.jsonl", "objects/deployments.jsonl",
        "objects/daemonsets.jsonl", "status.txt", "doctor.txt", "broker/heartbeats.jsonl", "broker/streams.jsonl", "broker/account.json",
        f"broker/configs/{HASH}.json", "broker/nodes.jsonl", "manifest.json",
    } <= set(entries)  # fmt: skip
    logs = sorted(name for name in entries if name.startswith("logs/"))
    assert logs == [
        "logs/eye-daemoneye-operator-node-1/operator.log",
        "logs/eye-daemoneye-sensor-node-1/sensor.log",
        "logs/eye-daemoneye-sensor-node-1/sensor.previous.log",
    ]
    assert b"INFO the first line" in entries[logs[0]]
    assert "all is ready" in entries["status.txt"].decode()
    lines = entries["broker/heartbeats.jsonl"].splitlines()
    heard = {one["name"]: one["heartbeat"] for one in map(json.loads, lines)}
    assert sorted(heard) == ["analytics", "identity", "node-1", "node-2", "operator"]
    assert heard["node-1"]["lost"] == {"ring": 12, "lease": 0, "spool": 5}
    (sensor, _) = (json.loads(line) for line in entries["objects/pods.jsonl"].splitlines())
    assert sensor["spec"]["containers"][0]["env"] == [
        {"name": "BROKER_PASSWORD", "value": "REDACTED"},
        {"name": "NODE", "value": "node-1"},
    ]
    assert "managedFields" not in sensor["metadata"]
    assert json.loads(entries[f"broker/configs/{HASH}.json"])["harmless"] == "stays"
    assert json.loads(entries["broker/nodes.jsonl"])["value"] == {"config": HASH}
    assert not [name for name, data in entries.items() if planted.ARGUMENT.encode() in data]
    own = broker.secrets.secrets["daemoneye-broker-cli"]["password"]
    assert not [name for name, data in entries.items() if own in data]
    manifest = json.loads(entries["manifest.json"])
    assert manifest["release"]["namespace"] == "security"
    assert manifest["arguments"] == "left out"
    assert [gap["what"] for gap in manifest["missing"]] == ["objects/networkpolicies.jsonl"]
    assert "cannot list resource" in manifest["missing"][0]["why"]
    assert "left out: objects/networkpolicies.jsonl" in err
    assert str(path) in out
    asked = [call for call in cluster.calls if any("secret" in word for word in call)]
    assert all("daemoneye-broker-cli" in call for call in asked), "the way to the broker, and no other Secret"


async def test_arguments_are_kept_when_that_is_asked_for_and_secrets_still_are_not(cluster, broker, tmp_path):
    path = tmp_path / "report.tar.gz"
    async with beating(broker):
        status, _, err = await run("bugtool", "--include-arguments", "--output", str(path))
    assert status == 0, err
    entries = planted.found_in(path)
    (kept,) = (json.loads(line) for line in entries["resources/newest-findings.jsonl"].splitlines())
    assert kept["spec"]["subject"]["argv"] == ["till", planted.ARGUMENT, "--client-secret", "REDACTED"]
    assert json.loads(entries["manifest.json"])["arguments"] == "included"


def test_who_may_see_little_gets_that_and_a_list_of_the_rest(kubectl, tmp_path, capsys):
    kubectl.fails(
        "get *", 'Error from server (Forbidden): things is forbidden: User "me" cannot list resource "things"'
    )
    kubectl.gives("version -o json", {"serverVersion": {"gitVersion": "v1.34.4"}})
    path = tmp_path / "report.tar.gz"
    assert main(["-k", "bugtool", "--output", str(path)]) == 0
    entries = planted.found_in(path)
    assert {"versions/kubernetes.json", "doctor.txt", "manifest.json"} <= set(entries)
    missing = {gap["what"]: gap["why"] for gap in json.loads(entries["manifest.json"])["missing"]}
    assert {"cluster/nodes.jsonl", "resources/findings.jsonl", "the installation's objects, logs and broker"} <= set(
        missing
    )
    assert "name the installation's namespace: -n NAMESPACE" in missing["the installation's objects, logs and broker"]
    assert "left out: cluster/nodes.jsonl" in capsys.readouterr().err


def test_a_broker_that_is_away_is_noted(installed, tmp_path):
    path = tmp_path / "report.tar.gz"
    assert main(["-k", "bugtool", "--output", str(path)]) == 0
    missing = {gap["what"]: gap["why"] for gap in json.loads(planted.found_in(path)["manifest.json"])["missing"]}
    assert "kubectl has no answer for" in missing["what the broker tells"]


def test_without_an_api_server_there_is_nothing_to_write(kubectl, tmp_path, capsys):
    kubectl.fails("version*", "The connection to the server localhost:8080 was refused")
    assert main(["-k", "bugtool", "--output", str(tmp_path / "x.tar.gz")]) == 3
    assert "was refused" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tar.gz"))


def test_pods_in_trouble_come_first_and_containers_that_never_ran_have_no_log():
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off"}
    well, unwell, fresh = pod("sensor", "a"), pod("sensor", "b", waiting), pod("sensor", "c", waiting)
    unwell["status"]["containerStatuses"][0]["restartCount"] = 3
    found = [log.entry for log in logs([well, fresh, unwell, pod("operator", "z")])]
    assert found == [
        "logs/eye-daemoneye-sensor-b/sensor.log", "logs/eye-daemoneye-sensor-b/sensor.previous.log", "logs/eye-daemoneye-operator-z/operator.log",
        "logs/eye-daemoneye-sensor-a/sensor.log",
    ]  # fmt: skip


async def test_top(cluster, broker):
    cluster.lists(
        "get pods --namespace security*", pod("sensor", "node-1"), pod("sensor", "node-2"), pod("sensor", "node-3")
    )
    async with beating(broker):
        status, out, err = await run("top", "--wait", "6", "-o", "json")
    assert (status, err) == (0, "")
    found = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert list(found)[:2] == ["node-2", "node-1"], "the most expensive first"
    assert set(found) == {"node-1", "node-2", "node-3", "analytics", "operator", "identity", "broker"}
    assert found["node-2"]["cpu_percent"] == pytest.approx(20)
    assert found["node-1"]["wakeups_per_second"] == pytest.approx(4)
    assert found["node-1"]["events_per_second"] == pytest.approx(100)
    assert found["node-1"]["lost"] == {"ring": 12, "spool": 5}
    assert found["node-3"]["age_s"] is None
    assert found["analytics"]["events_per_second"] > 0
    assert found["broker"]["version"].startswith("2.")


async def test_a_part_of_analytics_that_was_never_heard_has_a_line(cluster, broker):
    own = {"url": "tls://daemoneye-nats.security.svc:4222", "external": False}
    cluster.gives("get configmap daemoneye-operator --namespace security*", told(own, analyticsParts=3))
    cluster.lists("get pods --namespace security*", pod("sensor", "node-1"))
    async with beating(broker):
        status, out, _ = await run("top", "--wait", "3", "-o", "json")
    assert status == 0
    found = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert {"analytics", "analytics-1", "analytics-2"} <= set(found)
    assert found["analytics-2"]["age_s"] is None


async def test_top_again_and_again(cluster, broker):
    cluster.lists("get pods --namespace security*", pod("sensor", "node-1"))
    async with beating(broker), started("top", "--watch", "0.5", "--sort", "name") as (process, out, _):
        lines = [(await out.readline()).decode() for _ in range(20)]
        process.terminate()
        assert await process.wait() == 0
    assert sum(line.startswith("NAME ") for line in lines) >= 2
    assert any(line.startswith("node-2 ") for line in lines), "whoever is heard is shown"
    assert not cluster.running("port-forward")


async def test_top_without_anybody(cluster, broker):
    status, out, err = await run("top", "--wait", "0.3")
    assert status == 1
    assert out.splitlines()[-1] == "Sensors: none of 1 heard"
    assert "nobody was heard within 0.3 s" in err
