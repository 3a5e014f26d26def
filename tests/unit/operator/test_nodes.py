"""Heartbeats: read with suspicion, the newest kept."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye import subjects
from daemoneye.errors import CorruptData
from daemoneye.nodeconfig import NodeAnswer, PolicyAnswer
from daemoneye_operator.reconcile.nodes import MAX_HEARTBEAT, Heartbeats, NodeReport

ANSWER = NodeAnswer("hash", (PolicyAnswer("p", "u", 1),), programs=True)


def heartbeat(**value):
    return json.dumps({"state": "ready", "config": ANSWER.to_json(), **value}).encode()


def test_a_heartbeat_is_read():
    report = NodeReport.read(subjects.status("ip-10.internal"), heartbeat(version="1.0", node="liar"), 5.0)
    assert report == NodeReport("ip-10.internal", 5.0, ANSWER, "ready", "1.0")


def test_sensors_without_a_configuration_say_nothing_of_one():
    assert NodeReport.read(subjects.status("n"), b'{"state": "starting"}', 0).answer == NodeAnswer()


@pytest.mark.parametrize(
    ("subject", "data"),
    [
        (subjects.component("analytics"), heartbeat()),
        (subjects.status("n") + ".x", heartbeat()),
        (subjects.status("n"), b"{"),
        (subjects.status("n"), b"[]"),
        (subjects.status("n"), heartbeat(config={"hash": 1})),
        (subjects.status("n"), heartbeat(config=[])),
        (subjects.status("n"), b"[" * 100_000),
        (subjects.status("n"), heartbeat(x="x" * MAX_HEARTBEAT)),
    ],
    ids=["component", "longer", "cut", "list", "short", "no-object", "deep", "large"],
)
def test_what_is_no_heartbeat_is_refused(subject, data):
    with pytest.raises(CorruptData):
        NodeReport.read(subject, data, 0)


KEYS = st.sampled_from(["config", "state", "hash", "policies", "programs", "capture", "problem"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)))
def test_anything_is_read_or_refused(value):
    with contextlib.suppress(CorruptData):
        NodeReport.read(subjects.status("n"), json.dumps(value).encode(), 0)


def test_the_newest_is_kept_and_news_is_told():
    heartbeats = Heartbeats()
    assert heartbeats.put(NodeReport("a", 1.0, ANSWER))
    assert not heartbeats.put(NodeReport("a", 2.0, ANSWER))
    assert heartbeats.reports["a"].received == 2.0
    assert heartbeats.put(NodeReport("a", 3.0, ANSWER, "removed"))
    assert heartbeats.removed(["a"])
    assert not heartbeats.removed(["a", "b"])


def test_the_number_of_nodes_is_bounded():
    heartbeats = Heartbeats(2)
    for number, node in enumerate("abac"):
        heartbeats.put(NodeReport(node, number))
    assert list(heartbeats.reports) == ["a", "c"]
    heartbeats.keep(["c"])
    assert list(heartbeats.reports) == ["c"]
