"""``kubectl daemoneye policy explain``: a policy of the cluster, or a file without any cluster."""

import json

import pytest

from daemoneye_cli.main import main
from daemoneye_cli.settings import settings
from tests.support.bad_objects import BAD, document
from tests.unit.cli.fakekubectl import node, policy

HOSTILE = "\x1b[31m\u202e\r"


@pytest.fixture
def three(installed):
    """Two policies that meet on node-2, and one elsewhere."""
    installed.lists("get nodes*", node("node-1", pool="apps"), node("node-2", pool="apps", disk="ssd"), node("node-3"))
    capture = {"enablePacketCapture": True, "maxPacketSize": 9000, "captureFilter": "port 53"}
    gap = {
        "path": "spec.networkMonitoring.enablePacketCapture",
        "reason": "packet capture arrives with a later release",
    }
    installed.lists(
        "get daemoneyepolicies*",
        policy("shop", created="2026-01-02T00:00:00Z", inactive=[gap], selector={"nodeSelector": {"pool": "apps"}},
               networkMonitoring={"enablePacketCapture": True, "maxPacketSize": 1500},
               kernelMonitoring={"enableEbpf": False, "ebpfProgramPath": "/opt/own.o"}),
        policy("fast", selector={"nodeSelector": {"disk": "ssd"}}, networkMonitoring=capture,
               kernelMonitoring={"ebpfProgramPath": "/opt/other.o"}),
        policy("elsewhere", selector={"nodeSelector": {"pool": "none"}}, networkMonitoring={**capture, "maxPacketSize": 65535}),
    )  # fmt: skip
    return installed


def test_what_a_policy_asks_and_what_becomes_of_it(three, capsys):
    assert main(["-k", "policy", "explain", "shop"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert "Ready True, AsAsked: All 2 selected nodes run it." in words
    assert "Meets other policies: fast on 1 node (first node-2)." in words
    assert "spec.kernelMonitoring.enableEbpf: off" in words
    assert "Here: on all the same where fast meets it." in words
    assert "Here: 9000 where fast meets it." in words
    assert "65535" not in words
    assert "Here: joined with port 53 of fast." in words
    assert "Here: fast asks for /opt/other.o: the younger of the two is refused." in words
    assert "INACTIVE: packet capture arrives with a later release." in words
    assert "spec.selector.nodeSelector: pool=apps" in words
    assert "Several policies: the largest value of all policies wins." in words
    assert "spec.analytics.anomalyThreshold 0.8 scoped" in words


def test_all_policies(three, capsys):
    assert main(["-k", "policy", "explain"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("DaemonEyePolicy")] == [
        "DaemonEyePolicy elsewhere",
        "DaemonEyePolicy fast",
        "DaemonEyePolicy shop",
    ]
    assert "Meets no other policy." in shown


def test_what_refuses_it(installed, capsys):
    refused = {
        "desired": 3,
        "ready": 1,
        "refused": 2,
        "firstRefusedNode": "node-2",
        "refusedReason": "MissingBTF",
        "refusedMessage": "no BTF",
    }
    value = policy("a", ("False", "MissingBTF", "2 of 3 nodes refuse it"), sensors=refused)
    value["status"]["conditions"].append(
        {"type": "ProgramsLoaded", "status": "Unknown", "reason": "Pending", "message": "wait"}
    )
    installed.lists("get daemoneyepolicies*", value)
    assert main(["-k", "policy", "explain", "a"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Nodes: 1 of 3 runs it as it is now. 2 nodes refuse it; first node-2: MissingBTF: no BTF" in words
    assert "ProgramsLoaded Unknown, Pending: wait" in words


def test_for_programs(three, capsys):
    assert main(["-k", "policy", "explain", "shop", "-o", "json"]) == 0
    first, *rest = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["kind"] == "policy"
    assert first["meets"] == [{"policy": "fast", "nodes": 1, "first": "node-2"}]
    found = {line["path"]: line for line in rest}
    assert {line["kind"] for line in rest} == {"setting"}
    size = found["spec.networkMonitoring.maxPacketSize"]
    assert (size["value"], size["default"], size["merge"], size["given"]) == (1500, 1500, "max", False)
    assert size["effects"] == ["9000 where fast meets it"]


def test_no_such_policy(three, capsys):
    assert main(["-k", "policy", "explain", "nope"]) == 2
    assert "no DaemonEyePolicy nope; there are elsewhere, fast, shop" in capsys.readouterr().err
    three.lists("get daemoneyepolicies*")
    assert main(["-k", "policy", "explain"]) == 2
    assert "there is no DaemonEyePolicy in this cluster" in capsys.readouterr().err


def test_a_newer_policy_is_explained_as_far_as_it_is_known(installed, capsys):
    installed.lists("get daemoneyepolicies*", policy("a", quantum={"x": 1}, analytics={"telepathy": True}))
    assert main(["-k", "policy", "explain", "a"]) == 0
    error = capsys.readouterr().err
    assert "spec.quantum is not known" in error
    assert "spec.analytics.telepathy is not known" in error


def test_hostile_text_is_harmless(installed, capsys):
    capture = {"enablePacketCapture": True, "captureFilter": HOSTILE}
    installed.lists(
        "get daemoneyepolicies*", policy(f"a{HOSTILE}", ("False", HOSTILE, HOSTILE), networkMonitoring=capture),
        policy(f"b{HOSTILE}", networkMonitoring={**capture, "captureFilter": f"{HOSTILE}x"}),
    )  # fmt: skip
    for output in ("plain", "json"):
        assert main(["-k", "policy", "explain", "-o", output]) == 0
        shown = capsys.readouterr().out
        assert not [character for character in HOSTILE if character in shown and not character.isprintable()]
        assert "[31m" in shown


def test_a_file_needs_no_cluster(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "p.yaml"
    network = {"enablePacketCapture": True, "maxPacketSize": 200}
    spec = {"networkMonitoring": network, "analytics": {"enableMachineLearning": False, "anomalyThreshold": 0.9}}
    path.write_text(json.dumps(document("p", "DaemonEyePolicy", spec)))
    assert main(["-k", "policy", "explain", "-f", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "is a policy that the API server takes." in shown
    assert (
        "spec.networkMonitoring.maxPacketSize: 200 Bytes kept of each packet; the rest of a longer one is cut." in shown
    )
    assert "INACTIVE: no windows are scored: enableBehavioralAnalysis and enableMachineLearning are needed" in shown
    path.write_text("enterprise: {network_monitoring: {max_packet_size: 200}}")
    assert main(["-k", "policy", "explain", "--config", str(path), "-o", "json"]) == 0
    found = {line["path"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["enterprise.network_monitoring.max_packet_size"]["given"] is True


# What only an API server can say: kubectl reports unknown keys, and the rule of a set or a map is its own.
@pytest.mark.parametrize(
    ("name", "spec"), [(bad[0], bad[2]) for bad in BAD if bad[1] == "DaemonEyePolicy" and bad[0] != "endpoints-twice"],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_the_api_server_refuses_is_refused_here(name, spec, tmp_path, capsys):
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(document("p", "DaemonEyePolicy", spec)))
    assert main(["-k", "policy", "explain", "-f", str(path)]) == 2
    assert f"{path}:1:" in capsys.readouterr().err


def test_every_setting_of_the_model_is_explained():
    found = settings({})
    assert len(found) == 38
    assert all(setting.description and setting.merge for setting in found)
    assert not any(setting.given for setting in found)
