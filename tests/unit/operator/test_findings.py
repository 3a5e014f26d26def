"""Findings become objects: counted once each, few, bounded."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemoneye.api.v1alpha1.finding import Finding as FindingObject
from daemoneye.findings import Finding, Process, Technique
from daemoneye_operator.reconcile import event as events
from daemoneye_operator.reconcile.exception import Exceptions
from daemoneye_operator.reconcile.findingobject import build, reference, spec_of
from daemoneye_operator.reconcile.findings import MEMORY, Aggregation, Limits
from tests.unit.operator.factory import NOW, finding

NONE = Exceptions()


def aggregation(**limits):
    return Aggregation(Limits(**limits), "security", instance="operator-0")


def store(one, now=NOW):
    writes = one.pending(now)
    for write in writes:
        one.stored(write, now)
    return writes


FLOOD = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["low", "high", "critical"]),
        st.integers(0, 59),
    ),
    max_size=30,
)


def drawn(flood):
    # The id follows from the first number, as it follows from what happened.
    distinct = {number: rest for number, *rest in flood}
    return [
        finding(
            number,
            key=f"{number % 3}{key if number % 2 else ''}",
            severity=severity,
            time=f"2026-01-02T03:04:{second:02}Z",
        )
        for number, (key, severity, second) in distinct.items()
    ]


@given(FLOOD, st.randoms())
def test_replaying_never_raises_a_count(flood, random):
    found = drawn(flood)
    one = aggregation()
    for each in found:
        one.add(each, NONE, NOW)
    before = {write.ref: write.status["count"] for write in one.pending(NOW)}
    for each in random.sample(found * 3, len(found) * 3):
        assert one.add(each, NONE, NOW).kind == "duplicate"
    after = {write.ref: write.status["count"] for write in one.pending(NOW)}
    assert before == after
    assert sum(after.values()) == len(found)


@given(FLOOD, st.randoms())
def test_order_changes_no_count_time_or_severity(flood, random):
    found = drawn(flood)
    results = []
    for order in (found, random.sample(found, len(found))):
        one = aggregation()
        for each in order:
            one.add(each, NONE, NOW)
        results.append(
            {
                w.ref: (w.status["count"], w.status["firstSeen"], w.status["lastSeen"], w.obj["spec"]["severity"])
                for w in one.pending(NOW)
            }
        )
    assert results[0] == results[1]


def test_one_object_for_what_repeats():
    one = aggregation()
    assert one.add(finding(1), NONE, NOW).kind == "new"
    assert one.add(finding(2, time="2026-01-02T03:05:00Z", pid=8), NONE, NOW).kind == "repeated"
    (write,) = one.pending(NOW)
    assert write.ref.namespace == "shop"
    assert write.ref.name.startswith("suspicious-exec-")
    assert len(write.ref.name) == len("suspicious-exec-") + 10
    assert write.status == {
        "count": 2, "firstSeen": "2026-01-02T03:04:05Z", "lastSeen": "2026-01-02T03:05:00Z", "lastFindingID": finding(2).id, "observedGeneration": 1,
    }  # fmt: skip
    FindingObject.model_validate({**write.obj, "status": write.status}, by_alias=True, by_name=False)
    one.stored(write, NOW)
    assert one.pending(NOW) == []


@pytest.mark.parametrize(
    "change", [{"key": "other"}, {"image": "shop/till:2"}, {"workload": "shop/Deployment/till/side"}]
)
def test_what_differs_has_an_object_of_its_own(change):
    assert reference(spec_of(finding()), "security") != reference(spec_of(finding(**change)), "security")
    assert reference(spec_of(finding()), "security") == reference(
        spec_of(finding(5, pid=99, node="node-2", severity="low")), "security"
    )


def test_findings_of_hosts_live_with_the_release():
    host = finding(namespace="", pod="", container="", image="", workload="host/systemd/ssh.service")
    one = aggregation()
    one.add(host, NONE, NOW)
    (write,) = one.pending(NOW)
    assert write.ref.namespace == "security"
    assert write.event is None
    assert reference(spec_of(finding(namespace="../etc")), "security").namespace == "security"


def test_a_write_that_failed_is_pending_still():
    one = aggregation()
    one.add(finding(1), NONE, NOW)
    (first,) = one.pending(NOW)
    one.add(finding(2), NONE, NOW)
    one.stored(first, NOW)
    (second,) = one.pending(NOW)
    assert second.obj is None
    assert second.status["count"] == 2


def test_an_event_that_may_have_been_written_comes_again_as_it_was():
    one = aggregation()
    one.add(finding(1), NONE, NOW)
    (first,) = one.pending(NOW)
    (again,) = one.pending(NOW + 5)
    assert first.event == again.event


def test_more_severe_replaces_the_object():
    one = aggregation()
    one.add(finding(1, severity="low"), NONE, NOW)
    store(one)
    one.add(finding(2, severity="critical"), NONE, NOW)
    (write,) = store(one)
    assert write.replace
    assert write.obj["spec"]["severity"] == "critical"
    assert write.status["count"] == 2
    one.add(finding(3, severity="low"), NONE, NOW)
    (write,) = store(one)
    assert not write.replace
    assert write.obj is None


def test_the_number_of_objects_is_bounded():
    one = aggregation(objects=2, age=1e9)
    for number, second in enumerate((30, 10, 20)):
        one.add(finding(number, key=str(number), time=f"2026-01-02T03:04:{second}Z"), NONE, NOW)
        store(one)
    assert len(one) == 2
    (gone,) = one.deletions(NOW)
    assert gone == reference(spec_of(finding(key="1")), "security")
    one.deleted(gone)
    assert one.deletions(NOW) == []


def test_what_was_evicted_before_it_was_written_is_no_object():
    one = aggregation(objects=1)
    one.add(finding(1, key="a"), NONE, NOW)
    one.add(finding(2, key="b"), NONE, NOW)
    assert [write.ref for write in one.pending(NOW)] == [reference(spec_of(finding(key="b")), "security")]
    assert one.deletions(0) == []


def test_what_was_evicted_while_it_was_written_goes():
    one = aggregation(objects=1)
    one.add(finding(1, key="a"), NONE, NOW)
    (write,) = one.pending(NOW)
    one.add(finding(2, key="b"), NONE, NOW)
    one.stored(write, NOW)
    assert one.deletions(0) == [write.ref]


def test_objects_age():
    one = aggregation(age=100)
    one.add(finding(1, time="2027-01-15T07:59:00Z"), NONE, NOW)  # a minute ago
    store(one)
    assert one.deletions(NOW + 40) == []
    assert len(one.deletions(NOW + 41)) == 1


def test_a_clock_that_is_ahead_makes_no_object_for_ever():
    one = aggregation(age=100)
    outcome = one.add(finding(1, time="2099-01-01T00:00:00Z"), NONE, NOW)
    assert outcome.time == NOW
    store(one)
    assert len(one.deletions(NOW + 101)) == 1


def test_the_rate_of_creation_is_bounded():
    one = aggregation(creations_per_minute=3)
    kinds = [one.add(finding(number, key=str(number)), NONE, NOW).kind for number in range(5)]
    assert kinds == ["new"] * 3 + ["limited"] * 2
    assert one.suppressed == 2
    assert one.add(finding(9, key="0"), NONE, NOW).kind == "repeated"
    assert one.add(finding(10, key="10"), NONE, NOW + 20).kind == "new"
    assert one.add(finding(11, key="11"), NONE, NOW + 20).kind == "limited"


def test_a_new_operator_goes_on_from_the_objects():
    one = aggregation()
    one.add(finding(1), NONE, NOW)
    (write,) = store(one)
    meta = {**write.obj["metadata"], "creationTimestamp": "2026-01-02T03:04:05Z"}
    other = aggregation()
    other.seed([{**write.obj, "metadata": meta, "status": write.status}])
    assert other.pending(NOW) == []
    assert other.add(finding(1), NONE, NOW).kind == "duplicate"
    assert other.add(finding(2), NONE, NOW).kind == "repeated"
    (again,) = other.pending(NOW)
    assert again.obj is None
    assert again.status["count"] == 2


def test_an_object_that_a_user_deleted_is_made_anew():
    one = aggregation()
    one.add(finding(1), NONE, NOW)
    (write,) = store(one)
    one.deleted(write.ref)
    assert one.add(finding(2), NONE, NOW).kind == "new"
    (again,) = one.pending(NOW)
    assert again.status["count"] == 1


def test_what_is_counted_while_its_object_vanishes_is_a_new_objects():
    one = aggregation()
    one.add(finding(1), NONE, NOW)
    one.add(finding(2), NONE, NOW)
    (first,) = store(one)
    one.add(finding(3), NONE, NOW + 1)
    one.vanished(first.ref)
    (write,) = one.pending(NOW + 1)
    assert write.obj is not None
    assert write.status["count"] == 1
    assert write.event is not None
    assert "series" not in write.event
    one.vanished(first.ref)  # told twice: by the write that failed and by the watch
    assert one.dirty() == {first.ref}
    store(one, NOW + 1)
    assert not one.dirty()
    one.vanished(first.ref)
    assert not one.pending(NOW + 2)
    assert len(one) == 0


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("daemoneye_operator.reconcile.findings.MEMORY", 4)
    one = aggregation()
    for number in range(6):
        one.add(finding(number), NONE, NOW)
    assert one.add(finding(5), NONE, NOW).kind == "duplicate"
    assert MEMORY > 10_000


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_pods_event():
    one = aggregation()
    one.add(finding(1), NONE, NOW)
    (write,) = store(one)
    event = write.event
    assert event["reason"] == "SuspiciousExec"
    assert event["type"] == "Warning"
    assert event["reportingController"] == "daemoneye-operator"
    assert event["reportingInstance"] == "operator-0"
    assert event["regarding"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "till-0", "uid": "uid-till", "fieldPath": "spec.containers{till}",
    }  # fmt: skip
    assert event["metadata"]["namespace"] == "shop"
    assert event["eventTime"] == "2027-01-15T08:00:00.000000Z"
    assert event["note"].startswith(
        "high: Program without a file. It was never on disk. (kubectl get finding -n shop suspicious-exec-"
    )


def test_at_most_one_event_in_five_minutes():
    one = aggregation()
    one.add(finding(0), NONE, NOW)
    (first,) = store(one)
    sent = []
    for number in range(1, 100):
        now = NOW + 10 * number
        one.add(finding(number), NONE, now)
        sent += [(number, write.event) for write in store(one, now) if write.event]
    assert [number for number, _ in sent] == [30, 60, 90]
    assert sent[0][1] == {**first.event, "series": {"count": 31, "lastObservedTime": "2027-01-15T08:05:00.000000Z"}}


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_a_note_has_a_bound(title, sentence):
    spec = spec_of(replace(finding(), title=title, explanation=(sentence,)))
    event = events.event(reference(spec, "x"), spec, "", NOW)
    assert event is not None
    assert len(event["note"].encode()) <= events.MAX_NOTE


@pytest.mark.parametrize(
    ("detector", "reason"),
    [("suspicious_exec", "SuspiciousExec"), ("a-b.c", "ABC"), ("__", "Finding"), ("x" * 300, "X" + "x" * 127)],
)
def test_a_reason_is_one_word(detector, reason):
    assert events.reason(detector) == reason


# ── the object's size ───────────────────────────────────────────────────────────────────────────────────────────────

CHARACTERS = st.sampled_from(["a", '"', "\x00", "\u2028", "😀", "é", "\udc80", "\u202e", "\\"])


@settings(max_examples=25)
@given(CHARACTERS, st.integers(0, 5000), st.integers(0, 130))
def test_an_object_fits_whatever_is_found(character, length, many):
    text = character * length
    huge = replace(
        finding(exe=text, argv=(text,) * many, labels={f"{number}{text}": text for number in range(many)}, workload=text, image=text, pod=text, container=text),
        title=text, key=text, explanation=(text,) * many, confidence_reasons=(text,) * many, policies=(text,) * many, detector=text or "d",
        techniques=(Technique(text, text),) * many, process_tree=(Process(1, text, (text,) * many),) * many,
    )  # fmt: skip
    spec = spec_of(huge)
    obj = build(reference(spec, "security"), spec, {})
    assert len(json.dumps(obj)) <= 15 * 1024
    FindingObject.model_validate(obj, by_alias=True, by_name=False)
    assert not any(control in json.dumps(obj, ensure_ascii=False) for control in ("\\u0000", "\u2028", "\u202e"))


@given(CHARACTERS, st.integers(0, 5000), st.integers(0, 130))
def test_so_does_what_travels(character, length, many):
    text = character * length
    huge = replace(
        finding(exe=text, argv=(text,) * many, labels={f"{number}{text}": text for number in range(many)}, image=text, owner_name=text),
        policies=(text[:253], *(f"{number:0253}" for number in range(many))), title=text, key=text, explanation=(text,) * many,
    )  # fmt: skip
    assert len(huge.encode()) <= 16 * 1024
    assert Finding.decode(huge.encode()).policies == tuple(Finding.decode(huge.encode()).to_json()["policies"])


def test_keys_that_are_cut_stay_two():
    one, two = (spec_of(finding(key="x" * 5000 + end)) for end in "ab")
    assert one["key"] != two["key"]


def test_ten_thousand_arguments_are_no_way_to_a_refused_object():
    spec = spec_of(finding(argv=("",) * 10_000))
    assert len(spec["subject"]["argv"]) <= 2100


def test_a_finding_about_the_network_names_both_ends_and_another_none():
    ends: dict[str, Any] = {
        "src_ip": "10.0.0.9",
        "src_port": 40_000,
        "dst_ip": "fd00:ec2::254",
        "dst_port": 80,
        "proto": "tcp",
    }
    spec = spec_of(finding(pid=0, exe="", argv=(), **ends))
    said = {name: spec["subject"][name] for name in ("srcIP", "srcPort", "dstIP", "dstPort", "proto")}
    assert said == {"srcIP": "10.0.0.9", "srcPort": 40_000, "dstIP": "fd00:ec2::254", "dstPort": 80, "proto": "tcp"}
    FindingObject.model_validate(build(reference(spec, "security"), spec, {}), by_alias=True, by_name=False)
    assert "srcIP" not in spec_of(finding())["subject"]
