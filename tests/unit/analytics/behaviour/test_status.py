"""What the analyser says of itself: bounded in every heartbeat, whole for who asks, and counters that Prometheus can take."""

from __future__ import annotations

import json

import pytest

from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.behaviour.lives import Lives
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.registry import Chosen
from tests.unit.analytics.behaviour.traffic import QUICK, WORKLOADS, analyser, frames, run, usual
from tests.unit.analytics.factory import Exec, batch

HOURS = 10


@pytest.fixture(scope="module")
def watched():
    """An analyser that has seen ten hours of eight workloads."""
    detector = analyser()
    _, scores = run(detector, usual(HOURS))
    return detector, scores


def test_what_is_counted_is_what_was_scored(watched):
    detector, scores = watched
    status = detector.status()
    judged = sum(score["score"] is not None for score in scores)
    counted = status["counted"]
    assert 0 < judged == counted["judged"]
    assert counted["insufficient"] == len(scores) - judged
    assert counted["executions"] == len(usual(HOURS))
    assert counted["nominal"] == pytest.approx(judged * 1e-4)
    assert counted["alarms"] == sum((score["score"] or 0) >= 0.8 for score in scores)
    assert sum(status["phases"].values()) == status["workloads"] == len(WORKLOADS)
    assert status["items"] > status["contexts"] > 0


def test_the_newest_workloads_are_named_with_their_phase(watched):
    newest = watched[0].status()["newest"]
    assert {one["workload"] for one in newest} == {name.decode() for name in WORKLOADS.values()}
    assert {one["phase"] for one in newest} == {"Active"}
    assert all(one["windows"] and one["executions"] for one in newest)


def test_workloads_that_drifted_are_named_before_those_seen_last():
    lives = Lives(100, 0, 0, 0, 1)
    for key in range(50):
        life = lives.of(key, f"shop/Deployment/app-{key}/main", key)
        life.calibrated, life.drifted = True, key in {3, 7}
    named = [(life.name.split("/")[2], str(phase)) for life, phase in lives.newest(4)]
    assert named == [("app-7", "Drifted"), ("app-3", "Drifted"), ("app-49", "Active"), ("app-48", "Active")]


def test_classes_of_references_are_told_to_who_asks_alone(watched):
    detector, _ = watched
    status = detector.status()
    assert status["references"]["rarest"]["calibrated"] > 0
    assert "classes" not in json.dumps(status)
    (told, *_) = detector.details()["references"]["rarest"]["classes"]
    assert told["calibration"] in {"calibrated", "insufficient"}


def test_a_heartbeat_stays_small_whatever_is_watched():
    names = {cgroup: b"ci/Job/%s-%d/main" % (b"x" * 400, cgroup) for cgroup in range(1, 200)}
    models = tuple(
        json.dumps({"name": f"model-{k}", "features": ["argc", "exe_bits"], "detector": "HBOS"}) for k in range(16)
    )
    detector = analyser(models=models)
    rows = [Exec(exe=b"/bin/true", pid=k, start=60.0 + k, time=60.0 + k, cgroup=k) for k in names]
    detector.process(Frame(batch(rows, workloads=names)))
    detector.process(
        Frame(batch([Exec(exe=b"/bin/true", pid=9, start=2e4, time=2e4, cgroup=1)], first=1000, workloads=names))
    )
    status = detector.status()
    assert status["workloads"] == len(names)
    assert len(status["newest"]) == 20
    assert len(json.dumps(status)) < 32_768


def test_counters_are_of_this_process_while_what_was_learned_goes_on():
    """A restart goes on with what was learned and begins to count anew, as Prometheus has it of every counter."""
    detector = analyser(models=('{"name": "process_shape"}',), update_seconds=3600)
    run(detector, usual(3))
    before = detector.status()
    assert before["models"]["process_shape"]["counted"]["promoted"] >= 1
    after = analyser(models=('{"name": "process_shape"}',), update_seconds=3600)
    after.restore(detector.state())
    status = after.status()
    assert status["models"]["process_shape"]["model"] == before["models"]["process_shape"]["model"]
    assert not any(status["models"]["process_shape"]["counted"].values())
    assert not any(status["counted"].values())


def test_the_pipeline_tells_details_and_survives_a_detector_that_does_not():
    parameters = BehavioralAnomaly.declaration.resolve(QUICK)
    pipeline = Pipeline([Chosen(BehavioralAnomaly(parameters), parameters)])
    for frame in frames(usual(0.2)):
        pipeline.process(frame.batch)
    assert "rarest" in pipeline.details()["behavioral_anomaly"]["references"]
    detector = pipeline._running["behavioral_anomaly"].detector
    detector.details = lambda: 1 / 0  # type: ignore[attr-defined]
    assert "ZeroDivisionError" in pipeline.details()["behavioral_anomaly"]["error"]
