"""The corpus of the behavioural analyser: what is shipped is whole, frozen and says what happened; how it is laid out."""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict

import numpy as np
import pytest

from daemoneye.events.ancestry import identity_rows
from daemoneye_sensor.sources.replay import ReplaySource
from tests.corpus import attacks, catalogue, corpus
from tests.corpus.build import BOOT_NS, GRAIN_NS, Timetable


@pytest.fixture(params=catalogue.SPLITS)
def recording(request):
    return corpus.load(request.param)


def test_a_recording_has_the_rows_of_its_manifest_and_only_its_workloads_in_order_of_time(recording):
    counted: defaultdict[str, int] = defaultdict(int)
    seen: set[str] = set()
    latest = 0
    for batch in recording.batches():
        assert batch.envelope.node == recording.node
        names = [name.decode() for name in batch.section("cgroup_identity", context=True).values("workload")]
        for section in (section for section in batch.sections if not section.context):
            counted[section.record.name] += len(section.rows)
            times = section.rows["time"].astype(np.int64)
            assert (np.diff(times) >= 0).all()
            of = identity_rows(batch, section.rows)
            assert (of >= 0).all()
            seen.update(names[n] for n in np.unique(of).tolist())
        latest = max(latest, int(batch.wall_ns(np.array([batch.envelope.last_time], np.uint64))[0]))
    assert counted == corpus.manifest()[f"{recording.split}.segment"]["rows"]
    assert seen == set(recording.workloads)
    assert recording.begin_ns < latest == recording.end_ns


def test_each_attack_has_the_rows_that_its_label_says(recording):
    times = defaultdict(list)
    for batch in recording.batches():
        executed = batch.section("process_exec")
        if executed is None:
            continue
        names = batch.section("cgroup_identity", context=True).values("workload")
        of = identity_rows(batch, executed.rows)
        wall = batch.wall_ns(executed.rows["time"])
        for n, name in enumerate(names):
            times[name.decode()].append(wall[of == n])
    joined = {name: np.sort(np.concatenate(parts)) for name, parts in times.items()}
    for attack in recording.attacks:
        low, high = np.searchsorted(joined[attack.workload], (attack.begin_ns, attack.end_ns + 1))
        assert high - low == attack.executions > 0, attack
        assert attacks.TECHNIQUES[attack.technique].attack == attack.attack


def test_a_recording_replays_whole_and_in_order(recording, tmp_path):
    path = tmp_path / "ordered.segment"
    assert recording.write(path) > 10
    source = ReplaySource(path)
    origin = source.open({}, None)
    assert origin.node == recording.node
    rows = latest = 0
    while (drain := source.drain()) is not None:
        rows += drain.rows
        executed = next((s for s in drain.sections if s.record.name == "process_exec" and not s.context), None)
        if executed is not None:
            assert latest < executed.rows["time"][0]
            latest = int(executed.rows["time"][-1])
    source.close(keep=False)
    assert rows == sum(corpus.manifest()[recording.path.name]["rows"].values())
    assert source.status()["malformed"] == 0


def test_the_splits_share_no_workload_and_some_techniques_are_never_seen_before_the_test():
    dev, test = corpus.load("dev"), corpus.load("test")
    assert not set(dev.workloads) & set(test.workloads)
    assert set(dev.workloads.values()) == set(test.workloads.values()) == set(catalogue.KINDS)
    techniques = [{attack.technique for attack in split.attacks} for split in (dev, test)]
    assert techniques[0] == {name for name, technique in attacks.TECHNIQUES.items() if not technique.held_out}
    assert techniques[1] == set(attacks.TECHNIQUES)
    where = defaultdict(set)
    for attack in test.attacks:
        where[attack.technique].add(attack.workload)
    assert min(map(len, where.values())) >= 3


def test_before_the_first_attack_a_workload_has_a_day_of_its_own(recording):
    assert min(attack.begin_ns for attack in recording.attacks) - recording.begin_ns > 86_400e9
    assert recording.workload_days > 80


def test_a_changed_recording_is_refused(tmp_path):
    shutil.copytree(corpus.DIRECTORY, tmp_path, dirs_exist_ok=True)
    told = json.loads((tmp_path / "dev.labels.json").read_text())
    told["attacks"].pop()
    (tmp_path / "dev.labels.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"dev\.labels\.json differs from MANIFEST\.json"):
        corpus.load("dev", tmp_path)
    with pytest.raises(ValueError, match=r"has no other\.segment; splits: dev, test"):
        corpus.load("other", tmp_path)


def test_a_plan_is_the_same_each_time_it_is_made():
    first, again = catalogue.plans("dev", 1), catalogue.plans("dev", 1)
    assert [(plan.name, plan.jobs, plan.files) for plan in first] == [
        (plan.name, plan.jobs, plan.files) for plan in again
    ]


def test_rows_lie_on_the_timetable_in_their_order():
    rng = random.Random(7)
    jobs, now = [], 10**12
    for n in range(50):
        length = rng.randrange(10**6, 10**9)
        jobs.append({"at": n * 30.0, "begin": now, "end": now + length, "pace": rng.choice((1.0, 60.0))})
        now += length + rng.randrange(10**5)
    table = Timetable(jobs)
    recorded = np.sort(np.array([rng.randrange(10**12 - 10**6, now) for _ in range(5000)], np.uint64))
    laid = table.moments(recorded).astype(np.int64)
    assert (np.diff(laid) >= 0).all()
    assert (table.at[1:] > table.end[:-1]).all()
    begins = table.moments(np.array([job["begin"] for job in jobs], np.uint64)).astype(np.int64)
    assert (np.abs(begins - table.at) <= GRAIN_NS).all()
    assert abs(int(table.at[0]) - BOOT_NS) <= GRAIN_NS
    assert table.moments(np.zeros(1, np.uint64))[0] == 0
