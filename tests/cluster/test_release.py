"""The chart, installed by helm on a real cluster with the images of the Dockerfiles: what an operator does and sees, in the order in which one
would do it.

One installation for all tests of this module; each leaves it as it found it. The last one removes it.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cli import Cli
from tests.cluster.harness.cluster import NODE, Cluster
from tests.cluster.release import COMPONENTS, PINS, Release, pids, wait

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SHOP = "shop"


@pytest.fixture(scope="module")
def shop(release: Release) -> Iterator[str]:
    with release.namespace_of_tests(SHOP, {"team": "shop"}) as name:
        yield name


@pytest.fixture(scope="module")
def cli(release: Release) -> Cli:
    return Cli(release.cluster)


@pytest.fixture
def policy(release: Release) -> Iterator[str]:
    """A policy for everything, running."""
    release.policy("default")
    release.wait_ready("default")
    yield "default"
    release.policy("default")


def test_everything_is_up_and_says_so(release: Release):
    for component in COMPONENTS:
        wait(f"one {component}, which is ready", partial(_one_ready, release, component))
    said = release.cluster.helm("test", release.name, "--namespace", release.namespace, "--timeout", "120s")
    assert "Succeeded" in said
    assert release.items("daemonsets", release.namespace) == [], "no policy, no sensor"
    secrets = {s["metadata"]["name"] for s in release.items("secrets", release.namespace)}
    assert {"daemoneye-ca", "daemoneye-nats", "daemoneye-callout", "daemoneye-broker-sensor"} <= secrets


def test_policy_brings_the_sensors_and_becomes_ready(release: Release):
    release.policy("default")
    wait("first status", lambda: release.condition("default", "Ready"))
    release.wait_ready("default")
    line = release.cluster.kubectl("get", "daemoneye").splitlines()[1].split()
    assert line[1:3] == ["True", "1/1"]
    for kind in ("SensorsAvailable", "ProgramsLoaded", "CaptureHealthy", "AnalyticsAvailable"):
        assert release.condition("default", kind)["status"] == "True", kind


def test_the_sensor_has_a_token_for_the_broker_alone_and_only_its_capabilities(release: Release, policy: str):
    (pod,) = release.sensor_pods()
    (container,) = pod["spec"]["containers"]
    (token,) = (volume["projected"]["sources"] for volume in pod["spec"]["volumes"] if "projected" in volume)
    assert [source["serviceAccountToken"]["audience"] for source in token] == ["daemoneye-broker.daemoneye.daemoneye"]
    assert container["securityContext"]["privileged"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    (pid,) = pids(b"daemoneye_sensor", pod["metadata"]["uid"])
    assert not Path(f"/proc/{pid}/root/var/run/secrets/kubernetes.io").exists()
    assert not Path(f"/proc/{pid}/root/run/secrets/kubernetes.io").exists()
    assert not Path(f"/proc/{pid}/root/etc/daemoneye/broker/password").exists()
    assert _answer(release.cluster, Path(f"/proc/{pid}/root/run/daemoneye/token/token").read_text()) == 401


def test_fileless_execution_becomes_a_finding_and_an_event(release: Release, policy: str, shop: str):
    name = "checkout"
    with _deployed(release, name, shop):
        found = wait("Finding", partial(_fileless, release, f"{shop}/Deployment/{name}/main"))
        wait("Event", partial(_events, release.cluster, shop, found["spec"]["subject"]["pod"]))
        subject = found["spec"]["subject"]
        assert subject["namespace"] == shop
        assert subject["pod"].startswith(f"{name}-")
        assert subject["container"] == "main"
        assert subject["image"] == "daemoneye-test/victim:1"
        assert subject["labels"]["app"] == name
        assert subject["node"] == NODE
        assert found["spec"]["policies"] == ["default"]
        assert any(technique["id"].startswith("T") for technique in found["spec"]["techniques"])
        assert name in " ".join(found["spec"]["explanation"])
        shown = release.cluster.kubectl("get", "defind", "-n", shop)
        assert "DETECTOR" in shown.splitlines()[0]


def test_first_execution_of_a_new_pod_has_its_names(release: Release, policy: str, shop: str, cli: Cli):
    with release.pod("early", shop, "hold", labels={"tier": "front"}) as pod:
        mains = lambda: [e for e in cli.execs(shop, "early") if e["container"] == "main"]  # noqa: E731
        first = wait("its execution", lambda: min(mains(), key=lambda event: event["time"]))
        assert first["argv"][:2] == ["/victim", "hold"]
        assert first["workload"] == f"{shop}/Pod/early/main"
        assert first["pod_uid"] == pod["metadata"]["uid"]
        assert first["labels"] == {"tier": "front"}
        assert first["policies"] == ["default"]


def test_selectors_leave_out_what_they_do_not_select(release: Release, policy: str, shop: str, cli: Cli):
    release.policy(
        "default",
        selector={
            "podSelector": {"matchLabels": {"watched": "yes"}},
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
        },
    )
    release.wait_ready("default")
    with (
        release.namespace_of_tests("elsewhere", {"team": "other"}) as elsewhere,
        release.pod("unwatched", shop, "fileless"),
        release.pod("stranger", elsewhere, "fileless", labels={"watched": "yes"}),
        release.pod("watched", shop, "fileless", labels={"watched": "yes"}),
    ):
        wait("Finding of the watched pod", lambda: release.findings(shop, pod="watched"))
        # The watched pod came last: what the others did was read before.
        assert release.findings(shop, pod="unwatched") == []
        assert release.findings(elsewhere, pod="stranger") == []
        assert cli.execs(shop, "unwatched") == []
        assert cli.execs(shop, "watched")


def test_change_of_policy_restarts_nothing_and_loses_nothing(release: Release, policy: str, shop: str, cli: Cli):
    (before,) = release.sensor_pods()
    number = 3000
    with release.pod("busy", shop, "spawn", str(number)):
        for threshold in (0.7, 0.75, 0.81):
            release.policy("default", analytics={"anomalyThreshold": threshold})
            release.policy("second", selector={"podSelector": {"matchLabels": {"app": "none"}}})
            release.wait_ready("default")
        wait("log", lambda: "ready" in release.cluster.kubectl("logs", "busy", "-n", shop))
        copies = wait(
            "every execution",
            lambda: [e for e in cli.execs(shop, "busy") if e["argv"][0] == "quiet-copy"][number - 1 :],
        )
        assert len(copies) == 1, "each once"
    release.cluster.kubectl("delete", "depol", "second")
    (after,) = release.sensor_pods()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0


def test_wrong_policies_are_refused_with_what_to_do(release: Release, policy: str):
    refused = release.cluster.kubectl(
        "apply", "-f", "-", input=json.dumps(_policy("typo", {"networkMonitoring": {"maxPacketSize": 5}})), check=False
    )
    assert "maxPacketSize" in refused
    assert "64" in refused
    release.policy("filter", networkMonitoring={"enablePacketCapture": True, "captureFilter": "tcp prt 80"})
    try:
        wait("refused", lambda: release.condition("filter", "Ready").get("reason") == "BadFilter")
        message = release.condition("filter", "Ready")["message"]
        assert NODE in message
        assert "syntax error" in message or "filter" in message
        # Others are not touched, though the node has to answer for all of its policies once more.
        release.wait_ready("default")
    finally:
        release.cluster.kubectl("delete", "depol", "filter")


def test_the_command_line_reads_the_cluster(release: Release, policy: str, cli: Cli):
    def says(command: str) -> str:
        code, said, error = cli(command)
        assert code == 0, said + error
        return said

    status = wait("status", lambda: says("status"))
    assert "default" in status
    assert "1/1" in status
    wait("doctor has nothing to say", lambda: says("doctor"))
    assert cli("findings")[0] == 0
    assert "anomalyThreshold" in cli("policy", "explain", "default")[1]


def test_costs_and_a_report_of_the_cluster(release: Release, policy: str, cli: Cli, tmp_path: Path):
    path = tmp_path / "report.tar.gz"
    commands = (("top", "-o", "json"), ("bugtool", "--output", str(path)))
    asked = [
        subprocess.Popen(
            ["kubectl", "daemoneye", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.environment,
        )
        for words in commands
    ]
    (costs, trouble), (_, missing) = (process.communicate(timeout=120) for process in asked)
    assert [process.returncode for process in asked] == [0, 0], trouble + missing
    sensor = next(line for line in map(json.loads, costs.splitlines()) if line["component"] == "sensor")
    assert sensor["name"] == NODE
    assert sensor["cpu_percent"] is not None
    assert sensor["rss_bytes"] > 10 << 20
    with tarfile.open(path) as archive:
        members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
        found = {name: file.read().decode() for name, file in members if file is not None}
    assert not json.loads(found["manifest.json"])["missing"], "the administrator can have everything"
    heard = {one["name"] for one in map(json.loads, found["broker/heartbeats.jsonl"].splitlines())}
    assert heard >= {NODE, "analytics"}
    containers = {name.split("/")[-1] for name in found if name.startswith("logs/")}
    assert containers >= {"operator.log", "analytics.log", "nats.log", "sensor.log"}
    assert [name for name in found if name.startswith("broker/configs/")]
    secrets = [
        base64.b64decode(value).decode()
        for secret in release.items("secrets", release.namespace)
        for key, value in (secret.get("data") or {}).items()
        if key in {"password", "tls.key", "seed"}
    ]
    assert secrets
    assert not [name for name, text in found.items() if any(secret.strip() in text for secret in secrets)]


def test_the_status_counts_the_findings(release: Release, policy: str, shop: str):
    # Late in this module: new counts are told once a minute, which is over by now.
    wait("tally", lambda: release.cluster.get("daemoneyepolicy", "default")["status"]["findings"]["total"] >= 1)


def test_last_policy_takes_everything_off_the_node(release: Release):
    release.policy("default")
    release.wait_ready("default")
    assert list(PINS.glob("daemoneye*")), "the sensor's pins"
    release.cluster.kubectl("delete", "depol", "--all", "--wait=true")
    wait("DaemonSet gone", lambda: not release.items("daemonsets", release.namespace))
    assert not PINS.exists() or not list(PINS.glob("daemoneye*"))
    assert not _files(release.spool)


def test_uninstall_leaves_nothing_and_can_be_undone(release: Release):
    release.policy("default")
    release.wait_ready("default")
    began = time.monotonic()
    release.uninstall()
    assert time.monotonic() - began < 120
    selector = f"app.kubernetes.io/instance={release.name}"
    # What the operator made is collected as its Deployment's.
    for kind in ("pods", "daemonsets", "deployments", "statefulsets", "secrets", "configmaps", "services"):
        wait(f"no {kind}", partial(_none, release, kind, selector))
    for kind in ("clusterroles", "clusterrolebindings", "networkpolicies"):
        assert not release.items(kind, None, selector), kind
    assert not PINS.exists() or not list(PINS.glob("daemoneye*")), "pins"
    assert not _files(release.spool), "spool"
    # crds.keep: policies outlive the release, and nothing holds them.
    assert [p["metadata"]["name"] for p in release.items("daemoneyepolicies.daemoneye.io")] == ["default"]
    assert all(not p["metadata"].get("finalizers") for p in release.items("daemoneyepolicies.daemoneye.io"))
    release.cluster.kubectl("delete", "depol", "default", "--wait=true", "--timeout=60s")


# ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(cluster: Cluster, token: str) -> int:
    """What the API server answers to whoever comes with this token."""
    asked = urllib.request.Request(f"{cluster.server}/api", headers={"Authorization": f"Bearer {token}"})
    context = ssl.create_default_context(cafile=cluster.state / "pki" / "ca.crt")
    try:
        with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "daemoneye.io/v1alpha1",
        "kind": "DaemonEyePolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


@contextmanager
def _deployed(release: Release, name: str, namespace: str) -> Iterator[None]:
    """A Deployment that executes something from memory, whose pod is ready; gone afterwards."""
    release.cluster.apply(json.dumps(_deployment(name, namespace, "fileless", {"app": name})))
    try:
        available = ("wait", "--for=condition=Available", f"deployment/{name}", "-n", namespace, "--timeout=180s")
        release.cluster.kubectl(*available)
        yield
    finally:
        release.cluster.kubectl("delete", "deployment", name, "-n", namespace, "--wait=false")


def _fileless(release: Release, workload: str) -> dict[str, Any]:
    """The Finding of a workload, once there is one."""
    return release.findings(workload.partition("/")[0], workload=workload)[0]


def _deployment(name: str, namespace: str, what: str, labels: dict[str, str]) -> dict[str, Any]:
    container = {
        "name": "main", "image": "daemoneye-test/victim:1", "imagePullPolicy": "Never", "command": ["/victim", what],
    }  # fmt: skip
    template = {
        "metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }  # fmt: skip


def _events(cluster: Cluster, namespace: str, pod: str) -> list[dict[str, Any]]:
    found = json.loads(
        cluster.kubectl(
            "get", "events", "-n", namespace, "-o", "json", "--field-selector", f"involvedObject.name={pod}"
        )
    )["items"]
    return [event for event in found if event.get("reportingComponent") == "daemoneye-operator"]


def _none(release: Release, kind: str, selector: str) -> bool:
    return not release.items(kind, release.namespace, selector)


def _one_ready(release: Release, component: str) -> bool:
    """Whether it has one pod, which runs and is ready: one of the values before may be about to go still."""
    (pod,) = release.items("pods", release.namespace, f"app.kubernetes.io/component={component}")
    return pod["status"]["phase"] == "Running" and all(c["ready"] for c in pod["status"]["containerStatuses"])


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()] if directory.exists() else []
