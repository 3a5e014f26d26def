"""The alert budget: so many a policy and day of the events' own time; the others are counted and listed, and a restart forgets none."""

from __future__ import annotations

import json

from daemoneye.findings import Finding, Subject
from daemoneye_analytics.budget import KEPT, MACHINE, Budget


def finding(day: int = 1, number: int = 0, text: str = "t") -> Finding:
    return Finding(
        id=f"{number:032x}", time=f"2026-01-{day:02}T00:00:00.000000000Z", severity="medium", score=0.9, detector="behavioral_anomaly", title=text,
        subject=Subject("n1", workload="shop/Deployment/till/main"), key=f"k{number}",
    )  # fmt: skip


def budget(**limits: int) -> Budget:
    made = Budget()
    made.limits = limits
    return made


def test_each_policy_is_told_so_many_a_day_and_the_next_day_again():
    spent = budget(a=2, b=3)
    told = [spent.admit(finding(1, n), ("a", "b")) for n in range(4)]
    assert told == [("a", "b"), ("a", "b"), ("b",), ()]
    assert spent.admit(finding(2), ("a", "b")) == ("a", "b")
    assert spent.total == 1
    assert spent.policies == {"a": 2, "b": 1}


def test_what_nobody_was_told_is_listed_the_newest_first():
    spent = budget(a=1)
    for number in range(3):
        spent.admit(finding(1, number), ("a",))
    status = spent.status()
    assert [entry["key"] for entry in status["newest"]] == ["k2", "k1"]
    assert status["newest"][0]["workload"] == "shop/Deployment/till/main"
    assert status["newest"][0]["policies"] == ["a"]


def test_what_repeats_itself_is_listed_and_pushes_nothing_else_out():
    spent = budget(a=1)
    for number in range(2):
        spent.admit(finding(1, number), ("a",))
    for number in range(3 * KEPT):
        spent.note(finding(2, number, "\U0001f600" * 5000), ("a",))
    again = Budget.restored(json.loads(json.dumps(spent.state())))
    assert again.status() == spent.status()
    status = again.status()
    assert (status["total"], status["repeats"]) == (1, 3 * KEPT)
    assert [entry["key"] for entry in status["newest"] if entry["reason"] == "budget"] == ["k1"]
    assert status["newest"][0]["key"] == f"k{3 * KEPT - 1}"
    assert len(json.dumps(status)) < 96 * 1024
    former = {name: value for name, value in spent.state().items() if not name.startswith("repeat")}
    assert Budget.restored(former).status()["repeats"] == 0


def test_zero_is_no_limit_and_a_machine_has_a_budget_of_its_own():
    assert all(budget(a=0).admit(finding(1, n), ("a",)) for n in range(500))
    alone = Budget()
    alone.limits = {MACHINE: 1}
    assert [alone.admit(finding(1, n), (MACHINE,)) for n in range(2)] == [(MACHINE,), ()]


def test_a_restart_goes_on_counting():
    spent = budget(a=2)
    spent.admit(finding(1, 0), ("a",))
    again = Budget.restored(json.loads(json.dumps(spent.state())))
    again.limits = {"a": 2}
    assert [again.admit(finding(1, n), ("a",)) for n in (1, 2)] == [("a",), ()]
    assert (again.total, again.policies) == (1, {"a": 1})


def test_the_list_is_bounded_whatever_the_texts_are():
    spent = budget(a=1)
    for number in range(3 * KEPT):
        spent.admit(finding(1, number, "\U0001f600" * 5000), ("a",))
    for number in range(500):
        spent.limits = {**spent.limits, f"{number:0253}": 1}
        for _ in range(2):
            spent.admit(finding(1), (f"{number:0253}",))
    status = spent.status()
    assert status["total"] == 3 * KEPT - 1 + 500
    assert status["policies"]["a"] == 3 * KEPT - 1
    assert 0 < len(status["newest"]) <= KEPT
    assert len(json.dumps(status)) < 96 * 1024
