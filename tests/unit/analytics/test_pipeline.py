"""The pipeline: effect once, losses, detectors that fail, and ids that do not depend on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars import selectors

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.errors import CorruptData
from daemoneye.events.codec import section_of
from daemoneye.events.flags import Flag
from daemoneye.events.registry import BY_NAME
from daemoneye.findings import Finding, Subject
from daemoneye_analytics import registry
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.budget import MACHINE
from daemoneye_analytics.detectors.base import detector
from daemoneye_analytics.detectors.suspicious_exec import SuspiciousExec
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.losses import loss_batch
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.registry import Chosen
from daemoneye_analytics.watermarks import Watermarks
from tests.unit.analytics import factory
from tests.unit.analytics.factory import OFFSET, SECOND, Exec

ROWS = [Exec(exe=b"/memfd:%d" % i, pid=i + 10, start=i + 1, time=i + 2, flags=Flag.MEMFD) for i in range(6)]


def pipeline(*settings):
    return Pipeline(registry.build(settings))


def ids(findings):
    return [f.id for f in findings]


def test_a_batch_takes_effect_once():
    one = pipeline()
    batch = factory.batch(ROWS)
    assert len(one.process(batch)) == 6
    assert one.process(batch) == []
    assert one.events == one.findings == 6
    assert one.watermarks.by_node() == {"n1": {"7": {"urgent": 6}}}


@given(st.lists(st.integers(0, 5), max_size=4))
def test_overlapping_batches_give_each_finding_once(cuts):
    expected = ids(pipeline().process(factory.batch(ROWS)))
    edges = sorted({0, 6, *cuts})
    one = pipeline()
    got = []
    for first, end in pairwise(edges):
        # Every batch begins before what was processed already.
        begin = max(0, first - 2)
        got += one.process(factory.batch(ROWS[begin:end], first=begin))
    assert ids(got) == expected


def test_ids_survive_a_replay():
    # Other epoch, sequences, boot and clock offset; the same moments by the wall clock.
    live = pipeline().process(factory.batch(ROWS))
    shifted = [replace(r, start=r.start + 1000, time=r.time + 1000, pstart=r.pstart + 1000) for r in ROWS]
    init = replace(factory.INIT, start=1000.5, time=1000.6)
    again = pipeline().process(
        factory.batch(shifted, context=(init,), first=77, epoch=9, boot_id="x", clock_offset_ns=OFFSET - 1000 * SECOND)
    )
    assert ids(live) == ids(again)
    assert [replace(f, events=(), subject=replace(f.subject, process_uid="")) for f in live] == [
        replace(f, events=(), subject=replace(f.subject, process_uid="")) for f in again
    ]


def test_order_within_a_batch_is_that_of_time():
    assert [f.subject.pid for f in pipeline().process(factory.batch(ROWS[::-1]))] == [r.pid for r in ROWS]


def test_sequences_count_over_all_sections_of_events():
    exits = section_of(BY_NAME["process_exit"], {"pid": [10, 11], "time": [3 * SECOND] * 2}, 2)
    one = pipeline()
    findings = one.process(factory.batch(ROWS, sections=[exits]))
    assert [f.events[0].sequence for f in findings] == list(range(6))
    assert one.watermarks.by_node()["n1"]["7"]["urgent"] == 8


def test_a_jump_is_a_gap_unless_losses_explain_it():
    one = pipeline()
    one.process(factory.batch(ROWS[:1]))
    one.process(factory.batch(ROWS[:1], first=11))
    one.process(factory.batch([], lane="loss", epoch=7, sections=[factory.losses(first=3, count=4)]))
    gaps = one.watermarks.take_gaps(float("inf"))
    assert [(g.first, g.end) for g in gaps] == [(1, 3), (7, 11)]
    assert one.watermarks.take_gaps(float("inf")) == []


def test_losses_that_come_before_the_jump_explain_it():
    one = pipeline()
    one.process(factory.batch(ROWS[:1]))
    one.process(factory.batch([], lane="loss", sections=[factory.losses(first=1, count=10)]))
    one.process(factory.batch(ROWS[:1], first=11))
    assert one.watermarks.take_gaps(float("inf")) == []


def test_a_lane_that_begins_late_is_a_loss_only_once_settled():
    one = pipeline()
    one.process(factory.batch(ROWS[:1], first=100))
    assert one.watermarks.take_gaps(float("inf")) == []
    one.watermarks.settled = True
    one.process(factory.batch(ROWS[:1], first=100, epoch=8))
    assert [(g.first, g.end) for g in one.watermarks.take_gaps(float("inf"))] == [(0, 100)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.booleans()), max_size=25), st.booleans())
def test_everything_below_the_watermark_was_processed_or_is_accounted_for(steps, settled):
    marks = Watermarks()
    marks.settled = settled
    seen: set[int] = set()
    explained: set[int] = set()
    begin = None
    for first, count, is_loss in steps:
        if is_loss:
            marks.explain("n", 1, "urgent", first, count)
            explained |= set(range(first, first + count))
        elif count:
            begin = (0 if settled else first) if begin is None else begin
            about = Envelope("n", "b", 1, "urgent", first, count, 0)
            skip = marks.advance(about, 0.0)
            new = set(range(first + skip, first + count))
            assert not new & seen
            seen |= new
    if begin is not None:
        missing = {s for g in marks.take_gaps(0.0) for s in range(g.first, g.end)}
        mark = marks.by_node()["n"]["1"]["urgent"]
        assert set(range(begin, mark)) - seen <= missing | explained
        assert not missing & explained
        assert not missing & seen


def test_the_loss_that_is_published_names_the_range():
    one = pipeline()
    one.process(factory.batch(ROWS[:1]))
    one.process(factory.batch(ROWS[:1], first=11))
    (gap,) = one.watermarks.take_gaps(float("inf"))
    batch = envelope.decode(loss_batch(gap, 99, 5))
    assert (batch.envelope.node, batch.envelope.epoch, batch.envelope.lane, batch.envelope.first_sequence) == (
        "n1",
        99,
        "loss",
        5,
    )
    section = batch.section("loss")
    assert section is not None
    assert (int(section.rows["first_sequence"][0]), int(section.rows["count"][0]), int(section.rows["epoch"][0])) == (
        1,
        10,
        7,
    )
    assert section.values("stage") == [b"stream"]
    assert one.process(batch) == []


def test_what_metrics_count_is_the_processs(caplog):
    one = Pipeline([Chosen(broken(), {}), *registry.build()])
    one.process(factory.batch(ROWS))
    one.process(factory.batch(ROWS))
    told = [factory.losses(first=50, count=4), factory.losses(first=2**64 - 1, count=3, stage=b"x" * 999)]
    for number, section in enumerate(told):
        one.process(factory.batch([], lane="loss", context=(), first=number, sections=[section]))
        one.process(factory.batch([], lane="loss", context=(), first=number, sections=[section]))
    assert one.counts.events == one.events == 8
    assert {stage: count for stage, count in one.counts.lost.items() if count} == {"spool": 4, "other": 3}
    assert (one.counts.errors["broken"], one.counts.errors["first_seen"]) == (1, 0)
    assert all(one.counts.seconds[name] > 0 for name in ("broken", "first_seen", "suspicious_exec"))
    again = pipeline()
    again.restore(one.facts(), {})
    assert (again.events, again.counts.events) == (8, 0), "Prometheus takes what goes down for a restart"
    one.configure([])
    assert one.counts.errors["broken"] == 1, "a detector that rests takes nothing with it"


def test_losses_around_lower_the_confidence():
    one = pipeline()
    one.process(
        factory.batch([], lane="loss", sections=[factory.losses(first=2**64 - 1, count=4, stage=b"ring", time=4)])
    )
    findings = one.process(factory.batch([ROWS[0], replace(ROWS[1], time=100)]))
    assert "lost around" in findings[0].confidence_reasons[-1]
    assert findings[1].confidence_reasons == ()


@pytest.mark.parametrize(
    "about",
    [{"node": ""}, {"node": "a\nb"}, {"node": "\ud800"}, {"node": "x" * 300}, {"epoch": -1}, {"epoch": 2**64}, {"first": -1},
     {"first": 2**70}, {"clock_offset_ns": 2**80}, {"first_time": -1}, {"last_time": 2**64}],
    ids=str,
)  # fmt: skip
def test_envelopes_that_cannot_be_are_refused(about):
    one = pipeline()
    with pytest.raises(CorruptData):
        one.process(factory.batch(ROWS, **about))
    whole = factory.batch(ROWS)
    with pytest.raises(CorruptData):
        one.process(replace(whole, envelope=replace(whole.envelope, rows=7)))
    assert one.watermarks.by_node() == {}


def test_times_at_the_edge_of_the_clock_are_no_trouble():
    one = pipeline()
    section = factory.execs([Exec(exe=b"/memfd:x", flags=Flag.MEMFD)])
    section.rows["time"] = 2**64 - 1
    section.rows["start_time"] = 2**63
    batch = factory.batch([], sections=[section])
    one.process(batch)
    assert all(d["errors"] == 0 for d in one.status().values())


def test_unknown_lanes_are_counted():
    one = pipeline()
    assert one.process(factory.batch(ROWS, lane="future")) == []
    assert one.ignored == 1
    assert one.events == 0


def test_batches_without_executions():
    one = pipeline()
    exits = section_of(BY_NAME["process_exit"], {"pid": [10], "time": [3 * SECOND]}, 1)
    assert one.process(factory.batch([], context=(), sections=[exits])) == []
    assert one.process(factory.batch([], context=(), first=1)) == []
    assert all(d["errors"] == 0 for d in one.status().values())


def test_a_table_of_any_event():
    target = ROWS[0]
    signals = section_of(
        BY_NAME["process_signal"],
        {"pid": [target.pid], "start_time": [int(target.start * SECOND)], "time": [9 * SECOND], "signal": [9], "cgroup_id": [1]}, 1,
    )  # fmt: skip
    frame = Frame(factory.batch(ROWS, sections=[signals]))
    table = frame.table("process_signal")
    assert table["workload"].to_list() == ["host/systemd/web.service"]
    assert table["sequence"].to_list() == [6]
    assert frame.exe.values[frame.exe.codes[table["image"][0]]] == "/memfd:0"
    assert frame.table("process_fork").is_empty()
    for record, rows in (("process_signal", 1), ("process_exec", len(ROWS))):
        plain = frame.table(record).drop(selectors.temporal())
        assert [frame.row(record, at) for at in range(rows)] == plain.rows(named=True)


def broken(**how):
    @detector(name="broken", version=1, title="t", severity="low", techniques=())
    class Broken:
        """Fails."""

        def __init__(self, parameters):
            pass

        def process(self, frame):
            raise how.get("process", KeyError("x"))

        def state(self):
            if "state" in how:
                raise how["state"]
            return {}

        def restore(self, state):
            raise how.get("restore", ValueError("no"))

        def status(self):
            if "status" in how:
                raise how["status"]
            return {"phase": "active"}

    return Broken({})


def test_a_detector_that_raises_stops_nothing(caplog):
    one = Pipeline([Chosen(broken(state=OSError(), status=OSError()), {}), *registry.build()])
    assert len(one.process(factory.batch(ROWS))) == 6
    assert len(one.process(factory.batch(ROWS, first=6))) == 6
    assert one.status()["broken"]["errors"] == 2
    assert "KeyError" in one.status()["broken"]["last_error"]
    assert caplog.text.count("failed on batch") == 1, "logged once a minute"
    states = one.states()
    assert "broken" not in states
    assert "first_seen" in states


def test_facts_and_states_go_on_as_if_nothing_had_happened():
    one, other = pipeline(), pipeline()
    for p in (one, other):
        p.process(factory.batch(ROWS[:3]))
        p.process(factory.batch(ROWS[:1], first=9, lane="bulk"))
        p.process(factory.batch([], lane="loss", sections=[factory.losses(first=20, count=4)]))
    restored = pipeline()
    restored.restore(one.facts(), one.states())
    assert ids(restored.process(factory.batch(ROWS))) == ids(other.process(factory.batch(ROWS)))
    assert restored.facts() == other.facts()


_RULES = SuspiciousExec.declaration


@detector(name="odd", version=1, title="", severity="high", techniques=(), parameters=_RULES.parameters, scored=True)
class Odd(SuspiciousExec):
    """The rules, as a detector whose findings the budget is for."""


def odd(**settings):
    """Beside it the rules themselves, which have no budget."""
    parameters = _RULES.resolve({})
    made = Pipeline()
    made.configure([Chosen(SuspiciousExec(parameters), parameters), Chosen(Odd(parameters), parameters)], **settings)
    return made


def day(number, *, of=0):
    """Executions of which each is found, on another day of the events' own time."""
    return [
        replace(row, pid=1000 * of + row.pid, start=row.start + 86_400 * of, time=row.time + 86_400 * of)
        for row in ROWS[:number]
    ]


def told(findings):
    return [f.policies for f in findings if f.detector == "odd"]


def test_a_machines_budget_is_for_what_scores_alone():
    one = odd(budgets={MACHINE: 2})
    found = one.process(factory.batch(day(5)))
    assert (len(told(found)), len(found)) == (2, 7)
    assert one.budget.total == 3
    assert len(told(one.process(factory.batch(day(2, of=1), first=5)))) == 2


def test_each_policys_budget_and_only_what_it_wanted_counts():
    wants = {"odd": frozenset({"strict", "wide"}), "suspicious_exec": frozenset({"wide"})}
    pod = factory.pods({1: {**factory.CHECKOUT, "policies": ["strict", "wide"]}})
    one = odd(wants=wants, thresholds={"strict": 2.0}, budgets={"strict": 1, "wide": 3})
    found = one.process(factory.batch(day(5), workloads={1: factory.WORKLOAD}, sections=[pod]))
    assert told(found) == [("wide",)] * 3, "what is below its threshold takes nothing of a policy's budget"
    assert len(found) == 8
    assert (one.budget.total, one.budget.policies) == (2, {"wide": 2})
    one.configure([*map(_again, one._running.values())], wants, {}, {"strict": 1, "wide": 4})
    found = one.process(factory.batch(day(4), first=5, workloads={1: factory.WORKLOAD}, sections=[pod], epoch=8))
    assert told(found) == [("strict", "wide")], "a larger budget is what is left of it"
    assert one.budget.policies == {"wide": 5, "strict": 3}


@pytest.mark.parametrize(("policy", "noted"), [("everywhere", 1), ("elsewhere", 0)])
def test_what_repeats_itself_is_noted_for_policies_that_want_it(policy, noted):
    parameters = BehavioralAnomaly.declaration.resolve({})
    scoring = BehavioralAnomaly(parameters)
    running = Pipeline([Chosen(scoring, parameters)])
    running.configure(
        [Chosen(scoring, parameters)], {"behavioral_anomaly": frozenset({"everywhere"})}, {"everywhere": 0.8}
    )
    subject = Subject("n1", workload="w")
    scoring.repeated += [
        Finding(
            id="0" * 32, time=f"2026-01-01T00:00:0{at}Z", severity="medium", score=score, detector="behavioral_anomaly", title="t", subject=subject,
            key="k", policies=(policy,),
        )
        for at, score in enumerate((0.7, 0.9))
    ]  # fmt: skip
    assert running.process(factory.batch([Exec()])) == []
    assert running.budget.repeats == noted, "what is below the policy's threshold is no finding of its"
    assert scoring.repeated == []


def _again(running):
    return Chosen(running.detector, running.parameters)


@pytest.mark.parametrize("cut", range(6))
def test_a_budget_goes_on_from_a_checkpoint(cut):
    whole, before = odd(budgets={MACHINE: 3}), odd(budgets={MACHINE: 3})
    rows = day(6)
    expected = whole.process(factory.batch(rows))
    found = before.process(factory.batch(rows[:cut])) if cut else []
    after = odd(budgets={MACHINE: 3})
    after.restore(json.loads(json.dumps(before.facts())), before.states())
    found += after.process(factory.batch(rows[cut:], first=cut))
    assert sorted(ids(found)) == sorted(ids(expected))
    assert len(told(found)) == 3
    assert after.budget.status() == whole.budget.status()
    assert after.budget.total == 3


def test_a_budget_of_another_form_is_refused_and_that_of_a_release_without_one_begins():
    one = odd(budgets={MACHINE: 1})
    one.process(factory.batch(day(3)))
    facts = one.facts()
    for wrong in (None, 3, {}, {**facts["budget"], "spent": [1]}, {**facts["budget"], "newest": [3]}, {**facts["budget"], "policies": []}):  # fmt: skip
        with pytest.raises(ValueError):
            one.restore({**facts, "budget": wrong}, {})
        assert one.budget.total == 2
    del facts["budget"]
    one.restore(facts, {})
    assert (one.budget.total, one.budget.limits) == (0, {MACHINE: 1})


def test_facts_of_another_form_are_refused_and_nothing_is_taken():
    one = pipeline()
    for facts in (
        {},
        {"watermarks": 3},
        {**one.facts(), "watermarks": {"settled": 1, "marks": [1], "explained": [], "gaps": []}},
    ):
        with pytest.raises(ValueError):
            one.restore(facts, {})
    broken_state = Pipeline([Chosen(broken(), {})])
    broken_state.restore(one.facts(), {"broken": {}})
    assert broken_state.status()["broken"]["errors"] == 1


def test_the_number_of_lanes_is_bounded(monkeypatch):
    monkeypatch.setattr("daemoneye_analytics.watermarks.MAX_KEYS", 5)
    marks = Watermarks()
    for epoch in range(20):
        marks.advance(Envelope("n", "b", epoch, "urgent", 0, 3, 0), 0.0)
    assert list(marks.by_node()["n"]) == ["15", "16", "17", "18", "19"]
    assert np.all([lanes["urgent"] == 3 for lanes in marks.by_node()["n"].values()])
