"""``kubectl daemoneye doctor``: each check against clusters made of files."""

import json

import pytest

from daemoneye_cli.main import main
from tests.unit.cli.fakekubectl import daemonset, definition, namespace, node, part, parts, pod, policy

KINDS = "get deployments.apps,statefulsets.apps,daemonsets.apps*"
PSA = (
    'Error creating: pods "eye-daemoneye-sensor-x" is forbidden: violates PodSecurity "restricted:latest": hostPID=true'
)


def checks(capsys, *arguments: str) -> tuple[int, dict[str, dict]]:
    status = main(["-k", *arguments, "doctor", "-o", "json"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line["kind"] == "check" for line in found)
    return status, {line["name"]: line for line in found}


def test_a_cluster_that_has_everything(installed, capsys):
    status, found = checks(capsys)
    assert [name for name, check in found.items() if not check["ok"]] == []
    assert status == 0
    assert list(found) == [
        "API server", "CRDs", "nodes", "kernels", "container runtime", "installation", "pod security",
        "operator", "identity", "analytics", "nats", "callout", "sensors", "analytics heard", "policies",
    ]  # fmt: skip
    assert main(["-k", "doctor"]) == 0
    assert capsys.readouterr().out.endswith("This cluster has all that is needed.\n")


def old_server(kubectl):
    kubectl.gives("version -o json", {"serverVersion": {"gitVersion": "v1.29.9"}})


def no_crds(kubectl):
    kubectl.lists("get customresourcedefinitions*", definition("findings"))


def crd_waiting(kubectl):
    names = ("daemoneyepolicies", "detectionexceptions", "federationpeers")
    kubectl.lists("get customresourcedefinitions*", *map(definition, names), definition("findings", "False"))


def old_kernel(kubectl):
    kubectl.lists("get nodes*", node("node-1"), node("node-2", "5.4.0-42-generic"))


def middle_kernel(kubectl):
    kubectl.lists("get nodes*", node("node-1"), node("node-2", "5.10.0"))


def other_runtime(kubectl):
    kubectl.lists("get nodes*", node("node-1"), node("node-2", runtime="cri-o://1.31.0"))


def windows(kubectl):
    value = node("node-1")
    value["status"]["nodeInfo"]["operatingSystem"] = "windows"
    kubectl.lists("get nodes*", value)


def restricted(kubectl):
    kubectl.gives("get namespace security *", namespace("restricted"))


def unlabelled(kubectl):
    kubectl.gives("get namespace security *", namespace(None))


def broker_down(kubectl):
    dead = {"reason": "CrashLoopBackOff", "message": "back-off"}
    kubectl.lists(
        KINDS, *parts()[:3], daemonset(), part("nats", ready=0, kind="StatefulSet"), pod("nats", "node-1", dead)
    )


def operator_gone(kubectl):
    kubectl.lists(KINDS, *parts()[1:])


def image(kubectl):
    waiting = {"reason": "ErrImagePull", "message": "not found"}
    kubectl.lists(KINDS, *parts()[:4], daemonset(2, 1), pod("sensor", "node-1"), pod("sensor", "node-2", waiting))


def refused(kubectl):
    kubectl.lists(KINDS, *parts()[:4], daemonset(2, 0))
    owner = {"kind": "DaemonSet", "name": "eye-daemoneye-sensor"}
    kubectl.lists("get events*", {"involvedObject": owner, "message": PSA, "lastTimestamp": "2026-01-01T00:00:00Z"})


def no_policy(kubectl):
    kubectl.lists("get daemoneyepolicies*")


def not_ready(kubectl):
    kubectl.lists(
        "get daemoneyepolicies*", policy("a"), policy("b", ("False", "SensorsSilent", "1 of 2 nodes are silent"))
    )


def misspelt(kubectl):
    value = policy("a", ("False", "BadDetector", "There is no detector 'x'"))
    value["status"]["conditions"][-1] = {
        "type": "AnalyticsAvailable",
        "status": "False",
        "reason": "BadDetector",
        "message": "There is no detector 'x'",
    }
    kubectl.lists("get daemoneyepolicies*", value)


def silent(kubectl):
    value = policy("a")
    value["status"]["conditions"][-1] = {
        "type": "AnalyticsAvailable",
        "status": "False",
        "reason": "AnalyticsSilent",
        "message": "gone",
    }
    kubectl.lists("get daemoneyepolicies*", value)


@pytest.mark.parametrize(
    ("change", "name", "detail", "fix", "status"),
    [
        (old_server, "API server", "v1.29.9; 1.30 or later", "upgrade the cluster", 3),
        (
            no_crds,
            "CRDs",
            "missing: daemoneyepolicies, detectionexceptions, federationpeers",
            "apply --server-side -f crds/",
            3,
        ),
        (crd_waiting, "CRDs", "not established: findings", "kubectl describe crd findings.daemoneye.io", 3),
        (old_kernel, "kernels", "older than 5.8: node-2 (5.4.0-42-generic)", "5.8 or later", 3),
        (middle_kernel, "kernels", "older than 5.15, which some programs want: node-2", "5.15", 0),
        (other_runtime, "container runtime", "node-2 (cri-o://1.31.0)", "sensor.hostPaths.runtimeTasks", 0),
        (windows, "nodes", "0 of 1 run Linux; without a sensor, for they run no Linux: node-1", "Linux node", 3),
        (restricted, "pod security", "enforces restricted", "enforce=privileged --overwrite", 3),
        (unlabelled, "pod security", "has no label", "kubectl label namespace security", 0),
        (broker_down, "nats", "0 of 1 ready: pod eye-daemoneye-nats-node-1: CrashLoopBackOff", "component=nats", 3),
        (operator_gone, "operator", "is not there", "helm upgrade", 3),
        (image, "sensors", "1 of 2 ready: pod eye-daemoneye-sensor-node-2: ErrImagePull", "image.registry", 3),
        (refused, "sensors", "violates PodSecurity", "enforce=privileged", 3),
        (no_policy, "policies", "nothing is watched", "kubectl apply", 0),
        (not_ready, "policies", "1 of 2 not Ready; first b: SensorsSilent", "policy explain b", 3),
        (silent, "analytics heard", "AnalyticsSilent: gone", "component=analytics", 3),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_missing_is_named_with_its_fix(installed, change, name, detail, fix, status, capsys):
    change(installed)
    answer, found = checks(capsys)
    assert not found[name]["ok"]
    assert detail in found[name]["detail"]
    assert fix in found[name]["fix"]
    assert answer == status


def test_a_detector_that_does_not_exist_is_the_policys_fault_and_not_analytics(installed, capsys):
    misspelt(installed)
    answer, found = checks(capsys)
    assert answer == 3
    assert [name for name, check in found.items() if not check["ok"]] == ["policies"]
    assert "BadDetector: There is no detector 'x'" in found["policies"]["detail"]


def test_without_a_cluster_one_check_fails(kubectl, capsys):
    kubectl.fails("version*", "Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout")
    assert main(["-k", "doctor"]) == 3
    shown = capsys.readouterr().out
    assert "✗ API server" in shown
    assert "fix: choose the cluster with --context" in shown
    assert shown.endswith("Missing: API server.\n")


def test_without_an_installation_the_cluster_itself_is_checked(installed, capsys):
    installed.lists("get deployments.apps --all-namespaces*")
    answer, found = checks(capsys)
    assert answer == 3
    assert found["kernels"]["ok"]
    assert "helm install" in found["installation"]["fix"]


def test_several_installations_need_a_choice(installed, capsys):
    installed.lists(
        "get deployments.apps --all-namespaces*", part("operator"), part("operator", release="b", where="other")
    )
    answer, found = checks(capsys)
    assert (answer, found["installation"]["ok"]) == (3, False)
    assert "choose one with -n" in found["installation"]["detail"]
    answer, found = checks(capsys, "-n", "security")
    assert answer == 0
