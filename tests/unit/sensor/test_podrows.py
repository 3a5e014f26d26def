"""Rows of a node: whose they are, which wait, which go."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemoneye.events.codec import Section
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye.podidentity import PodIdentity
from daemoneye_sensor.enrich.bundles import Bundles
from daemoneye_sensor.enrich.podrows import PodIdentities
from daemoneye_sensor.enrich.pods import Pods
from daemoneye_sensor.enrich.selection import Selection, captures

UID = "0a1b2c3d-1111-4222-8333-0123456789ab"
STATIC = "d0cf" * 8
HOST, POD, OTHER, FILE, NEVER = 1, 2, 3, 4, 99
CONTAINER = "3f8a" * 16
PATHS = {
    HOST: ("/system.slice/sshd.service", ""),
    POD: ("/", f"/kubepods/pod{UID}/{CONTAINER}"),
    OTHER: ("/", f"/kubepods/pod{UID}/{'be' * 32}"),
    FILE: ("/", f"/kubepods/pod{STATIC}/{'ef' * 32}"),
}
ON = {"enable_ebpf": True}
ALL = NodePolicy("all", "1", 1, kernel=ON)
TILL = NodePolicy("till", "2", 1, host=False, pod_selector={"matchLabels": {"app": "till"}}, kernel=ON)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("daemoneye_sensor.enrich.podrows.time.monotonic", clock)
    return clock


class Node:
    def __init__(self, tmp_path: Path, *policies: NodePolicy, reachable: bool = True) -> None:
        self.pods = Pods()
        self.asked: list[str] = []
        self.reachable = reachable
        self.pods.ask = self._ask
        self.identities = PodIdentities(self.pods, Bundles(tmp_path))
        self.identities.learn(PATHS)
        self.identities.select(Selection(NodeConfig(policies)))

    def _ask(self, uid: str) -> bool:
        self.asked.append(uid)
        return self.reachable

    def holds(self, *pairs: int, room: bool = True) -> bool:
        return self.identities.holds(pairs_of(*pairs), room=room)

    def excluded(self, *pairs: int) -> list[int]:
        return self.identities.excluded(pairs_of(*pairs)).tolist()

    def rows(self, *pairs: int) -> list[dict[str, str]]:
        sections = self.identities.context(pairs_of(*pairs))
        return [{k: v for s in sections for k, v in text_row(s, i).items()} for i in range(len(pairs))]


def pairs_of(*pairs: int) -> np.ndarray:
    return np.array(pairs, np.uint64)


def text_row(section: Section, at: int) -> dict[str, str]:
    row = {f.name: section.values(f.name)[at].decode() for f in section.record.heap_fields}
    if section.record.name == "cgroup_identity":
        row["state"] = str(section.rows["state"][at])
    return row


def document(**labels: str) -> bytes:
    return PodIdentity("shop", "till-1", UID, "Deployment", "till", "cashier", labels, {}, {"main": "till:1"}).encode()


def bundle(tmp_path: Path, container: str = CONTAINER) -> None:
    folder = tmp_path / "k8s.io" / container
    folder.mkdir(parents=True)
    annotations = {
        "io.kubernetes.cri.container-name": "main",
        "io.kubernetes.cri.sandbox-name": "till-1",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.image-name": "sha256:1",
    }
    (folder / "config.json").write_text(json.dumps({"annotations": annotations}))


def test_a_pod_is_named_by_cgroup_then_bundle_then_document(tmp_path: Path) -> None:
    node = Node(tmp_path, ALL, TILL)
    (row,) = node.rows(POD)
    assert (row["state"], row["workload"], row["pod"]) == ("1", f"container/{CONTAINER[:12]}", "")
    bundle(tmp_path)
    node = Node(tmp_path, ALL, TILL)
    (row,) = node.rows(POD)
    assert (row["state"], row["workload"], row["image"]) == ("1", "shop/Pod/till-1/main", "sha256:1")
    assert (row["namespace"], row["container"], row["owner_kind"], row["runtime"]) == ("shop", "main", "", "containerd")
    node.pods.take(UID, document(app="till", b="2"))
    (row,) = node.rows(POD)
    assert (row["state"], row["workload"], row["image"]) == ("2", "shop/Deployment/till/main", "till:1")
    assert row["labels"] == "app=till\0b=2\0"
    assert row["policies"] == "all\0till\0"
    assert (row["owner_kind"], row["owner_name"], row["service_account"]) == ("Deployment", "till", "cashier")


def test_belonging(tmp_path: Path) -> None:
    node = Node(tmp_path, TILL)
    assert node.excluded(HOST, POD, NEVER) == [HOST], "a pod without a document and an unknown cgroup are kept"
    node.pods.take(UID, document(app="other"))
    assert node.excluded(HOST, POD, OTHER, NEVER) == [HOST, POD, OTHER]
    node.pods.take(UID, document(app="till"))
    assert node.excluded(HOST, POD, OTHER, NEVER) == [HOST]
    node.identities.select(Selection(NodeConfig((ALL,))))
    assert node.excluded(HOST, POD, NEVER) == []
    node.identities.select(Selection(NodeConfig()))
    assert node.excluded(HOST, POD, NEVER) == [HOST, POD, NEVER]
    assert [row["policies"] for row in node.rows(HOST, POD)] == ["", ""]


def test_a_pod_that_pads_its_labels_gets_rid_of_no_policy(tmp_path: Path) -> None:
    node = Node(tmp_path, TILL)
    node.pods.take(UID, document(app="other"))
    assert node.excluded(POD) == [POD]
    padding = {f"label-{n}": "x" * 63 for n in range(1000)}
    node.pods.take(UID, document(app="other", **padding))
    assert node.excluded(POD) == []
    (row,) = node.rows(POD)
    assert (row["state"], row["pod"], row["policies"]) == ("2", "till-1", "till\0")
    node.pods.take(UID, document(app="other"))
    assert node.excluded(POD) == [POD], "without them it is judged by its labels again"


def test_a_last_look_holds_nothing_and_takes_what_waits(tmp_path: Path, clock: Clock) -> None:
    node = Node(tmp_path, TILL)
    assert node.holds(POD)
    node.identities.waits = False
    assert not node.holds(POD)
    assert node.excluded(POD) == [], "rather too much than nothing"
    node.identities.waits = True
    assert node.holds(POD), "it had not its time yet"


def test_rows_of_a_pod_wait_for_its_document_once_and_a_second_at_most(tmp_path: Path, clock: Clock) -> None:
    node = Node(tmp_path, ALL)
    assert not node.holds(HOST, NEVER)
    assert node.holds(HOST, POD)
    assert node.asked == [UID]
    clock.now += 0.9
    assert node.holds(HOST, POD)
    clock.now += 0.2
    assert not node.holds(HOST, POD)
    assert not node.holds(POD), "each waits once"
    assert node.holds(OTHER), "another cgroup has its own time"
    assert node.pods.take(UID, document())
    assert not node.holds(POD, OTHER)


def test_a_document_ends_the_wait(tmp_path: Path, clock: Clock) -> None:
    node = Node(tmp_path, ALL)
    assert node.holds(POD)
    node.pods.take(UID, document())
    assert not node.holds(POD)
    assert node.rows(POD)[0]["state"] == "2"


def test_new_pods_one_after_the_other_do_not_keep_rows_for_ever(tmp_path: Path, clock: Clock) -> None:
    node = Node(tmp_path, ALL)
    begun = clock.now
    pairs: list[int] = []
    while True:
        number = 100 + len(pairs)
        node.identities.learn({number: ("/", f"/kubepods/pod{number:08x}-1111-4222-8333-0123456789ab/{number:064x}")})
        pairs.append(number)
        if not node.holds(*pairs):
            break
        clock.now += 0.3
    assert clock.now - begun <= 1.3
    assert not node.holds(*pairs)


def test_nothing_waits_without_a_broker_or_without_room(tmp_path: Path, clock: Clock) -> None:
    assert not Node(tmp_path, ALL, reachable=False).holds(POD)
    node = Node(tmp_path, ALL)
    assert node.holds(POD)
    assert not node.holds(POD, room=False)
    assert not node.holds(POD), "its time is over although there is room again"


def test_a_static_pods_document_has_the_key_of_its_cgroup(tmp_path: Path) -> None:
    node = Node(tmp_path, ALL)
    node.pods.take(STATIC, PodIdentity("kube-system", "etcd-n1", "real-uid", "Node", "n1").encode())
    (row,) = node.rows(FILE)
    assert (row["state"], row["pod"], row["pod_uid"]) == ("2", "etcd-n1", STATIC)


def test_an_unchanged_set_of_pairs_is_encoded_once(tmp_path: Path) -> None:
    bundle(tmp_path)
    node = Node(tmp_path, ALL)
    node.pods.take(UID, document())
    first = node.identities.context(pairs_of(HOST, POD))
    assert node.identities.context(pairs_of(HOST, POD)) is first
    node.identities.learn(PATHS)
    node.pods.take(UID, document())
    node.pods.take(UID, None)
    assert node.identities.context(pairs_of(HOST, POD)) is first, "nothing that was learnt is new"
    node.pods.take(UID, document(app="x"))
    assert node.identities.context(pairs_of(HOST, POD)) is not first
    begun = time.process_time()
    for _ in range(1000):
        node.identities.context(pairs_of(HOST, POD))
        node.excluded(HOST, POD)
    assert time.process_time() - begun < 1


def test_documents_are_bounded_and_deleted_pods_go_first() -> None:
    pods = Pods(limit=3)
    for n in range(3):
        pods.take(f"u{n}", PodIdentity("ns", f"p{n}", f"u{n}").encode())
    pods.get("u0")
    pods.take("u2", None)
    assert pods.get("u2"), "a deleted pod's last events are still to come"
    assert pods.living() == ["u1", "u0"]
    pods.take("u3", PodIdentity("ns", "p3", "u3").encode())
    assert pods.get("u2") is None
    pods.take("u4", PodIdentity("ns", "p4", "u4").encode())
    assert [pods.get(u) is not None for u in ("u0", "u1", "u3", "u4")] == [True, False, True, True]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"namespace": 1, "name": "p", "uid": "u"}',
        b'{"namespace": "n", "name": "p", "uid": "u", "labels": ["a"]}',
        b'{"namespace": "n", "name": "p", "uid": "u", "labels": {"a": 1}}',
        b'{"namespace": "n", "name": "p", "uid": "u", "owner_kind": {}}',
        b'{"namespace": "n", "name": "p", "uid": "u", "cut": "no"}',
        b'{"namespace": "n", "name": "p", "uid": "u", "cut": {}}',
        b'{"namespace": "n", "name": true, "uid": "u"}',
        b'{"namespace": "n", "name": "' + b"x" * 20_000 + b'", "uid": "u"}',
        b'{"labels": ' + b"[" * 10_000,
    ],
)
def test_what_is_no_document_changes_nothing(data: bytes) -> None:
    pods = Pods()
    pods.take("u", PodIdentity("ns", "p", "u").encode())
    version = pods.version
    assert not pods.take("u", data)
    assert (pods.version, pods.get("u")) == (version, PodIdentity("ns", "p", "u"))


def test_a_document_about_another_pod_is_none() -> None:
    pods, static = Pods(), "0123456789abcdef" * 2
    assert not pods.take("u", PodIdentity("ns", "p", "other").encode())
    assert not pods.take(static, PodIdentity("ns", "p", "other", owner_kind="Deployment").encode())
    assert not pods.take("u", PodIdentity("ns", "p", "other", owner_kind="Node").encode())
    assert len(pods) == 0
    assert pods.take(static, PodIdentity("ns", "p", "other", owner_kind="Node").encode())


def test_texts_of_a_hostile_document_still_become_rows(tmp_path: Path) -> None:
    node = Node(tmp_path, ALL)
    hostile: Any = {"namespace": "\ud800", "name": "n\0", "uid": UID, "labels": {"\udfff": "x"}}
    assert node.pods.take(UID, json.dumps(hostile).encode())
    (row,) = node.rows(POD)
    assert row["namespace"] == "\\ud800"


def test_packets_are_judged_by_the_policies_that_capture(tmp_path: Path) -> None:
    tap = NodePolicy(
        "tap", "3", 1, host=False, pod_selector={"matchLabels": {"app": "till"}}, kernel={"enable_ebpf": False}, network={"enable_packet_capture": True}
    )  # fmt: skip
    node = Node(tmp_path, ALL, tap)
    packets = PodIdentities(node.pods, Bundles(tmp_path), node.identities.cgroups)
    assert packets.excluded(pairs_of(0, HOST)).tolist() == [0, HOST], (
        "nothing belongs to anybody before it is told who captures"
    )
    packets.select(Selection(NodeConfig((ALL, tap)), captures))
    node.pods.take(UID, document(app="till"))
    pairs = pairs_of(0, HOST, POD)
    assert packets.excluded(pairs).tolist() == [HOST]
    assert node.excluded(0, HOST, POD) == []
    named = packets.context(pairs)[1]
    assert [raw.decode() for raw in named.values("policies")] == ["tap\0", "", "tap\0"], (
        "what has no process belongs to whoever captures"
    )
    assert [row["policies"] for row in node.rows(HOST, POD)] == ["all\0", "all\0"]
    node.pods.take(UID, document(app="other"))
    assert packets.excluded(pairs).tolist() == [HOST, POD]
    node.identities.learn({7: ("/", f"/kubepods/pod{UID}/{'aa' * 32}")})
    assert packets.excluded(pairs_of(7)).tolist() == [7], "what one learns the other knows"
