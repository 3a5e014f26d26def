"""Which policies a pod or a process of the host belongs to."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye.podidentity import PodIdentity
from daemoneye.selectors import Selector
from daemoneye_sensor.enrich.selection import Selection

ON = {"enable_ebpf": True}


def named(selection: Selection, mask: int) -> list[str]:
    return [name.decode() for name in selection.names(mask).split(b"\0") if name]


def test_labels_of_pod_and_namespace_decide_and_the_host_belongs_to_whoever_selects_nothing() -> None:
    config = NodeConfig(
        (
            NodePolicy("all", "1", 1, kernel=ON),
            NodePolicy("till", "2", 1, host=False, pod_selector={"matchLabels": {"app": "till"}}, kernel=ON),
            NodePolicy("shop", "3", 1, host=False, namespace_selector={"matchLabels": {"team": "shop"}}, kernel=ON),
            NodePolicy("packets", "4", 1, kernel={"enable_ebpf": False}),
        )
    )
    selection = Selection(config)
    assert named(selection, selection.host) == ["all"]
    assert named(selection, selection.everyone) == ["all", "till", "shop"], "only who asks for processes"
    till = PodIdentity("shop", "p", "u1", labels={"app": "till"}, namespace_labels={"team": "shop"})
    other = PodIdentity("bank", "p", "u2", labels={"app": "till"}, namespace_labels={"team": "bank"})
    assert named(selection, selection.of(till)) == ["all", "till", "shop"]
    assert named(selection, selection.of(other)) == ["all", "till"]
    relabelled = PodIdentity("shop", "p", "u1", labels={}, namespace_labels={"team": "shop"})
    assert named(selection, selection.of(relabelled)) == ["all", "shop"], "another document of the same pod"
    padded = PodIdentity("bank", "p", "u3", cut=True)
    assert named(selection, selection.of(padded)) == ["all", "till", "shop"], (
        "the label that decides may be one of those left out"
    )


def test_a_selector_that_means_nothing_selects_nothing_and_is_named() -> None:
    bad = {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["x"]}]}
    selection = Selection(
        NodeConfig(
            (NodePolicy("bad", "1", 1, host=False, pod_selector=bad, kernel=ON), NodePolicy("ok", "2", 1, kernel=ON))
        )
    )
    assert set(selection.broken) == {"1"}
    assert "'Like' is none of In" in selection.broken["1"]
    assert named(selection, selection.everyone) == ["ok"]
    wrongs: list[Any] = [{"matchLabels": 1}, {"matchExpressions": [{}]}, {"matchExpressions": 3}, [1]]
    for wrong in wrongs:
        policy = NodePolicy("bad", "1", 1, pod_selector=wrong, kernel=ON)
        assert Selection(NodeConfig((policy,))).broken


labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
selectors = st.none() | st.fixed_dictionaries({"matchLabels": labels})


@given(
    st.lists(st.tuples(selectors, selectors), max_size=64), st.lists(st.tuples(labels, labels), min_size=1, max_size=4)
)
def test_a_mask_names_exactly_the_policies_whose_selectors_match(policies: Any, pods: Any) -> None:
    config = NodeConfig(
        tuple(
            NodePolicy(f"p{i}", str(i), 1, namespace_selector=namespace, pod_selector=pod, kernel=ON)
            for i, (namespace, pod) in enumerate(policies)
        )
    )
    selection = Selection(config)
    for i, (own, namespace) in enumerate(pods):
        pod = PodIdentity("ns", "p", string.hexdigits[i], labels=own, namespace_labels=namespace)
        expected = [
            f"p{n}"
            for n, (a, b) in enumerate(policies)
            if Selector.parse(a).matches(namespace) and Selector.parse(b).matches(own)
        ]
        for _ in range(2):
            assert named(selection, selection.of(pod)) == expected
        mask = selection.of(pod)
        assert selection.mask(selection.names(mask)) == mask
        assert selection.mask(b"gone\0" + selection.names(mask)) == mask
