"""The operator on a real API server: what a person who applies, edits and deletes sees, whatever ends in between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemoneye import subjects
from daemoneye.ending import end
from daemoneye.findings import Finding, Subject, Technique
from tests.cluster.harness.cluster import NODE, Cluster
from tests.cluster.operatorprocess import NAMESPACE, Node, OperatorProcess
from tests.cluster.release import Release, victim_image, wait

pytestmark = pytest.mark.cluster
SHOP = "shop"


@pytest.fixture(scope="module")
def operator(crds: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    running = OperatorProcess(crds, tmp_path_factory.mktemp("operator"))
    running.prepare()
    running.start_broker()
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def release(operator: OperatorProcess) -> Release:
    return Release(operator.cluster, namespace=NAMESPACE)


@pytest.fixture
def policies(operator: OperatorProcess, release: Release) -> Iterator[Release]:
    """No policy before and none after: with the last one the DaemonSet goes."""
    yield release
    operator.cluster.kubectl("delete", "daemoneyepolicies", "--all", "--wait=true")


@asynccontextmanager
async def node(operator: OperatorProcess) -> AsyncIterator[Node]:
    sensor, analytics = await operator.connect("sensor"), await operator.connect("analytics")
    speaking = Node(sensor, analytics, NODE)
    beating = asyncio.create_task(speaking.beat())
    try:
        yield speaking
    finally:
        await end([beating])
        await sensor.close()
        await analytics.close()


async def until(what: str, condition: Any, seconds: float = 120) -> Any:
    return await asyncio.to_thread(wait, what, condition, seconds)


def condition(release: Release, policy: str, kind: str) -> tuple[str, str, str]:
    found = release.condition(policy, kind)
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def daemonset(release: Release) -> dict[str, Any] | None:
    found = release.items("daemonsets", NAMESPACE)
    return found[0] if found else None


def finding(
    number: int, *, pod: dict[str, Any] | None = None, severity: str = "high", policy: str = "first"
) -> Finding:
    subject = Subject(
        node=NODE, exe="/usr/bin/nc", argv=("nc", "-e", "/bin/sh"), pid=42, workload="host/systemd/x.service"
    )
    if pod:
        meta = pod["metadata"]
        subject = Subject(
            node=NODE, exe="/usr/bin/nc", argv=("nc",), pid=42, workload=f"{meta['namespace']}/Pod/{meta['name']}/main",
            namespace=meta["namespace"], pod=meta["name"], pod_uid=meta["uid"], container="main", image="victim:1",
        )  # fmt: skip
    return Finding(
        id=f"{number:032x}", time="2026-11-27T01:00:00.000000000Z", severity=severity, score=0.8, detector="suspicious_exec",
        title="A program ran from memory", subject=subject, key="fileless", techniques=(Technique("T1620", "Reflective Code Loading"),),
        explanation=("It has no file.",), policies=(policy,),
    )  # fmt: skip


async def publish(operator: OperatorProcess, *findings: Finding) -> None:
    client = await operator.connect("analytics")
    try:
        for one in findings:
            await client.jetstream().publish(subjects.findings(one.severity), one.encode())
    finally:
        await client.close()


async def test_policy_becomes_ready_when_its_node_answers(operator: OperatorProcess, policies: Release):
    policies.policy("first")
    made = await until("DaemonSet", lambda: daemonset(policies), 30)
    assert made["metadata"]["ownerReferences"][0]["kind"] == "Deployment"
    spec = made["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    # Its image is on no node, and pulling is forbidden.
    failed = lambda: (said := condition(policies, "first", "Ready"))[1] == "ImagePullFailed" and said  # noqa: E731
    assert "daemoneye/sensor:none" in (await until("said why not", failed))[2]
    async with node(operator):
        await until("Ready", lambda: condition(policies, "first", "Ready")[0] == "True")
        value = operator.cluster.get("daemoneyepolicy", "first")["status"]
        assert value["sensors"]["display"] == "1/1"
        assert {c["type"] for c in value["conditions"]} == {
            "Ready", "SensorsAvailable", "ProgramsLoaded", "CaptureHealthy", "AnalyticsAvailable",
        }  # fmt: skip
        columns = operator.cluster.kubectl("get", "depol", "first").splitlines()[1].split()
        assert columns[:3] == ["first", "True", "1/1"]


async def test_change_is_acknowledged_by_generation(operator: OperatorProcess, policies: Release):
    async with node(operator) as speaking:
        policies.policy("first")
        await until("Ready", lambda: policies.condition("first", "Ready").get("status") == "True")
        speaking.mute = True
        policies.policy("first", analytics={"anomalyThreshold": 0.9}, kernelMonitoring={"enableEbpf": False})
        await until("waits for the node", lambda: condition(policies, "first", "Ready")[1] == "SensorsProgressing", 30)
        speaking.mute = False
        await until("Ready", lambda: policies.condition("first", "Ready").get("status") == "True")
        config = await speaking.config()
        assert config is not None
        assert config.kernel["enable_ebpf"] is False


async def test_refusal_of_a_node_reaches_the_status_in_seconds(operator: OperatorProcess, policies: Release):
    async with node(operator) as speaking:
        speaking.refuse["bad"] = ("BadFilter", "can't parse filter expression: syntax error")
        policies.policy("bad", networkMonitoring={"enablePacketCapture": True, "captureFilter": "tcp prt 80"})
        policies.policy("good")
        await until("refused", lambda: condition(policies, "bad", "Ready")[1] == "BadFilter", 30)
        status = operator.cluster.get("daemoneyepolicy", "bad")["status"]["sensors"]
        assert (status["refused"], status["firstRefusedNode"], status["refusedReason"]) == (1, NODE, "BadFilter")
        assert "syntax error" in status["refusedMessage"]
        await until("the other one is Ready", lambda: policies.condition("good", "Ready").get("status") == "True")


async def test_contradiction_and_selection_of_nothing_are_said(operator: OperatorProcess, policies: Release):
    async with node(operator):
        policies.policy("older", kernelMonitoring={"enableEtw": True, "etwSessionName": "One"})
        await until("Ready", lambda: policies.condition("older", "Ready").get("status") == "True")
        await asyncio.sleep(1.1)  # the API's times are whole seconds, and the older one has precedence
        policies.policy("younger", kernelMonitoring={"enableEtw": True, "etwSessionName": "Two"})
        policies.policy("nowhere", selector={"nodeSelector": {"disktype": "none"}})
        await until("conflict", lambda: condition(policies, "younger", "Ready")[1] == "Conflict", 30)
        assert "older policy older" in condition(policies, "younger", "Ready")[2]
        await until("nothing", lambda: condition(policies, "nowhere", "Ready")[1] == "NoNodesSelected", 30)
        # The node answers for all of its policies, once more.
        await until("still Ready", lambda: policies.condition("older", "Ready")["status"] == "True")


async def test_edited_and_deleted_children_come_back(operator: OperatorProcess, policies: Release):
    policies.policy("first")
    first = await until("DaemonSet", lambda: daemonset(policies))
    patch = {"spec": {"template": {"spec": {"hostPID": False}}}}
    operator.cluster.kubectl("patch", "daemonset", "daemoneye-sensor", "-n", NAMESPACE, "-p", json.dumps(patch))
    await until("hostPID again", lambda: _host_pid(policies))
    operator.cluster.kubectl("delete", "daemonset", "daemoneye-sensor", "-n", NAMESPACE, "--wait=true")
    again = await until("DaemonSet again", lambda: daemonset(policies))
    assert again["metadata"]["uid"] != first["metadata"]["uid"]


async def test_findings_become_objects_counts_and_one_event(
    operator: OperatorProcess, policies: Release, tmp_path: Path
):
    operator.cluster.load_image(victim_image(tmp_path))
    with policies.namespace_of_tests(SHOP), policies.pod("checkout", SHOP, "hold") as pod:
        async with node(operator):
            policies.policy("first")
            await until("Ready", lambda: policies.condition("first", "Ready").get("status") == "True")
            began = time.monotonic()
            await publish(operator, finding(1, pod=pod), finding(2, pod=pod), finding(2, pod=pod), finding(3))
            found = await until("Finding", lambda: policies.findings(SHOP, pod="checkout"), 15)
            assert time.monotonic() - began < 15
            await until("counted", lambda: policies.findings(SHOP, pod="checkout")[0]["status"]["count"] == 2)
            name = found[0]["metadata"]["name"]
            events = await until("Event", lambda: _events(operator.cluster, SHOP, "checkout"), 30)
            assert len(events) == 1
            assert events[0]["reason"] == "SuspiciousExec"
            assert name in events[0]["message"]
            assert "From memory" not in events[0]["message"]
            await until("one about the host lives in the release's namespace", lambda: policies.findings(NAMESPACE))
            # Counts alone are written once a minute at most; the first is there at once.
            tally = await until("tally", lambda: _tally(operator.cluster, "first", 1), 30)
            assert {one["namespace"] for one in tally["newest"]} <= {SHOP, NAMESPACE}
            # The operator dies with findings on their way; nothing is counted twice and nothing is forgotten.
            operator.kill("operator")
            await publish(operator, finding(2, pod=pod), finding(4, pod=pod))
            operator.start()
            await until("goes on", lambda: policies.findings(SHOP, pod="checkout")[0]["status"]["count"] == 3)
            operator.cluster.kubectl("delete", "finding", name, "-n", SHOP)
            await until("gone", lambda: not policies.findings(SHOP, pod="checkout"))
            await publish(operator, finding(5, pod=pod))
            await until("made anew", lambda: policies.findings(SHOP, pod="checkout")[0]["status"]["count"] == 1)


async def test_exception_keeps_findings_silent_until_it_expires(operator: OperatorProcess, policies: Release):
    async with node(operator):
        policies.policy("first")
        await until("Ready", lambda: policies.condition("first", "Ready").get("status") == "True")
        value = {
            "apiVersion": "daemoneye.io/v1alpha1", "kind": "DetectionException", "metadata": {"name": "known", "namespace": NAMESPACE},
            "spec": {
                "scope": {"detector": "suspicious_exec", "workload": "host/systemd/*"}, "owner": "sre", "reason": "test tool",
                "verdict": "FalsePositive",
                "expiresAt": "2099-01-01T00:00:00Z",
            },
        }  # fmt: skip
        operator.cluster.apply(json.dumps(value))
        await until(
            "in force",
            lambda: _condition(operator.cluster, "detectionexception", "known")["reason"] == "InForce",
        )
        before = len(policies.findings(NAMESPACE))
        await publish(operator, finding(20, severity="critical"))
        await until(
            "counted as suppressed",
            lambda: operator.cluster.get("detectionexception", "known", NAMESPACE)["status"]["suppressed"] >= 1, 180,
        )  # fmt: skip
        assert len(policies.findings(NAMESPACE)) == before
        operator.cluster.kubectl("delete", "detectionexception", "known", "-n", NAMESPACE)


async def test_peer_says_that_federation_is_not_there_yet(operator: OperatorProcess):
    value = {
        "apiVersion": "daemoneye.io/v1alpha1", "kind": "FederationPeer", "metadata": {"name": "primary"},
        "spec": {"role": "Primary", "endpoint": "https://primary.example.com"},
    }  # fmt: skip
    operator.cluster.apply(json.dumps(value))

    def connected() -> dict[str, Any]:
        conditions = operator.cluster.get("federationpeer", "primary")["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "Connected" and c["reason"] == "NotImplemented")

    assert (await until("status", connected))["status"] == "False"
    operator.cluster.kubectl("delete", "federationpeer", "primary")


async def test_broker_away_is_said_and_passes(operator: OperatorProcess, policies: Release):
    async with node(operator):
        policies.policy("first")
        await until("Ready", lambda: policies.condition("first", "Ready").get("status") == "True")
        operator.kill("nats")
        await until("said", lambda: condition(policies, "first", "Ready")[1] == "BrokerUnavailable")
        assert operator.ready()["ok"] is False
        operator.start_broker()
        await until("Ready again", lambda: policies.condition("first", "Ready").get("status") == "True")


async def test_last_policy_leaves_nothing(operator: OperatorProcess, policies: Release):
    async with node(operator) as speaking:
        policies.policy("first")
        await until("Ready", lambda: policies.condition("first", "Ready").get("status") == "True")
        operator.cluster.kubectl("delete", "depol", "first", "--wait=true")
        # No pod of the DaemonSet runs here, so that nobody has anything to remove.
        await until("DaemonSet gone", lambda: daemonset(policies) is None)
        await until("pointer gone", lambda: asyncio.run(_no_config(operator)))
        del speaking


def _host_pid(release: Release) -> bool:
    found = daemonset(release)
    return found is not None and found["spec"]["template"]["spec"].get("hostPID") is True


async def _no_config(operator: OperatorProcess) -> bool:
    client = await operator.connect("sensor")
    try:
        return await Node(client, client, NODE).config() is None
    finally:
        await client.close()


def _events(cluster: Cluster, namespace: str, pod: str) -> list[dict[str, Any]]:
    found = json.loads(
        cluster.kubectl(
            "get", "events", "-n", namespace, "-o", "json", "--field-selector", f"involvedObject.name={pod}"
        )
    )["items"]
    return [event for event in found if event.get("reportingComponent") == "daemoneye-operator"]


def _tally(cluster: Cluster, policy: str, total: int) -> dict[str, Any] | None:
    tally = cluster.get("daemoneyepolicy", policy)["status"]["findings"]
    return tally if tally["total"] >= total else None


def _condition(cluster: Cluster, kind: str, name: str) -> dict[str, Any]:
    return cluster.get(kind, name, NAMESPACE)["status"]["conditions"][0]
