"""Selectors, configurations of nodes, identities of pods: what operator and sensor tell each other."""

from __future__ import annotations

import json

import pytest

from daemoneye import subjects
from daemoneye.errors import ConfigError, CorruptData
from daemoneye.nodeconfig import MAX_MESSAGE, NodeAnswer, NodeConfig, NodePointer, NodePolicy, PolicyAnswer
from daemoneye.podidentity import MAX_BYTES, PodIdentity, cgroup_uid, owner
from daemoneye.selectors import Selector
from daemoneye.streams import buckets


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (None, {"a": "1"}, True),
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, {"a": "1"}, False),
    ],
)
def test_selector_means_what_kubernetes_says(selector, labels, expected):
    assert Selector.parse(selector).matches(labels) is expected


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Like"},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
    ],
)
def test_selector_that_means_nothing_is_refused(expression):
    with pytest.raises(ConfigError, match="matchExpressions"):
        Selector.parse({"matchExpressions": [expression]})


def test_configuration_is_named_by_its_content():
    policy = NodePolicy(
        "p", "uid", 3, host=False, pod_selector={"matchLabels": {"a": "1"}}, kernel={"enable_ebpf": True}
    )
    config = NodeConfig((policy,), {"enable_ebpf": True})
    again = NodeConfig.decode(config.encode())
    assert again == config
    assert again.hash == config.hash
    assert NodeConfig((policy,), {"enable_ebpf": False}).hash != config.hash
    newer = json.loads(config.encode()) | {"from_the_future": 1}
    newer["policies"][0]["from_the_future"] = 1
    assert NodeConfig.decode(json.dumps(newer).encode()) == config


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"policies": 1}', b'{"policies": [{}], "kernel": {}, "network": {}}']
)
def test_what_is_no_configuration_is_refused(data):
    with pytest.raises(CorruptData, match="configuration"):
        NodeConfig.decode(data)
    with pytest.raises(CorruptData, match="pointer"):
        NodePointer.decode(data)


def test_answer_is_bounded_whatever_a_node_says():
    answer = NodeAnswer(
        "h",
        (PolicyAnswer("p", "u", 1, "Refused", "BadFilter", "x" * 9999),),
        programs=True,
        problem=("Why", "y" * 9999),
    )
    value = json.loads(json.dumps(answer.to_json()))
    read = NodeAnswer.from_json(value)
    assert read.policies[0].reason == "BadFilter"
    assert len(read.policies[0].message) == len(read.problem[1]) == MAX_MESSAGE
    value["policies"] *= 1000
    assert len(NodeAnswer.from_json(value).policies) == 64
    value["policies"][0]["state"] = "Fine"
    with pytest.raises(CorruptData):
        NodeAnswer.from_json(value)


def _metadata(kind, name, **more):
    return {"name": "pod", "uid": "u", "ownerReferences": [{"kind": kind, "name": name, "controller": True}], **more}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"name": "bare"}, ("Pod", "bare")),
        (_metadata("ReplicaSet", "till-5d8f", labels={"pod-template-hash": "5d8f"}), ("Deployment", "till")),
        (_metadata("ReplicaSet", "own"), ("ReplicaSet", "own")),
        (_metadata("Job", "report-29012345"), ("CronJob", "report")),
        (_metadata("Job", "once"), ("Job", "once")),
        (_metadata("DaemonSet", "agent"), ("DaemonSet", "agent")),
        (_metadata("Node", "n1"), ("Node", "n1")),
    ],
)
def test_owner_of_a_pod_without_a_second_watch(metadata, expected):
    assert owner(metadata) == expected


def test_pod_becomes_an_identity():
    pod = {
        "metadata": _metadata("StatefulSet", "db") | {"namespace": "shop", "labels": {"app": "db"}},
        "spec": {
            "serviceAccountName": "db",
            "containers": [{"name": "main", "image": "db:1"}],
            "initContainers": [{"name": "init", "image": "i:1"}],
        },
    }
    identity = PodIdentity.of(pod, {"team": "shop"})
    assert identity.workload("main") == "shop/StatefulSet/db/main"
    assert identity.images == {"main": "db:1", "init": "i:1"}
    assert PodIdentity.decode(identity.encode()) == identity


def test_identity_stays_small_with_hostile_labels():
    labels = {f"label-{n}": "x" * 63 for n in range(2000)}
    data = PodIdentity("ns", "pod", "uid", labels=labels).encode()
    assert len(data) <= MAX_BYTES
    assert PodIdentity.decode(data).name == "pod"


def test_static_pod_is_known_by_the_hash_of_its_file():
    assert cgroup_uid({"uid": "u"}) == "u"
    assert cgroup_uid({"uid": "u", "annotations": {"kubernetes.io/config.hash": "abc123"}}) == "abc123"
    assert cgroup_uid({"uid": "u", "annotations": {"kubernetes.io/config.hash": "a.>"}}) == "u"


def test_keys_begin_with_the_node_and_nothing_widens_them():
    assert subjects.node_config("n.1") == "n_2e1.config"
    assert subjects.node_pod("n*", "uid") == "n_2a.pod.uid"
    assert (
        subjects.direct_get(subjects.NODES_BUCKET, "n.config")
        == "$JS.API.DIRECT.GET.KV_daemoneye_nodes.$KV.daemoneye_nodes.n.config"
    )
    assert subjects.component("analytics") != subjects.status("analytics")
    assert {stream.name for stream in buckets()} == {"KV_daemoneye_nodes", "KV_daemoneye_configs"}
