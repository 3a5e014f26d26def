"""first_seen: what is learned, when learning ends, and that each new item is told once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from daemoneye.events.flags import Flag
from daemoneye_analytics.detectors.first_seen import FirstSeen
from daemoneye_analytics.frame import Frame
from tests.unit.analytics import factory
from tests.unit.analytics.factory import INIT, Exec

QUICK = {"learning_events": 10, "learning_seconds": 5}
SHELL = Exec(exe=b"/bin/bash", pid=50, start=1, time=1.5)


def detector(**parameters):
    return FirstSeen(FirstSeen.declaration.resolve({**QUICK, **parameters}))


def usual(n, *, start=10.0, step=1.0, **changes):
    """What the workload always does: /usr/bin/true from init."""
    return [
        replace(Exec(pid=1000 + i, start=start + i * step, time=start + i * step + 0.1), **changes) for i in range(n)
    ]


def run(model, rows, **batch):
    return model.process(Frame(factory.batch(rows, **batch)))


def test_silent_while_learning_and_told_once_afterwards():
    model = detector()
    assert run(model, usual(10)) == []
    new = Exec(exe=b"/usr/bin/nc", pid=7, start=30, time=31)
    (finding,) = run(model, [new])
    assert finding.severity == "low"
    assert finding.key == "exe:host/systemd/web.service:/usr/bin/nc"
    assert finding.explanation[0].startswith(
        "/usr/bin/nc never ran in host/systemd/web.service in 10 executions since 2023-11-14T22:13:30Z"
    )
    assert finding.confidence_reasons
    assert run(model, [replace(new, pid=8, time=40)]) == []


def test_learning_ends_by_events_and_time():
    new = Exec(exe=b"/usr/bin/nc", pid=7, start=12, time=60)
    few = detector()
    run(few, usual(9))
    assert run(few, [new]) == []
    early = detector()
    run(early, usual(50, step=0.01))
    assert run(early, [replace(new, time=13)]) == []
    exact = detector()
    run(exact, usual(10, step=0.01))
    assert len(run(exact, [replace(new, time=15.2)])) == 1


def test_a_quiet_workload_is_learned_after_a_day():
    model = detector(quiet_seconds=100)
    run(model, usual(1))
    assert run(model, [Exec(exe=b"/usr/bin/a", time=100)]) == []
    assert len(run(model, [Exec(exe=b"/usr/bin/b", time=111)])) == 1


def test_learning_ends_within_a_batch():
    rows = [
        *usual(10),
        Exec(exe=b"/usr/bin/nc", time=30),
        Exec(exe=b"/usr/bin/nc", time=31),
        Exec(exe=b"/usr/bin/nmap", time=32),
    ]
    findings = run(detector(), rows)
    assert [f.subject.exe for f in findings] == ["/usr/bin/nc", "/usr/bin/nmap"]


def test_parent_child_pairs():
    model = detector()
    bash_true = usual(5, ppid=50, pstart=1)
    run(model, [*usual(10), *bash_true, Exec(exe=b"/usr/bin/id", time=40)], context=(INIT, SHELL))
    (finding,) = run(model, [Exec(exe=b"/usr/bin/id", time=50, ppid=50, pstart=1)], context=(INIT, SHELL))
    assert finding.severity == "informational"
    assert "/bin/bash (pid 50) never started /usr/bin/id" in finding.explanation[0]
    assert run(model, [Exec(exe=b"/usr/bin/id", time=60, ppid=50, pstart=1)], context=(INIT, SHELL)) == []


def test_change_of_user():
    model = detector()
    run(model, usual(20))
    (finding,) = run(model, [Exec(uid=33, time=50)])
    assert finding.severity == "medium"
    assert finding.key.startswith("uid:")
    assert "user 33" in finding.explanation[0]
    assert run(model, [Exec(uid=33, time=60)]) == []
    # Only the effective user differs: another change.
    assert [f.key[:4] for f in run(model, [Exec(uid=33, euid=0, time=70)])] == ["uid:"]


def test_several_new_items_of_one_execution_are_one_finding():
    model = detector()
    run(model, usual(20))
    (finding,) = run(model, [Exec(exe=b"/usr/bin/nc", uid=33, time=50)])
    assert finding.severity == "medium"
    assert len(finding.explanation) == 2
    assert {t.id for t in finding.techniques} == {"T1548", "T1059"}


def test_workloads_learn_each_for_itself():
    model = detector()
    workloads = {1: b"host/systemd/a.service", 2: b"host/systemd/b.service"}
    run(model, [*usual(20), *usual(3, cgroup=2)], workloads=workloads)
    assert run(model, [Exec(exe=b"/usr/bin/nc", cgroup=2, time=50)], workloads=workloads) == []
    assert len(run(model, [Exec(exe=b"/usr/bin/nc", cgroup=1, time=50)], workloads=workloads)) == 1


def test_what_ran_before_the_sensor_is_learned_and_not_told():
    model = detector()
    run(model, usual(20))
    assert run(model, [Exec(exe=b"/usr/bin/old", flags=Flag.SNAPSHOT, start=1, time=2)]) == []
    assert run(model, [Exec(exe=b"/usr/bin/old", time=50)]) == []
    assert run(model, [], context=(INIT, Exec(exe=b"/usr/bin/ancestor", pid=9))) == []
    assert run(model, [Exec(exe=b"/usr/bin/ancestor", time=51)]) == []


def test_snapshots_do_not_end_learning():
    model = detector()
    run(model, usual(100, start=1, step=0.01, flags=Flag.SNAPSHOT))
    assert run(model, [Exec(exe=b"/usr/bin/nc", time=50)]) == []


def test_excluded_workloads():
    model = detector(exclude_workloads=["host/systemd/web*"])
    run(model, usual(20))
    assert run(model, [Exec(exe=b"/usr/bin/nc", time=50)]) == []
    assert model.status()["workloads"] == 0


def test_missing_names_are_not_items():
    model = detector()
    run(model, usual(20))
    assert run(model, [Exec(exe=b"", flags=Flag.STRINGS_TRUNCATED, time=50), Exec(exe=b"", time=51)]) == []


def test_state_goes_on_as_if_nothing_had_happened():
    one, other = detector(), detector()
    for model in (one, other):
        run(model, usual(20))
    restored = detector()
    restored.restore(one.state())
    rows = [Exec(exe=b"/usr/bin/nc", time=50), Exec(exe=b"/usr/bin/true", uid=33, time=51)]
    assert run(restored, rows) == run(other, rows)
    assert_equal(restored.state(), other.state())


def test_state_of_another_form_is_refused():
    state = detector().state()
    for wrong in (
        {},
        {**state, "format": 99},
        {k: v for k, v in state.items() if k != "item_key"},
        {**state, "item_key": np.array([2, 1], np.uint64)},
    ):
        with pytest.raises(ValueError):
            detector().restore(wrong)


def test_bounded_and_counted():
    model = detector(max_items=100, max_items_per_workload=50, max_workloads=10)
    for i in range(30):
        workloads = {1: b"w/%d" % i}
        run(model, [Exec(exe=b"/bin/%d" % (100 * i + k), time=10 + i) for k in range(40)], workloads=workloads)
    status = model.status()
    assert status["items"] <= 100
    assert status["workloads"] <= 10
    assert status["dropped"] > 0


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_batches_do_not_matter(size):
    rng = np.random.default_rng(1)
    rows = [
        Exec(
            exe=b"/bin/%d" % rng.integers(0, 12),
            pid=i + 2,
            start=10 + i,
            time=10.5 + i,
            uid=int(rng.integers(0, 2)),
            cgroup=int(rng.integers(1, 3)),
        )
        for i in range(100)
    ]
    workloads = {1: b"a", 2: b"b"}
    whole, split = detector(), detector()
    expected = run(whole, rows, workloads=workloads)
    got = [
        f for at in range(0, len(rows), size) for f in run(split, rows[at : at + size], first=at, workloads=workloads)
    ]
    assert [f.id for f in got] == [f.id for f in expected]
    assert got == expected
    assert_equal(whole.state(), split.state())
    assert len(expected) > 5


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.array_equal(value, other[name]), name
