"""Which node runs which configuration."""

import time

from hypothesis import given
from hypothesis import strategies as st

from daemoneye_operator.reconcile.daemonset import all_tolerations
from daemoneye_operator.reconcile.selection import plan, removal, sensor_nodes, tolerations
from tests.unit.operator.factory import policy, settings

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"))


@given(st.lists(LABELS, max_size=6), st.lists(LABELS, max_size=8))
def test_selected_is_what_kubernetes_would_select(selectors, nodes):
    policies = [
        policy(f"p{number}", number, selector={"nodeSelector": labels}) for number, labels in enumerate(selectors)
    ]
    made = plan(policies, {f"n{number}": labels for number, labels in enumerate(nodes)})
    for one, selector in zip(policies, selectors, strict=True):
        assert made.selected[one.uid] == tuple(
            f"n{number}" for number, labels in enumerate(nodes) if selector.items() <= labels.items()
        )
    for node, config_hash in made.nodes.items():
        assert {one.uid for one in made.configs[config_hash].policies} == {
            uid for uid, names in made.selected.items() if node in names
        }
    assert made.nodes.keys() == {f"n{number}" for number in range(len(nodes))}


def test_nodes_of_the_same_policies_share_a_configuration():
    policies = [policy("all", 0), policy("gpu", 1, selector={"nodeSelector": {"gpu": "yes"}})]
    made = plan(policies, {"a": {"zone": "1"}, "b": {"zone": "2"}, "c": {"zone": "1", "gpu": "yes"}})
    assert made.nodes["a"] == made.nodes["b"] != made.nodes["c"]
    assert len(made.configs) == 2


def test_a_refusal_is_told_for_the_nodes_where_it_holds():
    old = policy("old", 0, selector={"nodeSelector": {"gpu": "yes"}}, kernelMonitoring={"ebpfProgramPath": "/a.o"})
    young = policy("young", 1, kernelMonitoring={"ebpfProgramPath": "/b.o"})
    made = plan([old, young], {"b": {"gpu": "yes"}, "a": {}, "c": {"gpu": "yes"}})
    assert made.refused["uid-young"].nodes == ("b", "c")
    assert made.refused["uid-young"].refusal.reason == "Conflict"
    assert [one.name for one in made.configs[made.nodes["a"]].policies] == ["young"]
    assert [one.name for one in made.configs[made.nodes["b"]].policies] == ["old"]


def test_who_contradicts_in_what_the_cluster_has_once_is_refused_everywhere():
    old = policy("old", 0, selector={"nodeSelector": {"x": "1"}}, analytics={"modelUpdateInterval": 60})
    young = policy("young", 1, analytics={"modelUpdateInterval": 90})
    made = plan([old, young], {"a": {}, "b": {}})
    assert made.refused["uid-young"].nodes == ("a", "b")
    assert not made.configs[made.nodes["a"]].policies


def test_a_thousand_nodes_and_64_policies_take_well_under_a_second():
    policies = [
        policy(f"p{number}", number, selector={"nodeSelector": {"zone": str(number % 4)}}) for number in range(64)
    ]
    nodes = {f"n{number}": {"kubernetes.io/hostname": f"n{number}", "zone": str(number % 4)} for number in range(1000)}
    begin = time.process_time()
    made = plan(policies, nodes)
    assert time.process_time() - begin < 0.5
    assert len(made.configs) == 4


def test_leaving():
    made = removal(["b", "a"])
    assert list(made.nodes) == ["a", "b"]
    (config,) = made.configs.values()
    assert config.remove


def test_tolerations_are_a_union_in_one_order():
    gpu, all_of = {"key": "gpu", "operator": "Exists"}, {"operator": "Exists", "effect": "NoSchedule"}
    one = policy("a", selector={"tolerations": [gpu, all_of]})
    two = policy("b", selector={"tolerations": [all_of, gpu]})
    assert tolerations([one, two]) == tolerations([two]) == tolerations([two, one])
    assert len(tolerations([one, two])) == 2


def node(name, labels=None, *taints):
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [{"key": key, "value": value, "effect": effect} for key, value, effect in taints]},
    }


def test_sensors_run_where_the_daemonset_has_a_pod():
    nodes = [
        node("a", {"os": "linux"}),
        node("b", {"os": "windows"}),
        node("c", {"os": "linux"}, ("control", "", "NoSchedule")),
        node("d", {"os": "linux"}, ("node.kubernetes.io/not-ready", "", "NoExecute"), ("x", "", "PreferNoSchedule")),
        node("e", {"os": "linux"}, ("dedicated", "gpu", "NoExecute")),
        node("f", {"os": "linux"}, ("dedicated", "cpu", "NoExecute")),
    ]
    tolerated = all_tolerations(
        settings(), tolerations([policy(selector={"tolerations": [{"key": "dedicated", "value": "gpu"}]})])
    )
    assert list(sensor_nodes(nodes, {"os": "linux"}, tolerated)) == ["a", "d", "e"]
    everything = [{"operator": "Exists"}]
    assert list(sensor_nodes(nodes, {}, everything)) == ["a", "b", "c", "d", "e", "f"]


def test_a_taint_that_forbids_to_schedule_leaves_a_running_sensor_where_it_is():
    nodes = [node("a", {}, ("k", "v", "NoSchedule")), node("b", {}, ("k", "v", "NoExecute"))]
    assert list(sensor_nodes(nodes, {}, [])) == []
    assert list(sensor_nodes(nodes, {}, [], running={"a", "b"})) == ["a"]
