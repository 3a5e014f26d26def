"""What findings come to beside objects: exceptions, a policy's tally; and what a peer is told."""

import json
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.wildcards import fits
from daemoneye_operator.reconcile.exception import MAX_TAUGHT, Exceptions
from daemoneye_operator.reconcile.findingobject import Ref
from daemoneye_operator.reconcile.findings import Aggregation, Limits
from daemoneye_operator.reconcile.peer import peer_status
from daemoneye_operator.reconcile.tally import Tallies
from tests.unit.operator.factory import NOW, exception_object, finding, policy

NONE = Exceptions()


def aggregation():
    return Aggregation(Limits(), "security")


@pytest.mark.parametrize(
    ("scope", "matches"),
    [
        ({"detector": "suspicious_exec"}, True),
        ({"detector": "suspicious"}, False),
        ({"workload": "shop/Deployment/till/*"}, True),
        ({"workload": "shop/*/till"}, True),
        ({"workload": "shop/Deployment/til?"}, False),
        ({"image": "*/till:?"}, True),
        ({"image": "shop/till"}, False),
        ({"key": "memfd:a"}, True),
        ({"key": "memfd:*"}, False),
        ({"detector": "suspicious_exec", "image": "other*"}, False),
    ],
)
def test_a_scope_is_all_that_it_names(scope, matches):
    exceptions = Exceptions()
    exceptions.load([exception_object(**scope)])
    outcome = aggregation().add(finding(), exceptions, NOW)
    assert (outcome.kind == "excepted") is matches
    assert outcome.counted is not matches


def test_an_exception_holds_in_its_namespace_until_it_ends():
    exceptions = Exceptions()
    exceptions.load(
        [
            exception_object(namespace="other", detector="suspicious_exec"),
            exception_object("old", expires="2026-12-31T00:00:00Z", detector="suspicious_exec"),
        ]
    )
    assert aggregation().add(finding(), exceptions, NOW).kind == "new"


def benign(objects, now=NOW):
    exceptions = Exceptions()
    exceptions.load(objects)
    return exceptions.benign(now, "security")


def test_what_analytics_may_learn_is_what_is_in_force_and_called_benign():
    accepted = exception_object("accepted", detector="d")
    accepted["spec"]["verdict"] = "AcceptedRisk"
    ended = exception_object("ended", expires="2026-12-31T00:00:00Z", detector="d")
    broken = exception_object("broken", expires="tomorrow", detector="d")
    good = exception_object("good", detector="d", workload="shop/*", image="*/till:?", key="k")
    assert benign([accepted, ended, broken, good]) == [
        {
            "namespace": "shop",
            "detector": "d",
            "workload": "shop/*",
            "image": "*/till:?",
            "key": "k",
            "expires": 1_893_456_000.0,
        }
    ]
    assert benign([good], now=1_893_456_000.0) == [], "it ended this moment"


def test_in_the_releases_namespace_a_verdict_is_about_processes_outside_of_pods_too():
    assert [one["namespace"] for one in benign([exception_object(namespace="security", key="k")])] == ["security", ""]


def test_what_analytics_is_told_is_bounded_and_in_an_order_that_is_the_same_each_time():
    objects = [exception_object(f"e{number:04}", workload=f"{number:04}" * 60) for number in range(3000)]
    told = benign(objects)
    assert 0 < len(told) < len(objects)
    assert len(json.dumps(told)) < MAX_TAUGHT + 2 * len(told) + 2
    assert told == benign(objects[::-1])
    assert [one["workload"][:4] for one in told] == [f"{number:04}" for number in range(len(told))]


def told(status):
    return status["conditions"][0]["status"], status["conditions"][0]["reason"]


def test_what_an_exception_suppressed_is_counted_once_each_and_outlives_the_operator():
    obj = exception_object(detector="suspicious_exec")
    exceptions = Exceptions()
    exceptions.load([obj])
    one = aggregation()
    for number in (1, 2, 2, 1):
        one.add(finding(number), exceptions, NOW)
    status = exceptions.status(obj, NOW)
    assert status["suppressed"] == 2
    assert told(status) == ("True", "InForce")
    later = Exceptions()
    later.load([{**obj, "status": status}])
    one.add(finding(3), later, NOW)
    assert later.status({**obj, "status": status}, NOW)["suppressed"] == 3
    assert one.pending(NOW) == []


def test_an_exceptions_status():
    exceptions = Exceptions()
    assert told(exceptions.status(exception_object(detector="d", expires="2026-01-01T00:00:00+01:00"), NOW)) == (
        "False",
        "Expired",
    )
    assert told(exceptions.status(exception_object(), NOW)) == ("False", "InvalidSpec")
    broken = exceptions.status(exception_object(detector="d", expires="2026-13-01T00:00:00Z"), NOW)
    assert told(broken) == ("False", "InvalidSpec")
    assert "spec.expiresAt is no time" in broken["conditions"][0]["message"]
    exceptions.load([exception_object()])  # one that cannot be read is no reason to stop


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_a_pattern_is_what_it_says(pattern, text):
    expected = (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(character, character) for character in pattern), text)
        is not None
    )
    assert fits(pattern, text) is expected


def test_no_pattern_blows_up():
    begin = time.process_time()
    assert not fits("*a" * 500 + "b", "a" * 1100)
    assert time.process_time() - begin < 1


# ── tallies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_policys_tally():
    one, tallies = aggregation(), Tallies()
    tallies.know([policy("p"), policy("q")], lambda name: None)
    for number in range(7):
        tallies.add(one.add(finding(number, key=str(number % 6), time=f"2026-01-02T03:04:0{number}Z"), NONE, NOW))
    tallies.add(one.add(finding(6, key="0"), NONE, NOW))
    value = tallies.of(policy("p")).to_json()
    assert value["total"] == 7
    assert value["last"] == "2026-01-02T03:04:06Z"
    assert [each["time"][-3:-1] for each in value["newest"]] == ["06", "05", "04", "03", "02"]
    assert tallies.of(policy("q")).to_json() == {"total": 0, "newest": []}
    first = value["newest"][0]
    tallies.drop([Ref(first["namespace"], first["name"])])
    assert first not in tallies.of(policy("p")).to_json()["newest"]

    later = Tallies()
    later.know([policy("p")], lambda name: {"findings": value})
    assert later.of(policy("p")).to_json() == value
    later.know([replace(policy("p"), uid="another")], lambda name: None)
    assert later.of(policy("p")).total == 0


# ── peers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_peer_is_told_that_nobody_connects():
    obj = {
        "metadata": {"name": "x", "generation": 2},
        "spec": {"role": "Primary", "endpoint": "https://primary.example.com"},
    }
    status = peer_status(obj, NOW)
    assert {each["type"]: each["reason"] for each in status["conditions"]} == dict.fromkeys(
        ("Ready", "Connected", "InSync", "ConflictsPending"), "NotImplemented"
    )
    assert status["observedGeneration"] == 2
    assert peer_status({**obj, "status": status}, NOW + 50) == status
    assert peer_status({**obj, "spec": {}}, NOW)["conditions"][0]["reason"] == "InvalidSpec"
