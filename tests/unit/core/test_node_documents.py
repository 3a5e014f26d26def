"""Selectors, configurations of nodes, identities of pods: what operator and sensor tell each other."""

from __future__ import annotations

import json
import string
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_pointer_says_whose_it_is_and_an_older_one_nobodys():
    assert NodePointer.decode(NodePointer("ab", "node.1").encode()) == NodePointer("ab", "node.1")
    assert NodePointer.decode(b'{"hash": "ab"}') == NodePointer("ab")
    for data in (b"", b"[]", b"{}", b'"hash"', b"3"):
        with pytest.raises(CorruptData):
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
    value["policies"] = [{**value["policies"][0], "reason": "R" * 9999, "message": "m" * 9999}]
    (one,) = NodeAnswer.from_json(value).policies
    assert (len(one.reason), len(one.message)) == (64, MAX_MESSAGE)


@pytest.mark.parametrize(
    "changes",
    [{"state": "Fine"}, {"state": ["Refused"]}, {"reason": ["BadFilter"]}, {"message": {"a": 1}}, {"uid": 7}, {"generation": "1"}, {"name": None}],
)  # fmt: skip
def test_an_answer_of_other_kinds_is_none(changes):
    value = NodeAnswer("h", (PolicyAnswer("p", "u", 1),)).to_json()
    value["policies"] = [{**value["policies"][0], **changes}]
    with pytest.raises(CorruptData, match="not a node's answer"):
        NodeAnswer.from_json(value)


VICTIM = "0a1b2c3d-1111-4222-8333-0123456789ab"


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


NAMESPACE = {"kubernetes.io/metadata.name": "shop"}


def test_a_pods_padding_pushes_out_nothing_that_others_say_of_it():
    labels = {f"label-{n:05}": "x" * 63 for n in range(15_000)} | {"app": "till"}
    whole = PodIdentity("shop", "pod", "uid", labels=labels, namespace_labels=NAMESPACE, images={"main": "till:1"})
    begun = time.process_time()
    data = whole.encode()
    assert time.process_time() - begun < 2, "who makes such an object makes one, and keeps nobody busy"
    assert MAX_BYTES - 100 < len(data) <= MAX_BYTES
    read = PodIdentity.decode(data)
    assert read.cut
    assert (read.namespace_labels, read.labels["app"], read.images) == (NAMESPACE, "till", {})
    later = replace(read, namespace_labels={**NAMESPACE, "team": "shop"})
    again = PodIdentity.decode(later.encode())
    assert again.cut, "a document that was cut once stays so"
    assert again.namespace_labels == later.namespace_labels


def test_images_go_first_and_without_them_labels_are_whole():
    whole = PodIdentity("shop", "pod", "uid", labels={"app": "till"}, images={f"c{n}": "i" * 200 for n in range(90)})
    read = PodIdentity.decode(whole.encode())
    assert 0 < len(read.images) < 90
    assert (read.labels, read.cut) == (whole.labels, False)


texts = st.text(string.ascii_letters + '/."ä', min_size=1, max_size=60)
tables = st.dictionaries(texts, texts, max_size=8)
padding = st.integers(0, 30).map(lambda n: {f"pad-{i}": "x" * (600 + i) for i in range(n)})


@given(labels=tables, pad=padding, namespace=tables, namespace_pad=padding, images=tables, image_pad=padding)
def test_what_is_left_out_first(labels: Any, pad: Any, namespace: Any, namespace_pad: Any, images: Any, image_pad: Any):
    whole = PodIdentity(
        "shop", "pod", "uid", labels=labels | pad, namespace_labels=namespace | namespace_pad | NAMESPACE, images=images | image_pad
    )  # fmt: skip
    data = whole.encode()
    assert len(data) <= MAX_BYTES
    read = PodIdentity.decode(data)
    names = ("images", "labels", "namespace_labels")
    kept = {name: getattr(read, name) for name in names}
    gone = {name: {k: v for k, v in getattr(whole, name).items() if k not in kept[name]} for name in names}
    for name in names:
        assert {**kept[name], **gone[name]} == getattr(whole, name), "nothing is changed"
    assert read.namespace_labels["kubernetes.io/metadata.name"] == "shop"
    assert not gone["labels"] or not kept["images"]
    assert not gone["namespace_labels"] or not kept["labels"]
    assert read.cut is bool(gone["labels"] or gone["namespace_labels"])
    for name in names:
        lengths = [[len(json.dumps(k) + json.dumps(v)) for k, v in t[name].items() if k not in NAMESPACE] for t in (kept, gone)]  # fmt: skip
        assert not all(lengths) or max(lengths[0]) <= min(lengths[1])
    last = next((name for name in reversed(names) if gone[name]), None)
    if last is None:
        assert read == whole
    else:
        shortest = min(gone[last].items(), key=lambda entry: len(json.dumps(entry[0]) + json.dumps(entry[1])))
        more: Any = {last: dict([*kept[last].items(), shortest])}
        fuller = replace(read, **more)
        # To the letter: `true` has one less than `false`, which stood there before.
        assert fuller.encode() == data or len(fuller.encode()) == MAX_BYTES, "no more than needed"


HASH = "d0cf" * 8
MIRROR = {"kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH}
NODE = [{"kind": "Node", "name": "n1", "controller": True}]


def test_static_pod_is_known_by_the_hash_of_its_file():
    assert cgroup_uid({"uid": "u"}) == "u"
    assert cgroup_uid({"uid": "u", "annotations": MIRROR, "ownerReferences": NODE}) == HASH


@pytest.mark.parametrize(
    "hostile",
    [
        {"annotations": {"kubernetes.io/config.hash": VICTIM}},
        {"annotations": {"kubernetes.io/config.hash": HASH}},
        {"annotations": {"kubernetes.io/config.hash": HASH}, "ownerReferences": NODE},
        {"annotations": MIRROR},
        {"annotations": MIRROR, "ownerReferences": [{"kind": "Node", "name": "n1"}]},
        {"annotations": MIRROR, "ownerReferences": [{"kind": "ReplicaSet", "name": "n1", "controller": True}]},
        {"annotations": MIRROR | {"kubernetes.io/config.hash": VICTIM}, "ownerReferences": NODE},
        {"annotations": MIRROR | {"kubernetes.io/config.hash": "a.>"}, "ownerReferences": NODE},
        {"annotations": MIRROR | {"kubernetes.io/config.hash": HASH + "\n"}, "ownerReferences": NODE},
        {"annotations": MIRROR | {"kubernetes.io/config.hash": ""}, "ownerReferences": NODE},
    ],
)
def test_a_pod_takes_no_other_pods_key_by_an_annotation(hostile):
    assert cgroup_uid({"uid": "own", **hostile}) == "own"


def test_keys_begin_with_the_node_and_nothing_widens_them():
    assert subjects.node_config("n.1") == "n_2e1.config"
    assert subjects.node_pod("n*", "uid") == "n_2a.pod.uid"
    assert (
        subjects.direct_get(subjects.NODES_BUCKET, "n.config")
        == "$JS.API.DIRECT.GET.KV_daemoneye_nodes.$KV.daemoneye_nodes.n.config"
    )
    assert subjects.component("analytics") != subjects.status("analytics")
    assert {stream.name for stream in buckets()} == {f"KV_daemoneye_{what}" for what in ("nodes", "configs", "leases")}
