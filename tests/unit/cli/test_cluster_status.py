"""``kubectl daemoneye status`` and ``version``: one screen, the exit status, and the same for programs."""

import json

import pytest

from daemoneye_cli.main import main
from tests.unit.cli.fakekubectl import daemonset, finding, node, part, parts, pod, policy

BAD_FILTER = "1 of 2 nodes refuses it; first node-2: BadFilter: syntax error in filter expression"
UNSAFE = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2028", "\x00")
HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\r\u202e\u2028\x00"
KINDS = "get deployments.apps,statefulsets.apps,daemonsets.apps*"


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_everything_is_ready(installed, capsys):
    assert main(["-k", "status"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("DaemonEye 0.1.0, release eye in namespace security: all is ready\n")
    for row in ("operator   1/1    daemoneye/operator:0.1.0", "sensors    2/2    daemoneye/sensor:0.1.0"):
        assert row in shown
    assert "everything  True   2/2      3         AsAsked" in shown
    assert "Nodes: 2 of 2 have a sensor that runs\n" in shown
    assert "Findings: 1 (1 high), seen 3 times" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_one_of_one(installed, capsys):
    installed.lists("get nodes*", node("node-1"))
    others = [one for one in parts() if "sensor" not in one["metadata"]["name"]]
    installed.lists(KINDS, *others, daemonset(1, 1), pod("sensor", "node-1"))
    installed.gives("get findings.daemoneye.io*jsonpath*", stdout="high 1\n")
    assert main(["-k", "status"]) == 0
    shown = capsys.readouterr().out
    assert "Nodes: 1 of 1 has a sensor that runs\n" in shown
    assert "Findings: 1 (1 high), seen once\n" in shown


def test_what_is_not_ready_is_said_with_its_reason(installed, capsys):
    refused = {"desired": 2, "ready": 1, "display": "1/2", "refused": 1, "firstRefusedNode": "node-2",
               "refusedReason": "BadFilter", "refusedMessage": "syntax error in filter expression"}  # fmt: skip
    gap = {
        "path": "spec.networkMonitoring.enablePacketCapture",
        "reason": "packet capture arrives with a later release",
    }
    installed.lists(
        "get daemoneyepolicies*", policy("shop", ("False", "BadFilter", BAD_FILTER), sensors=refused, inactive=[gap])
    )
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "daemoneye/sensor:0.1.0"'}
    dead = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}
    installed.lists(
        KINDS, part("operator"), part("identity"), part("nats", kind="StatefulSet"), part("callout"), daemonset(2, 1), pod("sensor", "node-1"),
        pod("sensor", "node-2", waiting), part("analytics", ready=0), pod("analytics", "node-1", dead),
    )  # fmt: skip
    assert main(["-k", "status"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "release eye in namespace security: not ready" in shown
    assert "analytics: pod eye-daemoneye-analytics-node-1: CrashLoopBackOff: back-off 5m0s" in shown
    assert "sensors 1/2" in shown
    assert "shop False 1/2 3 BadFilter 1 of 2 nodes refuses it; first node-2: BadFilter: syntax error" in shown
    assert shown.count("syntax error") == 1
    assert "spec.networkMonitoring.enablePacketCapture is inactive: packet capture arrives" in shown
    assert "Nodes: 1 of 2 has a sensor that runs; without: node-2: failing: ImagePullBackOff" in shown
    assert "Not ready: analytics 0/1; sensors 1/2; policy shop: BadFilter" in shown


def test_nodes_without_a_sensor_say_why(installed, capsys):
    tainted = node("node-2", taints=[{"key": "dedicated", "value": "db", "effect": "NoSchedule"}])
    other = node("win-1", **{"kubernetes.io/os": "windows"})
    installed.lists("get nodes*", node("node-1"), tainted, other, node("node-3"))
    installed.lists(KINDS, *parts()[:5], daemonset(2, 1), pod("sensor", "node-1"))
    assert main(["-k", "status"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "node-2: none: taint dedicated=db:NoSchedule is not tolerated (sensor.tolerations)" in shown
    assert "win-1: none: it has not the labels kubernetes.io/os=linux (sensor.nodeSelector)" in shown
    assert "node-3: missing: it has no sensor pod" in shown


def test_a_policy_that_the_operator_has_not_seen_is_not_ready(installed, capsys):
    value = policy("late")
    value["metadata"]["generation"] = 2
    installed.lists("get daemoneyepolicies*", value)
    assert main(["-k", "status"]) == 1
    assert "The operator has not looked at generation 2 yet." in capsys.readouterr().out


def test_without_a_policy_nothing_is_watched(installed, capsys):
    installed.lists("get daemoneyepolicies*")
    installed.lists(KINDS, *parts()[:5])
    assert main(["-k", "status"]) == 1
    shown = capsys.readouterr().out
    assert "kind: DaemonEyePolicy" in shown
    assert "Not ready: no policy, so nothing is watched" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_without_crds(installed, capsys):
    installed.fails("get daemoneyepolicies*", 'error: the server doesn\'t have a resource type "daemoneyepolicies"')
    assert main(["-k", "status"]) == 3
    assert "fix: install DaemonEye's CRDs: kubectl apply --server-side -f crds/" in capsys.readouterr().err


def test_a_part_that_is_missing_and_a_broker_of_the_users_own(installed, capsys):
    installed.lists(
        KINDS, part("operator"), part("identity"), daemonset(), pod("sensor", "node-1"), pod("sensor", "node-2")
    )
    assert main(["-k", "status", "-o", "json"]) == 1
    found = {line["name"]: line for line in lines(capsys) if line["kind"] == "component"}
    assert set(found) == {"operator", "identity", "analytics", "sensors"}
    assert found["analytics"]["exists"] is False


def test_what_one_may_not_see_is_a_note(installed, capsys):
    installed.fails(
        "get nodes*", 'Error from server (Forbidden): nodes is forbidden: User "u" cannot list resource "nodes"'
    )
    assert main(["-k", "status"]) == 0
    assert "Note: nodes are not shown: kubectl: nodes is forbidden" in capsys.readouterr().out


def test_the_analysers_phases_are_shown_once_for_all_policies(installed, capsys):
    told = {"workloads": 42, "learning": 2, "calibrating": 0, "active": 39, "drifted": 1}
    new, old = policy("new"), policy("old")
    old["status"]["analytics"] = told
    installed.lists("get daemoneyepolicies*", new, old)
    assert main(["-k", "status"]) == 0
    assert "Analyser: 42 workloads: learning 2, active 39, drifted 1\n" in capsys.readouterr().out
    assert main(["-k", "status", "-o", "json"]) == 0
    assert lines(capsys)[0]["workloads"] == {"learning": 2, "calibrating": 0, "active": 39, "drifted": 1}
    main(["-k", "doctor"])
    assert "the operator hears its heartbeats; 42 workloads" in " ".join(capsys.readouterr().out.split())


def test_objects_for_programs(installed, capsys):
    assert main(["-k", "status", "-o", "json"]) == 0
    found = lines(capsys)
    assert [line["kind"] for line in found] == ["status", *["component"] * 6, "policy", "node", "node"]
    assert (found[0]["name"], found[0]["namespace"]) == ("eye", "security")
    assert found[0]["ready"] is True
    assert found[0]["findings"] == {"objects": 1, "occurrences": 3, "high": 1}
    assert found[7]["sensors"]["ready"] == 2
    assert found[8] == {"kind": "node", "name": "node-1", "sensor": "ready", "detail": ""}


@pytest.mark.parametrize("output", ["plain", "json"])
def test_hostile_text_is_harmless(installed, output, capsys):
    gap = {"path": HOSTILE, "reason": HOSTILE}
    installed.lists("get daemoneyepolicies*", policy("x" + HOSTILE, ("False", HOSTILE, HOSTILE), inactive=[gap]))
    installed.lists(
        KINDS, *parts()[:5], daemonset(2, 1), pod("sensor", "node-1", {"reason": HOSTILE, "message": HOSTILE})
    )
    assert main(["-k", "status", "-o", output]) == 1
    shown = capsys.readouterr().out
    assert not [character for character in UNSAFE if character in shown]
    assert "\\x1b[31m" in shown or "\\u001b[31m" in shown


def test_version_knows_what_runs_in_the_cluster(installed, capsys):
    assert main(["-k", "version", "-o", "json"]) == 0
    (found,) = lines(capsys)
    assert found["cluster"]["kubernetes"] == "v1.34.4"
    assert found["cluster"]["sensors"] == "daemoneye/sensor:0.1.0"
    assert found["daemoneye-cli"]
    assert main(["-k", "version"]) == 0
    assert "cluster analytics" in capsys.readouterr().out


def test_version_without_a_cluster_tells_what_is_here(kubectl, capsys):
    kubectl.fails("version*", "Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout")
    assert main(["-k", "version"]) == 3
    said = capsys.readouterr()
    assert "daemoneye-cli" in said.out
    assert "of the cluster: kubectl: Unable to connect" in said.err


def test_findings_are_asked_for_once_and_without_their_text(installed):
    installed.lists("get findings.daemoneye.io*", finding("a"))
    installed.gives("get findings.daemoneye.io*jsonpath*", stdout="high \nlow 2\n")
    assert main(["-k", "status"]) == 0
    (call,) = (call for call in installed.calls if "findings.daemoneye.io" in call)
    assert call[-1].startswith("jsonpath=")
