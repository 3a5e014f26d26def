"""Rules that hold of everything the chart renders, whatever its values."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from daemoneye_operator import settings
from daemoneye_operator.reconcile.daemonset import desired_daemonset
from tests.chart.chart import CHART, CI, pods, render, template
from tests.cluster.harness import binaries

# Pods that speak to the API server; a token in any other would be a gift.
WITH_TOKEN = {"Deployment/*-operator", "Deployment/*-identity", "Deployment/*-callout", "Job/*-uninstall"}
FILES = pytest.mark.parametrize("values", CI, ids=[path.name.removesuffix("-values.yaml") for path in CI])


def beyond_restricted(pod):
    """What of a pod the Pod Security Standard `restricted` forbids, as sentences."""
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    wrong = [f"{key} is set" for key in ("hostPID", "hostNetwork", "hostIPC") if spec.get(key)]
    wrong += [f"volume {v['name']} of the node" for v in spec.get("volumes", ()) if "hostPath" in v]
    wrong += [] if context.get("runAsNonRoot") and context.get("runAsUser") != 0 else ["may run as root"]
    wrong += [] if context.get("seccompProfile") == {"type": "RuntimeDefault"} else ["no seccomp profile"]
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        own = container.get("securityContext", {})
        wrong += [] if own.get("capabilities", {}) == {"drop": ["ALL"]} else ["has capabilities"]
        wrong += [] if own.get("allowPrivilegeEscalation") is False else ["may gain privileges"]
        wrong += ["is privileged"] if own.get("privileged") else []
        wrong += ["has a port of the node"] if any("hostPort" in p for p in container.get("ports", ())) else []
    return wrong


def test_there_are_files_of_values():
    assert {path.name.removesuffix("-values.yaml") for path in CI} == {
        "default", "minimal", "r3", "external-nats", "everything-set",
    }  # fmt: skip


def test_helm_lint_is_clean():
    done = subprocess.run(
        [binaries.tool("helm"), "lint", "--strict", CHART, *(f"--values={path}" for path in CI[:1])],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ERROR]" not in done.stdout
    assert "[WARNING]" not in done.stdout


@FILES
def test_pods_satisfy_restricted(values: Path):
    found = dict(pods(render(values=values)))
    assert len(found) >= 5
    assert {name: wrong for name, pod in found.items() if (wrong := beyond_restricted(pod))} == {}


def test_the_rule_sees_what_restricted_forbids(tmp_path):
    """The sensor's pod, which the chart does not render, breaks it in every way that it must."""
    path = tmp_path / "operator.json"
    path.write_text(render()["ConfigMap/rel-daemoneye-operator"]["data"]["operator.json"])
    pod = desired_daemonset(settings.load(path), [], None)["spec"]["template"]
    assert {"hostPID is set", "volume bpffs of the node", "may run as root", "has capabilities"} <= set(
        beyond_restricted(pod)
    )


@FILES
def test_containers_are_bounded_and_read_only(values: Path):
    for name, pod in pods(render(values=values)):
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), name
            assert {"cpu", "memory"} <= resources["limits"].keys(), name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounted, name
            volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
            volumes |= {"data"} if name.startswith("StatefulSet/") else set()
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name


@FILES
def test_what_serves_is_probed(values: Path):
    for name, pod in pods(render(values=values)):
        (container,) = pod["spec"]["containers"]
        probes = {key for key in container if key.endswith("Probe")}
        hook = name.startswith(("Pod/", "Job/"))
        assert probes == (set() if hook else {"startupProbe", "livenessProbe", "readinessProbe"}), name
        ports = {port["name"] for port in container.get("ports", ())}
        assert {container[probe]["httpGet"]["port"] for probe in probes} <= ports, name


@FILES
def test_only_who_speaks_to_the_api_server_has_a_token(values: Path):
    named = render(values=values)
    tokens = {name for name, pod in pods(named) if pod["spec"]["automountServiceAccountToken"]}
    own = {name for name in WITH_TOKEN if "callout" not in name or "external" not in values.name}
    # It asks who may read evidence, where there is any.
    own |= {"Deployment/*-analytics"} if values.name.startswith("everything-set") else set()
    assert {re.sub(r"/.*-", "/*-", name) for name in tokens} == own
    accounts = [value for value in named.values() if value["kind"] == "ServiceAccount"]
    assert len(accounts) >= 5
    assert all(account["automountServiceAccountToken"] is False for account in accounts)


@FILES
def test_images_have_a_tag_and_no_host_unless_one_is_set(values: Path):
    images = {c["image"] for _, pod in pods(render(values=values)) for c in pod["spec"]["containers"]}
    for image in images:
        name, _, tag = image.rpartition("/")[2].partition(":")
        assert name
        assert tag
        assert not tag.startswith("latest")
        host = image.split("/")[0]
        assert "." not in host or values.name.startswith("everything-set"), image


@FILES
def test_no_rule_has_a_wildcard(values: Path):
    named = render(values=values)
    rules = [rule for value in named.values() for rule in value.get("rules", ())]
    assert len(rules) > 10
    for rule in rules:
        assert "*" not in {word for part in rule.values() for word in part}, rule
        assert "/*" not in str(rule["resources"])
        assert rule["resources"]
        assert rule["verbs"]


@FILES
def test_nothing_secret_and_nothing_random_is_rendered(values: Path):
    text = template(values=values)
    assert "kind: Secret\n" not in text
    template.cache_clear()
    assert template(values=values) == text


@FILES
def test_every_object_is_labelled_and_in_the_release_namespace(values: Path):
    for name, value in render(values=values).items():
        labels = value["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "daemoneye", name
        assert labels["app.kubernetes.io/instance"] == "rel", name
        assert labels["app.kubernetes.io/part-of"] == "daemoneye", name
        assert labels["app.kubernetes.io/managed-by"] == "Helm", name
        whole = value["kind"] in {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
        assert ("namespace" not in value["metadata"]) == whole, name


@FILES
def test_references_lead_somewhere(values: Path):
    """Every ServiceAccount, ConfigMap and role that is named is there; Secrets are those that the operator may make."""
    named = render(values=values)
    made = {
        secret
        for value in named.values()
        for rule in value.get("rules", ())
        if rule["resources"] == ["secrets"]
        for secret in rule.get("resourceNames", ())
    }
    for name, pod in pods(named):
        if account := pod["spec"].get("serviceAccountName"):
            assert f"ServiceAccount/{account}" in named, name
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert f"ConfigMap/{volume['configMap']['name']}" in named, name
            if "secret" in volume:
                assert volume["secret"]["secretName"] in made, name
    for name, value in named.items():
        if value["kind"].endswith("Binding"):
            assert f"{value['roleRef']['kind']}/{value['roleRef']['name']}" in named, name
            assert all(f"ServiceAccount/{subject['name']}" in named for subject in value["subjects"]), name


@FILES
def test_services_find_their_pods_and_ports(values: Path):
    named = render(values=values)
    services = [value for value in named.values() if value["kind"] == "Service"]
    assert len(services) >= 3
    for service in services:
        selector = service["spec"]["selector"].items()
        (pod,) = (
            pod for name, pod in pods(named) if selector <= pod["metadata"]["labels"].items() and "Job" not in name
        )
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
