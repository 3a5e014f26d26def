"""What the chart renders, on a real API server that is asked to take it and takes nothing: every values file of charts/daemoneye/ci."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from daemoneye.api.v1alpha1.common import GROUP
from daemoneye.codegen import crd
from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import CHART, namespace_of_tests

pytestmark = pytest.mark.cluster
CI = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "chart-dryrun"
LEVEL = "pod-security.kubernetes.io"


@pytest.fixture(scope="module")
def api(cluster: Cluster):
    """A namespace in which the API server itself refuses a pod, and warns of a template, that is not `restricted`; and our kinds."""
    labels = {f"{LEVEL}/enforce": "restricted", f"{LEVEL}/warn": "restricted"}
    ours = not cluster.kubectl("get", "crd", "--ignore-not-found", f"{crd.KINDS[0].plural}.{GROUP}")
    if ours:
        cluster.kubectl("apply", "--server-side", "-f", str(CHART / "crds-yaml"))
        for kind in crd.KINDS:
            cluster.kubectl("wait", "--for=condition=Established", f"crd/{kind.plural}.{GROUP}", "--timeout=90s")
    with namespace_of_tests(cluster, NAMESPACE, labels):
        yield cluster
    if ours:
        cluster.kubectl("delete", "-f", str(CHART / "crds-yaml"), "--wait=true", "--timeout=180s")


def rendered(cluster: Cluster, values: Path) -> str:
    # --validate would ask for the version itself, but refuses CRDs that are there already.
    version = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    return cluster.helm(
        "template", "dryrun", str(CHART), "--namespace", NAMESPACE, "--values", str(values), "--kube-version", version
    )


def taken(cluster: Cluster, text: str) -> str:
    """Answer of the API server, refusals and warnings included."""
    return cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-", input=text, check=False
    )  # fmt: skip


@pytest.mark.parametrize("values", CI, ids=[path.name.removesuffix("-values.yaml") for path in CI])
def test_the_api_server_takes_everything(api: Cluster, values: Path):
    text = rendered(api, values)
    objects = [value for value in yaml.safe_load_all(text) if value]
    lines = taken(api, text).splitlines()
    assert [line for line in lines if not line.endswith("serverside-applied (server dry run)")] == []
    assert len(lines) == len(objects) > 20
    assert api.kubectl("get", "deployments,statefulsets", "-n", NAMESPACE, "-o", "name") == ""


def test_the_api_server_would_have_said_so(api: Cluster):
    """The same question with a key that does not exist, and with a pod that may be root."""
    text = rendered(api, CHART / "ci" / "default-values.yaml")
    assert ".spec.replica: field not declared in schema" in taken(
        api, text.replace("  replicas: 1\n", "  replica: 1\n", 1)
    )
    assert "would violate PodSecurity" in taken(api, text.replace("runAsNonRoot: true", "runAsNonRoot: false"))


def test_notes_know_the_namespaces_label(api: Cluster):
    """`helm install --dry-run=server` asks the cluster as an installation does."""
    command = ("install", "dryrun", str(CHART), "--namespace", NAMESPACE, "--dry-run=server")
    asks = f"kubectl label --overwrite namespace {NAMESPACE} {LEVEL}/enforce=privileged"
    # Helm refuses to take over the CRDs of the fixture.
    without = ("--set", "crds.enabled=false")
    assert asks in api.helm(*command, *without)
    api.kubectl("label", "--overwrite", "namespace", NAMESPACE, f"{LEVEL}/enforce=privileged")
    try:
        said = api.helm(*command, *without)
    finally:
        api.kubectl("label", "--overwrite", "namespace", NAMESPACE, f"{LEVEL}/enforce=restricted")
    assert asks not in said
    assert "kubectl get daemoneye" in said


def test_wrong_value_stops_an_installation(api: Cluster):
    said = api.helm(
        "install", "dryrun", str(CHART), "--namespace", NAMESPACE, "--dry-run=server", "--set", "sensor.privileged=maybe", check=False
    )  # fmt: skip
    assert "at '/sensor/privileged': got string, want boolean" in said
