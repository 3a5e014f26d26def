"""What the operator decides about configurations: merging, selection, the DaemonSet, heartbeats, analytics' document."""

from __future__ import annotations

import json
import random

import pytest

from daemoneye import subjects
from daemoneye.api.v1alpha1.policy import PolicySpec
from daemoneye.errors import ConfigError, CorruptData
from daemoneye.nodeconfig import MAX_POLICIES, NodeAnswer, PolicyAnswer
from daemoneye_operator.reconcile import analytics, daemonset, merge, nodes, policies, selection
from daemoneye_operator.settings import OperatorSettings, load

SETTINGS = {
    "release": "daemoneye", "namespace": "security", "fullname": "daemoneye", "version": "0.1.0",
    "nats": {"url": "tls://daemoneye-nats.security.svc:4222"}, "sensor": {"image": "daemoneye/sensor:dev"},
}  # fmt: skip


def policy(name: str, second: int = 0, **spec) -> policies.Policy:
    parsed = PolicySpec.model_validate(spec, by_alias=True, by_name=False)
    return policies.Policy(name, f"uid-{name}", 1, f"2026-01-01T00:00:{second:02}Z", parsed)


def capture(**settings):
    return {"enablePacketCapture": True, **settings}


def test_a_switch_is_on_as_soon_as_one_asks_for_it():
    merged = merge.merge([policy("a", kernelMonitoring={"enableEbpf": False}), policy("b")])
    assert merged.config.kernel["enable_ebpf"] is True
    assert [p.kernel["enable_ebpf"] for p in merged.config.policies] == [False, True]


def test_the_largest_counts_among_those_that_capture():
    asked = [
        policy("a", networkMonitoring=capture(bufferSizeMb=50, captureFilter="udp")),
        policy("b", networkMonitoring=capture(bufferSizeMb=300, captureFilter="tcp")),
        policy("c", networkMonitoring={"bufferSizeMb": 4000, "captureFilter": "icmp"}),
    ]
    network = merge.merge(asked).config.network
    assert network["buffer_size_mb"] == 300
    assert network["capture_filters"] == ["tcp", "udp"]


def test_of_two_that_contradict_each_other_the_older_stays():
    older = policy("older", 1, kernelMonitoring={"ebpfProgramPath": "/a.o"})
    younger = policy("younger", 2, kernelMonitoring={"ebpfProgramPath": "/b.o"})
    merged = merge.merge([younger, older])
    assert [p.name for p in merged.config.policies] == ["older"]
    refusal = merged.refused["uid-younger"]
    assert refusal.reason == "Conflict"
    assert "spec.kernelMonitoring.ebpfProgramPath" in refusal.message
    assert "older" in refusal.message


def test_the_sixty_fifth_policy_of_a_node_is_refused():
    merged = merge.merge([policy(f"p{n:02}", n % 60) for n in range(MAX_POLICIES + 1)])
    assert len(merged.config.policies) == MAX_POLICIES
    assert [r.reason for r in merged.refused.values()] == ["TooManyPolicies"]


def test_order_of_the_list_does_not_matter():
    many = [
        policy(
            f"p{n}",
            n,
            kernelMonitoring={"ebpfProgramPath": f"/{n % 3}.o"},
            networkMonitoring=capture(maxPacketSize=100 + n),
        )
        for n in range(9)
    ]
    first = merge.merge(many)
    for seed in range(5):
        shuffled = many[:]
        random.Random(seed).shuffle(shuffled)
        assert merge.merge(shuffled) == first


def test_a_policy_with_a_selector_of_pods_leaves_the_host_alone():
    selected = policy("a", selector={"podSelector": {"matchLabels": {"app": "x"}}})
    config = merge.merge([selected, policy("b")]).config
    assert [p.host for p in config.policies] == [False, True]
    assert config.policies[0].pod_selector == {"matchLabels": {"app": "x"}}


def test_nodes_with_the_same_policies_share_one_configuration():
    everywhere, some = policy("all", 1), policy("ssd", 2, selector={"nodeSelector": {"disk": "ssd"}})
    plan = selection.plan([everywhere, some], {"a": {"disk": "ssd"}, "b": {"disk": "ssd"}, "c": {}})
    assert plan.nodes["a"] == plan.nodes["b"] != plan.nodes["c"]
    assert len(plan.configs) == 2
    assert plan.selected == {"uid-all": ("a", "b", "c"), "uid-ssd": ("a", "b")}
    assert plan.refused == {}


def test_policies_that_never_meet_do_not_contradict_each_other():
    one = policy("one", 1, selector={"nodeSelector": {"z": "1"}}, kernelMonitoring={"ebpfProgramPath": "/a.o"})
    two = policy("two", 2, selector={"nodeSelector": {"z": "2"}}, kernelMonitoring={"ebpfProgramPath": "/b.o"})
    assert selection.plan([one, two], {"a": {"z": "1"}, "b": {"z": "2"}}).refused == {}
    met = selection.plan([one, two], {"a": {"z": "1"}, "b": {"z": "2"}} | {"c": {"z": "3"}})
    assert met.selected["uid-two"] == ("b",)


def test_a_policy_that_selects_no_node_is_told():
    plan = selection.plan([policy("nowhere", selector={"nodeSelector": {"disk": "none"}})], {"a": {}})
    assert plan.selected == {"uid-nowhere": ()}


def test_leaving_is_a_configuration():
    plan = selection.removal(["b", "a"])
    assert list(plan.nodes) == ["a", "b"]
    assert all(plan.configs[h].remove for h in plan.nodes.values())


def test_a_node_with_a_taint_that_nobody_tolerates_has_no_sensor():
    tainted = {"metadata": {"name": "a"}, "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}
    plain = {"metadata": {"name": "b", "labels": {"kubernetes.io/os": "linux"}}}
    assert list(selection.sensor_nodes([tainted, plain], {}, [])) == ["b"]
    tolerated = selection.tolerations(
        [policy("p", selector={"tolerations": [{"key": "gpu", "operator": "Exists"}]})] * 2
    )
    assert len(tolerated) == 1
    assert list(selection.sensor_nodes([tainted, plain], {}, tolerated)) == ["a", "b"]
    assert list(selection.sensor_nodes([tainted, plain], {"kubernetes.io/os": "linux"}, tolerated)) == ["b"]


def test_a_bad_object_keeps_none_of_the_others_from_working():
    def object_of(name, spec):
        return {"apiVersion": "daemoneye.io/v1alpha1", "metadata": {"name": name, "uid": name}, "spec": spec}

    read = policies.read_all(
        [
            object_of("good", {}),
            object_of("bad", {"networkMonitoring": {"bufferSizeMb": 0}}),
            {**object_of("new", {}), "apiVersion": "daemoneye.io/v9"},
        ]
    )
    assert [p.name for p in read.valid] == ["good"]
    assert "spec.networkMonitoring.bufferSizeMb" in read.invalid["bad"]
    assert "daemoneye.io/v9" in read.invalid["new"]


def test_heartbeat_is_read_and_bounded():
    answer = NodeAnswer("h", (PolicyAnswer("p", "u", 1),), programs=True)
    data = json.dumps({"state": "ready", "config": answer.to_json()}).encode()
    report = nodes.NodeReport.read(subjects.status("node.1"), data, 1.0)
    assert report.node == "node.1"
    assert report.answer == answer
    for subject, bad in (
        (subjects.status("n"), b"{"),
        (subjects.status("n"), b"[]"),
        ("elsewhere.x", data),
        (subjects.status("n"), b" " * (nodes.MAX_HEARTBEAT + 1)),
    ):
        with pytest.raises(CorruptData):
            nodes.NodeReport.read(subject, bad, 1.0)


def test_only_what_is_new_wakes_the_operator_and_memory_is_bounded():
    heard = nodes.Heartbeats(limit=2)
    first = nodes.NodeReport("a", 1.0)
    assert heard.put(first)
    assert not heard.put(nodes.NodeReport("a", 2.0))
    assert heard.put(nodes.NodeReport("a", 3.0, state="removed"))
    assert heard.removed(["a"])
    assert not heard.removed(["a", "b"])
    heard.put(nodes.NodeReport("b", 4.0))
    heard.put(nodes.NodeReport("c", 5.0))
    assert list(heard.reports) == ["b", "c"]


def test_analytics_is_told_parameters_in_their_own_types():
    asked = policy(
        "p", analytics={"detectors": [{"name": "d", "parameters": {"depth": "3", "shells": '["/x"]', "text": "plain"}}]}
    )
    document = analytics.document([asked, policy("q", 1)])
    assert document["policies"][0]["detectors"][0]["parameters"] == {"depth": 3, "shells": ["/x"], "text": "plain"}
    assert document["behavioral"] is True
    assert analytics.config_hash(analytics.encode(document)) == analytics.config_hash(analytics.encode(document))
    assert [p["name"] for p in analytics.document([asked, policy("q", 1)], ["uid-p"])["policies"]] == ["q"]


def settings(**sensor) -> OperatorSettings:
    value = {**SETTINGS, "sensor": {"image": "daemoneye/sensor:dev", **sensor}}
    return OperatorSettings.model_validate(value, by_alias=True, by_name=False)


def test_sensor_pod_may_no_more_than_it_needs():
    pod = daemonset.desired_daemonset(settings(), [], None)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountToken" not in json.dumps(pod["volumes"])
    assert pod["hostPID"] is True
    assert not pod.get("hostNetwork")
    security = container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["readOnlyRootFilesystem"] is True
    assert not security.get("privileged")
    assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
    assert {v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v} == {
        "/sys/fs/bpf", "/var/lib/daemoneye", "/run/containerd/io.containerd.runtime.v2.task",
    }  # fmt: skip


def test_selector_labels_are_frozen():
    """A DaemonSet's selector cannot be changed: another value here breaks every upgrade."""
    assert daemonset.desired_daemonset(settings(), [], None)["spec"]["selector"]["matchLabels"] == {
        "app.kubernetes.io/name": "daemoneye", "app.kubernetes.io/instance": "daemoneye", "app.kubernetes.io/component": "sensor",
    }  # fmt: skip


def test_sensor_is_told_where_its_broker_is():
    configmap = daemonset.desired_configmap(settings(), "cluster-uid", None)
    document = json.loads(configmap["data"]["sensor.json"])
    assert document["cluster"] == "cluster-uid"
    assert document["nats"]["url"].startswith("tls://")
    assert document["nats"]["tls"]["ca"].endswith("ca.crt")
    assert "password" not in document["nats"]
    assert daemonset.checksum(configmap) == daemonset.checksum(
        daemonset.desired_configmap(settings(), "cluster-uid", None)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sensr": {}}, "sensr"),
        ({"shards": 0}, "shards"),
        ({"sensor": {}}, "sensor.image"),
        ({"sensor": {"image": "x", "updateMaxUnavailable": "half"}}, "sensor.updateMaxUnavailable"),
    ],
)
def test_wrong_settings_are_refused_by_file_and_key(tmp_path, change, words):
    path = tmp_path / "operator.json"
    path.write_text(json.dumps({**SETTINGS, **change}))
    with pytest.raises(ConfigError, match=words) as refused:
        load(path)
    assert str(path) in str(refused.value)
