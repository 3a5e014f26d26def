"""How many sensors and policies are in which state."""

from __future__ import annotations

from daemoneye.nodeconfig import REFUSED
from daemoneye_operator.reconcile import census, selection
from tests.unit.operator.factory import NOW, policy, policy_object, report

NODES = {f"n{i}": {"zone": "a" if i < 4 else "b"} for i in range(6)}
SINCE = NOW - 30


def plan(**spec):
    return selection.plan([policy("p", selector={"nodeSelector": {"zone": "a"}}, **spec)], NODES)


def count(the_plan, *reports, listening_since=0.0):
    return census.sensors(the_plan, {one.node: one for one in reports}, SINCE, listening_since=listening_since)


def test_nobody_is_desired_without_a_policy():
    empty = selection.plan([], NODES)
    assert count(empty, report(empty, "n0")) == {"desired": 0, "ready": 0, "silent": 0, "refusing": 0}


def test_each_selected_node_by_what_it_says():
    p = plan()
    late = report(p, "n1", received=SINCE - 1)
    refusing = report(p, "n2", state=REFUSED, reason="BadFilter")
    assert count(p, report(p, "n0"), late, refusing) == {"desired": 4, "ready": 2, "silent": 2, "refusing": 1}


def test_one_that_runs_a_former_configuration_is_neither_ready_nor_silent():
    p = plan()
    former = report(p, "n0", hash="former")
    assert count(p, former, *(report(p, n) for n in ("n1", "n2", "n3"))) == {
        "desired": 4, "ready": 3, "silent": 0, "refusing": 0,
    }  # fmt: skip


def test_programs_that_do_not_run_are_a_refusal_where_they_are_asked_for():
    asked = plan(kernelMonitoring={"enableEbpf": True})
    assert count(asked, report(asked, "n0", programs=False))["refusing"] == 1
    not_asked = plan(kernelMonitoring={"enableEbpf": False})
    assert count(not_asked, report(not_asked, "n0", programs=False))["refusing"] == 0
    assert count(asked, report(asked, "n0", capture=False))["refusing"] == 1


def test_who_began_to_listen_a_moment_ago_takes_nobody_for_silent():
    p = plan()
    assert count(p, listening_since=NOW - 10)["silent"] == 0
    assert count(p, listening_since=SINCE - 1)["silent"] == 4


def test_a_node_that_two_policies_select_is_one():
    both = selection.plan([policy("p"), policy("q", created=1)], NODES)
    assert count(both)["desired"] == len(NODES)


def test_policies_by_readiness():
    def of(name, *conditions):
        return {**policy_object(name), "status": {"conditions": list(conditions)}}

    ready = {"type": "Ready", "status": "True"}
    objects = [
        of("a", {"type": "SensorsAvailable", "status": "False"}, ready), of("b", replace_status(ready, "False")),
        of("c", replace_status(ready, "Unknown")), of("d"), policy_object("e"),
    ]  # fmt: skip
    assert census.policies(objects) == {"True": 1, "False": 1, "Unknown": 3}
    assert census.policies([]) == {"True": 0, "False": 0, "Unknown": 0}


def replace_status(condition, status):
    return {**condition, "status": status}
