"""The cluster's policies: what runs, what counts, what is left out with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.errors import CorruptData
from daemoneye.events.flags import Flag
from daemoneye_analytics import policies, registry
from daemoneye_analytics.detectors.base import detector
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.vault.arming import Wanted
from daemoneye_operator.reconcile import analytics
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, WORKLOAD, Exec
from tests.unit.operator.factory import policy

KNOWN = registry.available()
QUICK = {"learning_events": 5, "learning_seconds": 1}

ALWAYS = {"cloud_metadata", "network_scan", "dns_tunnel", "beacon", "mining_pool", "tls_without_name"}
"""Detectors that no document here switches off."""


def by(policies: set[str], *detectors: str) -> dict[str, set[str]]:
    """What is wanted of these detectors by these policies."""
    return dict.fromkeys(detectors, policies)


def document(*entries: Any) -> bytes:
    return json.dumps({"policies": entries}).encode()


def entry(name: str, *detectors: Any, behavioral: bool = True) -> dict[str, Any]:
    return {"name": name, "uid": "u", "behavioral": behavioral, "anomaly_threshold": 0.8, "detectors": list(detectors)}


def read(*entries: Any) -> policies.Configuration:
    return policies.read(document(*entries), KNOWN)


def names(configuration):
    return {c.detector.declaration.name for c in configuration.chosen}


def test_evidence_is_kept_for_the_policies_that_ask_for_it_within_bounds():
    asked = policy(
        "packets", 1, networkMonitoring={"enablePacketCapture": True, "evidence": {"enabled": True, "maxSizeMb": 4}}
    )
    told = policies.read(analytics.encode(analytics.document([asked, policy("others", 2)])), KNOWN)
    assert told.evidence == {"packets": Wanted(60, 4 << 20)}
    bad: list[Any] = [
        {"seconds": 10**6, "max_size_mb": 4},
        {"seconds": "60", "max_size_mb": 4},
        {"seconds": 60},
        [],
        "on",
    ]
    for evidence in bad:
        assert read({**entry("a"), "evidence": evidence}).evidence == {}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_operators_document_is_read():
    asked = policy(
        "shop",
        analytics={
            "enableBehavioralAnalysis": True,
            "detectors": [
                {"name": "suspicious_exec", "enabled": False},
                {"name": "first_seen", "parameters": {"learning_events": "7", "exclude_workloads": '["host/*"]'}},
            ],
        },
    )
    data = analytics.encode(analytics.document([asked]))
    got = policies.read(data, KNOWN)
    assert got.hash == analytics.config_hash(data)
    assert got.policies == {"shop"}
    assert got.wants == by({"shop"}, "first_seen", "behavioral_anomaly", *ALWAYS)
    (chosen,) = (one for one in got.chosen if one.detector.declaration.name == "first_seen")
    assert chosen.parameters["learning_events"] == 7
    assert chosen.parameters["exclude_workloads"] == ("host/*",)
    assert got.problems == {}


def test_no_policy_wants_nothing():
    got = policies.read(analytics.encode(analytics.document([])), KNOWN)
    assert (got.policies, got.chosen, got.wants, got.problems) == (frozenset(), (), {}, {})


def test_a_detector_runs_if_one_policy_wants_it():
    off = {"name": "suspicious_exec", "enabled": False}
    got = read(entry("a", off, behavioral=False), entry("b", behavioral=False), entry("c", off))
    assert got.wants == {"suspicious_exec": {"b"}, "first_seen": {"c"}} | by({"a", "b", "c"}, *ALWAYS)
    assert names(read(entry("a", off, behavioral=False))) == ALWAYS
    assert names(read(entry("a"))) == {"suspicious_exec", "first_seen", *ALWAYS}


@pytest.mark.parametrize(
    ("setting", "sentence", "wanted"),
    [
        ({"name": "nope"}, "There is no detector 'nope', its entry is left out; there are beacon, behavioral_anomaly, cloud_metadata,", True),
        ({"name": "first_seen", "parameters": {"learning": 3}}, "unknown parameter 'learning'; it has learning_events", True),
        ({"name": "first_seen", "parameters": {"learning_events": "x"}}, "Detector first_seen.learning_events: 'x' is not of type int", True),
        ({"name": "first_seen", "parameters": {"max_items": 1}}, "1 is less than 100; its parameters are left out.", True),
        ({"name": "first_seen", "parameters": [1]}, "its parameters are [1], no table", True),
        ({"name": "first_seen", "enabled": False, "parameters": {"x": 1}}, "unknown parameter 'x'", False),
        ({"name": "first_seen", "enabled": "no"}, "'enabled' is 'no', not true or false", True),
        ({"name": 3}, "has no name: {'name': 3}", True),
        ("first_seen", "has no name: 'first_seen'", True),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_bad_entry_is_left_out_with_a_sentence_and_everything_else_runs(setting, sentence, wanted):
    got = read(entry("bad", setting), entry("good", {"name": "suspicious_exec", "parameters": {"depth": 2}}))
    assert sentence in got.problems["bad"]
    assert set(got.problems) == {"bad"}
    assert ("bad" in got.wants["first_seen"]) is wanted
    assert got.wants["suspicious_exec"] == {"bad", "good"}
    assert {c.parameters["depth"] for c in got.chosen if "depth" in c.parameters} == {2}


def test_policies_of_another_form():
    twice = {"name": "first_seen", "enabled": False}
    got = read({"uid": "u"}, 3, entry("a", twice, {"name": "first_seen"}), {"name": "b", "detectors": 4}, {"name": "c"})
    assert got.policies == {"a", "b", "c"}
    assert set(got.problems) == {"policy 1", "policy 2", "a", "b"}
    assert "first entry counts" in got.problems["a"]
    assert got.wants == by({"a", "b", "c"}, "suspicious_exec", *ALWAYS)


def test_the_oldest_policys_parameters_hold():
    got = read(
        entry("old", {"name": "first_seen", "parameters": {"learning_events": 1}}),
        entry("young", {"name": "first_seen", "parameters": {"learning_events": 2}}),
    )
    assert [c.parameters["learning_events"] for c in got.chosen if "learning_events" in c.parameters] == [1]


def test_a_detector_that_cannot_be_made_is_nobodys():
    @detector(name="mine", version=1, title="t", severity="low", techniques=())
    class Mine:
        """Fails."""

        def __init__(self, parameters):
            raise RuntimeError("no model")

    data = document(entry("a"), entry("b", {"name": "mine", "enabled": False}))
    got = policies.read(data, {**KNOWN, "mine": Mine})  # type: ignore[dict-item]
    assert "mine" not in got.wants
    assert got.problems == {"a": "Detector mine cannot be made and does not run: RuntimeError('no model')."}
    assert names(got) == {"suspicious_exec", "first_seen", *ALWAYS}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"{}", b'{"policies":3}', b"\xff", b"[" * 100_000], ids=range(8)
)
def test_what_is_no_document_is_refused(data):
    with pytest.raises(CorruptData, match="analytics' configuration is no JSON with a list of policies"):
        policies.read(data, KNOWN)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=2), max_leaves=4
)
SETTINGS = st.fixed_dictionaries(
    {}, optional={"name": st.sampled_from(["first_seen", "suspicious_exec", "x"]) | VALUES, "enabled": VALUES, "parameters": VALUES}
)  # fmt: skip


@given(
    st.lists(
        VALUES
        | st.fixed_dictionaries(
            {"name": st.text(max_size=3)},
            optional={"behavioral": VALUES, "detectors": VALUES | st.lists(SETTINGS, max_size=3)},
        ),
        max_size=4,
    )
)
def test_whatever_a_document_says_what_can_run_runs(entries):
    got = policies.read(document(*entries), KNOWN)
    assert set(got.wants) == names(got)
    assert all(got.policies >= wanting for wanting in got.wants.values())


def test_sentences_are_bounded():
    got = read(*(entry(f"p{i}", *({"name": "x" * 200} for _ in range(100))) for i in range(100)))
    assert len(got.problems) == 64
    assert max(map(len, got.problems.values())) <= 1024


# ── what counts ─────────────────────────────────────────────────────────────────────────────────────────────────────


def configured(one: Pipeline, *entries: Any) -> Pipeline:
    got = read(*entries)
    one.configure(got.chosen, got.wants)
    return one


def memfd(number: int, cgroup: int = 1) -> Exec:
    return Exec(
        exe=b"/memfd:%d" % number, pid=number + 10, start=number + 1, time=number + 2, flags=Flag.MEMFD, cgroup=cgroup
    )


def process(one: Pipeline, rows: list[Exec], pods: dict[int, dict[str, Any]] | None, first: int = 0):
    sections = [] if pods is None else [factory.pods(pods)]
    workloads = dict.fromkeys(sorted({r.cgroup for r in rows}), WORKLOAD)
    return one.process(factory.batch(rows, first=first, workloads=workloads, sections=sections))


def test_a_finding_names_the_policies_that_want_it_and_without_any_there_is_silence():
    off = {"name": "suspicious_exec", "enabled": False}
    one = configured(Pipeline(), entry("everywhere", off, behavioral=False), entry("shop"), entry("elsewhere"))
    pods = {1: CHECKOUT, 2: {"policies": ("everywhere",)}, 3: {"policies": ("gone",)}, 4: {"policies": ()}}
    found = process(one, [memfd(i, i) for i in (1, 2, 3, 4, 5)], pods)
    assert [(f.subject.exe, f.policies) for f in found] == [("/memfd:1", ("shop",))]
    assert (one.findings, one.unwanted) == (1, 4)


def test_without_policies_nothing_runs_and_nothing_is_found():
    one = configured(Pipeline())
    assert process(one, [memfd(1)], {1: CHECKOUT}) == []
    assert (one.events, one.findings, one.unwanted, one.status()) == (1, 0, 0, {})


def test_on_one_machine_everything_counts():
    one = Pipeline(registry.build())
    assert len(process(one, [memfd(1)], None)) == 1
    assert one.unwanted == 0


def test_pods_that_no_policy_wants_use_up_nothing():
    one = configured(Pipeline(), entry("shop", {"name": "suspicious_exec", "parameters": {"repeats": 2}}))
    rows = [memfd(1, cgroup) for cgroup in (2, 2, 2, 1)]
    found = process(one, rows, {1: CHECKOUT, 2: {**CHECKOUT, "policies": ()}})
    assert [f.policies for f in found] == [("shop",)]


def test_what_was_learned_survives_changes():
    usual = [Exec(pid=1000 + i, start=10 + i, time=10.5 + i) for i in range(10)]
    quick = {"name": "first_seen", "parameters": QUICK}
    pods = {1: CHECKOUT}
    one = configured(Pipeline(), entry("shop", quick))
    assert process(one, usual, pods) == []
    before = one._running["first_seen"].detector
    configured(one, entry("shop", quick), entry("new", quick, {"name": "suspicious_exec", "enabled": False}))
    assert one._running["first_seen"].detector is before, "equal parameters: the same detector goes on"

    configured(one, entry("shop", {"name": "first_seen", "parameters": {**QUICK, "max_items": 500}}))
    assert one._running["first_seen"].detector is not before
    new = Exec(exe=b"/usr/bin/nc", pid=7, start=30, time=31)
    (finding,) = process(one, [new], pods, first=10)
    assert "10 executions" in finding.explanation[0]

    # Nobody wants it for a while, and analytics starts anew meanwhile.
    configured(one, entry("shop", {"name": "first_seen", "enabled": False}))
    assert "first_seen" not in one.status()
    again = Pipeline()
    again.restore(one.facts(), one.states())
    configured(again, entry("shop", quick))
    (finding,) = process(again, [Exec(exe=b"/usr/bin/curl", pid=8, start=32, time=33)], pods, first=11)
    assert "11 executions" in finding.explanation[0]
    assert again.unwanted == one.unwanted


def test_rules_are_remembered_by_themselves_whatever_is_excluded():
    rows = [Exec(exe=b"/tmp/x", pid=9, start=1, time=2)]
    pods = {1: CHECKOUT}
    once = {"repeats": 1}
    one = configured(Pipeline(), entry("shop", {"name": "suspicious_exec", "parameters": once}))
    assert len(process(one, rows, pods)) == 1
    excluding = {**once, "exclude": ["memfd"]}
    configured(one, entry("shop", {"name": "suspicious_exec", "parameters": excluding}))
    assert process(one, rows, pods, first=1) == [], "told already"


# ── the behavioural analyser ────────────────────────────────────────────────────────────────────────────────────────


def scored(name: str, **more: Any) -> dict[str, Any]:
    return {**entry(name), "machine_learning": True, **more}


def test_the_smallest_threshold_is_judged_by_and_each_policy_keeps_its_own():
    got = read(scored("a", anomaly_threshold=0.9), scored("b", anomaly_threshold=0.7), entry("c"))
    (chosen,) = (one for one in got.chosen if one.detector.declaration.name == "behavioral_anomaly")
    assert chosen.parameters["threshold"] == 0.7
    assert got.thresholds == {"a": 0.9, "b": 0.7}
    assert got.wants["behavioral_anomaly"] == {"a", "b"}


def test_the_oldest_policys_models_hold_and_bad_ones_are_told_with_the_choices():
    first = {"name": "rare", "features": ["rarest", "shift"]}
    got = read(scored("a", models=[first]), scored("b", models=[{"name": "sequence"}]))
    (chosen,) = (one for one in got.chosen if one.detector.declaration.name == "behavioral_anomaly")
    assert [json.loads(model) for model in chosen.parameters["models"]] == [first]
    got = read(scored("a", models=[{"name": "x", "features": ["nope"]}]))
    assert (
        "there is no feature 'nope'; there are of window: rarest, suspicion, shift, new_distinct, intrusion; of process: exe_bits"
        in got.problems["a"]
    )
    assert got.problems["a"].endswith("the built-in models run.")
    (chosen,) = (one for one in got.chosen if one.detector.declaration.name == "behavioral_anomaly")
    assert chosen.parameters["models"] == ()
