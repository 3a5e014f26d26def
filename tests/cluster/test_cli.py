"""``kubectl daemoneye`` against a real API server, with the CRDs alone: what it says before anything is installed."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemoneye.codegen import crd
from tests.cluster.cli import Cli
from tests.cluster.harness.cluster import NODE, Cluster
from tests.cluster.release import REPOSITORY, wait

pytestmark = pytest.mark.cluster

CRDS = REPOSITORY / "crds"
SUBJECT = {
    "node": NODE, "namespace": "default", "pod": "till-1", "container": "main", "pid": 7, "exe": "/memfd:x", "argv": ["x", "\x1b[31m"],
}  # fmt: skip


@pytest.fixture(scope="module")
def cli(cluster: Cluster) -> Cli:
    return Cli(cluster)


@pytest.fixture(scope="module")
def api(cluster: Cluster, cli: Cli) -> Iterator[Cluster]:
    """A cluster that knows our kinds; afterwards as it was, for helm does not take over what it did not make."""
    ours = "daemoneye.io" not in cluster.kubectl("get", "crd")
    if ours:
        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
    for kind in crd.KINDS:
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{kind.plural}.daemoneye.io", "--timeout=90s")
    wait("discovery", lambda: "daemoneyepolicies" in cluster.kubectl("api-resources", "--api-group=daemoneye.io"))
    yield cluster
    if ours:
        cluster.kubectl("delete", "-f", str(CRDS), "--wait=true")


@pytest.fixture
def finding(api: Cluster) -> Iterator[str]:
    spec = {"detector": "suspicious-exec", "severity": "high", "score": 0.9, "title": "Executed\x07 from memory", "subject": SUBJECT,
            "explanation": ["It has no file."]}  # fmt: skip
    value = {
        "apiVersion": "daemoneye.io/v1alpha1",
        "kind": "Finding",
        "metadata": {"name": "first", "namespace": "default"},
        "spec": spec,
    }
    api.apply(json.dumps(value))
    status = {
        "status": {
            "count": 2,
            "firstSeen": "2026-01-01T00:00:00Z",
            "lastSeen": "2026-01-02T03:04:05Z",
            "lastFindingID": "ab" * 16,
        }
    }
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
    api.kubectl("patch", "findings.daemoneye.io", "first", "-n", "default", *patch)
    yield "first"
    api.kubectl("delete", "findings.daemoneye.io", "first", "-n", "default")


def test_without_crds_everything_says_what_is_missing(cluster: Cluster, cli: Cli):
    if "daemoneye.io" in cluster.kubectl("get", "crd"):
        pytest.skip("a kept cluster has the CRDs already")
    status, found = cli.checks()
    assert status == 3
    assert {name for name, check in found.items() if check["ok"]} == {
        "API server",
        "nodes",
        "kernels",
        "container runtime",
    }
    assert "Kubernetes v1.34" in found["API server"]["detail"]
    assert found["CRDs"]["detail"] == "missing: daemoneyepolicies, detectionexceptions, federationpeers, findings"
    assert found["container runtime"]["detail"].startswith("containerd://")
    for command in (("findings",), ("policy", "explain")):
        status, out, error = cli(*command)
        assert (status, out) == (3, "")
        assert "doesn't have a resource type" in error
        assert "(fix: install DaemonEye's CRDs" in error


def test_without_an_installation(api: Cluster, cli: Cli):
    status, found = cli.checks()
    assert (status, found["CRDs"]["ok"], found["installation"]["ok"]) == (3, True, False)
    for command in ("status", "events", "top"):
        status, _, error = cli(command)
        assert status == 3
        assert error == (
            "daemoneye: no DaemonEye is installed in this cluster "
            "(fix: helm install daemoneye charts/daemoneye --namespace daemoneye)\n"
        )
    status, out, _ = cli("version")
    assert status == 3
    assert "cluster kubernetes" in out


def test_a_report_before_anything_is_installed(api: Cluster, finding: str, cli: Cli, tmp_path: Path):
    planted = "Zq7-hunter2-of-a-secret"
    secret = ("secret", "generic", "planted", "-n", "default", f"--from-literal=password={planted}")
    api.kubectl("create", *secret)
    metadata = {"name": "leaky", "annotations": {"note": f"postgres://eye:{planted}@db/x"}}
    value = {"apiVersion": "daemoneye.io/v1alpha1", "kind": "DaemonEyePolicy", "metadata": metadata}
    api.apply(json.dumps(value))
    path = tmp_path / "report.tar.gz"
    try:
        status, out, error = cli("bugtool", "--output", str(path))
    finally:
        api.kubectl("delete", "secret", "planted", "-n", "default")
        api.kubectl("delete", "daemoneyepolicies.daemoneye.io", "leaky")
    assert status == 0, error
    assert str(path) in out
    assert "left out: the installation's objects, logs and broker: no DaemonEye is installed" in error
    with tarfile.open(path) as archive:
        members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
        found = {name: file.read().decode() for name, file in members if file is not None}
    assert json.loads(found["cluster/nodes.jsonl"])["name"] == NODE
    assert "✗ installation" in found["doctor.txt"]
    policies = [json.loads(line) for line in found["resources/daemoneyepolicies.jsonl"].splitlines()]
    assert [one["metadata"]["annotations"]["note"] for one in policies] == ["postgres://REDACTED@db/x"]
    newest = json.loads(found["resources/newest-findings.jsonl"])
    assert (newest["metadata"]["name"], newest["spec"]["subject"]["argv"]) == (finding, ["left out"])
    assert not [name for name, text in found.items() if planted in text]


def test_finding_objects_are_shown_and_hostile_names_are_harmless(finding: str, cli: Cli):
    status, out, error = cli("findings")
    assert (status, error) == (0, "")
    assert out.splitlines() == [
        "2026-01-02T03:04:05Z HIGH Executed\\x07 from memory · default/till-1/main: /memfd:x (pid 7)",
        "    It has no file.",
        f"    finding default/first · seen 2 times since 2026-01-01T00:00:00Z · node {NODE}",
    ]
    status, (found,) = cli.lines("findings", "--in", "default", "--severity", "high")
    assert (found["name"], found["count"], found["subject"]["pod"]) == ("first", 2, "till-1")
    assert cli("findings", "--severity", "critical") == (0, "", "")
    assert cli("findings", "--in", "kube-system") == (0, "", "")


def test_following_findings(api: Cluster, finding: str, cli: Cli):
    command = ["kubectl", "daemoneye", "findings", "-f", "-o", "json"]
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert json.loads(following.stdout.readline())["count"] == 2
            patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": {"count": 3}}))
            api.kubectl("patch", "findings.daemoneye.io", "first", "-n", "default", *patch)
            assert json.loads(following.stdout.readline())["count"] == 3
        finally:
            following.terminate()
        assert following.wait(60) == 0


def test_a_policy_is_explained_as_the_api_server_keeps_it(api: Cluster, cli: Cli):
    for name, size in (("small", 200), ("large", 9000)):
        capture = {"enablePacketCapture": True, "maxPacketSize": size}
        value = {"apiVersion": "daemoneye.io/v1alpha1", "kind": "DaemonEyePolicy", "metadata": {"name": name}}
        api.apply(json.dumps({**value, "spec": {"networkMonitoring": capture}}))
    try:
        status, found = cli.lines("policy", "explain", "small")
        assert status == 0
        assert found[0]["reason"] == "Pending"
        assert found[0]["meets"] == [{"policy": "large", "nodes": 1, "first": NODE}]
        settings = {line["path"]: line for line in found[1:]}
        given = {path for path, line in settings.items() if line["given"]}
        # The API server writes every default into the object: they are none of the user's choices.
        assert given == {"spec.networkMonitoring.enablePacketCapture", "spec.networkMonitoring.maxPacketSize"}
        assert settings["spec.networkMonitoring.maxPacketSize"]["effects"] == ["9000 where large meets it"]
    finally:
        api.kubectl("delete", "daemoneyepolicies.daemoneye.io", "small", "large")


def test_a_context_that_is_not_there(cluster: Cluster, cli: Cli):
    for command in ("status", "findings", "doctor"):
        status, out, error = cli(command, "--context", "nope")
        assert status == (3 if command == "doctor" else 2)
        assert "kubectl config get-contexts names those that exist" in out + error


def test_who_may_see_nothing_is_told_what_is_missing(cluster: Cluster, cli: Cli):
    cluster.kubectl("create", "serviceaccount", "nobody", "-n", "default")
    try:
        token = cluster.kubectl("create", "token", "nobody", "-n", "default").strip()
        config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
        path = cluster.state / "nobody.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        status, _, error = cli("status", "--kubeconfig", str(path))
        assert status == 3
        assert "cannot list resource" in error
        assert "name the installation's namespace: -n NAMESPACE" in error
    finally:
        cluster.kubectl("delete", "serviceaccount", "nobody", "-n", "default")
