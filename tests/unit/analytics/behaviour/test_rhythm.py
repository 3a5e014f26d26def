"""How regularly somebody connects: clockwork is told from people, however rows come; a rhythm that was always there is no news."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pytest

from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour import contacts, rhythm
from daemoneye_analytics.behaviour.catalogue import CONNECTION_FEATURES
from daemoneye_analytics.behaviour.contacts import Reach
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.directory import Directory
from daemoneye_analytics.behaviour.rhythm import BEATS, MOST, REGULAR, Rhythm
from daemoneye_analytics.behaviour.windows import BIN_NS
from tests.unit.analytics.behaviour import sockets
from tests.unit.analytics.behaviour.lesson import AFTER, LATER, VICTIM, Lesson
from tests.unit.analytics.behaviour.sockets import analyser, answered, closed, heard_of, opened, run

MODELS: dict[str, Any] = {
    "models": ('{"name": "process_rarity"}', '{"name": "rhythm", "features": ["contact_bits", "periodicity_bits"]}')
}
CHECKED = 15
"""The workload that asks its neighbour every half a minute whether it lives."""


def connects(times: Iterable[float], dst: str = "198.51.100.9", port: int = 443, cgroup: int = 12, **more: Any):
    return [opened(cgroup, at, dst, port, **more) for at in times]


def followed(rows, series: Rhythm | None = None, number: int = 0, book: Directory | None = None):
    """Periodicity and interval of the rows of one batch."""
    periodicity, interval = (Rhythm() if series is None else series).count(number, heard_of(rows, book))
    return periodicity.tolist(), interval.tolist()


def beats(number: int, every: float = 60.0, start: float = 100.0, jitter: float = 0.0, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [start + k * every + rng.uniform(-jitter, jitter) * every for k in range(number)]


def at_random(number: int, mean: float = 60.0, seed: int = 1) -> list[float]:
    rng, at, out = random.Random(seed), 100.0, []
    for _ in range(number):
        at += rng.expovariate(1 / mean)
        out.append(at)
    return out


def one_by_one(rows) -> list[tuple[float, float]]:
    """What `Rhythm` says of beginnings, in plain words: each series by itself, row after row."""
    kept: dict[tuple, tuple[float, float, list[float]]] = {}
    out = []
    for row in rows:
        key, now = (row["cgroup_id"], row["dst_ip"].rsplit(".", 1)[0], row["dst_port"], row["pid"]), row["time"]
        told, newest, mine = kept.get(key, (now, -1e9, []))
        if now < told - 3600:
            newest, mine = -1e9, []
        if now - newest >= 1:
            mine = [*mine, now][-BEATS:]
        kept[key] = (now, max(now, newest), mine)
        gaps = [b - a for a, b in pairwise(mine)]
        if len(mine) < BEATS:
            out.append((0.0, 0.0))
            continue
        middle = median(gaps)
        spread = max(sorted(abs(gap - middle) for gap in gaps)[11], middle / 1024)
        out.append((max(float(np.log2(middle / spread)), 0.0), middle))
    return out


# ── how regular a series is ─────────────────────────────────────────────────────────────────────────────────────────


def test_clockwork_is_told_from_its_sixteenth_beat_on():
    periodicity, interval = followed(connects(beats(20)))
    assert periodicity[: BEATS - 1] == interval[: BEATS - 1] == [0.0] * (BEATS - 1)
    assert periodicity[BEATS - 1 :] == [10.0] * 5
    assert interval[-1] == pytest.approx(60)


@pytest.mark.parametrize("seed", range(5))
def test_a_jitter_of_a_fifth_is_a_rhythm_and_random_moments_are_none(seed):
    assert max(followed(connects(beats(40, jitter=0.1, seed=seed)))[0]) >= REGULAR
    assert max(followed(connects(at_random(200, seed=seed)))[0]) < REGULAR


def test_people_s_pages_are_no_rhythm_though_each_opens_several_connections():
    rng = random.Random(2)
    clicks = at_random(200, 40.0)
    times = sorted(at + rng.random() * 0.5 for at in clicks for _ in range(6))
    assert max(followed(connects(times))[0]) < REGULAR


def test_several_connections_of_one_beat_count_once():
    """Two addresses are tried at once, or a request is repeated: still it comes every minute."""
    periodicity, interval = followed(connects(at + more for at in beats(BEATS) for more in (0.0, 0.2, 0.9)))
    assert periodicity[: 3 * (BEATS - 1)] == [0.0] * (3 * (BEATS - 1))
    assert (min(periodicity[3 * (BEATS - 1) :]), interval[-1]) == (10.0, pytest.approx(60))
    assert set(followed(connects(beats(200, every=0.9)))[0]) == {0.0}, "what is quicker is one conversation in pieces"


def test_missed_beats_do_not_hide_the_rest():
    times = [at for k, at in enumerate(beats(24)) if k not in (9, 17, 18)]
    periodicity, interval = followed(connects(times))
    assert (periodicity[-1], interval[-1]) == (10.0, pytest.approx(60))


def test_an_end_has_what_its_series_had_by_then_and_others_connections_have_none():
    rows = connects(beats(BEATS))
    ends = [closed(row, 2.0, 10, 10) for row in rows]
    came = [row | {"direction": Direction.INBOUND} for row in connects(beats(BEATS), cgroup=13)]
    both = sorted([*rows, *ends, *came], key=lambda row: row["time"])
    periodicity, _ = followed(both)
    assert [p > 0 for p in periodicity] == [row["time"] >= rows[-1]["time"] and row["cgroup_id"] == 12 for row in both]


def test_attempts_that_fail_have_a_rhythm_too():
    rows = [closed(row, 1.0, 0, 0, established=0, ending=4) for row in connects(beats(BEATS))]
    assert followed(rows)[0][-1] == 10


@pytest.mark.parametrize(
    "other",
    [{"cgroup": 13}, {"program": 500}, {"port": 8443}, {"dst": "198.51.101.9"}],
    ids=lambda other: next(iter(other)),
)
def test_series_are_kept_apart(other):
    """Two of the same workload's pods, or programs, that are each regular, and together are not."""
    mine, theirs = beats(2 * BEATS, 60.0), beats(2 * BEATS, 47.0, start=111.0)
    rows = sorted(connects(mine) + connects(theirs, **other), key=lambda row: row["time"])
    assert min(followed(rows)[0][-4:]) == 10


def test_a_name_is_one_other_side_whatever_its_addresses_are():
    rows, times = [], beats(BEATS)
    for k, at in enumerate(times):
        address = f"203.0.{k}.7"
        rows += [answered(12, at - 0.1, "api.example.com", address), opened(12, at, address, 443)]
    assert followed(rows, book=Directory())[0][-1] == 10
    bare = [row for row in rows if row["record"] == "socket_open"]
    assert set(followed(bare)[0]) == {0.0}


# ── however rows come ───────────────────────────────────────────────────────────────────────────────────────────────


def mixed(seed: int) -> list[dict[str, Any]]:
    """Series of all kinds whose clock jumps, forward and back, whose rows come late, in bursts and twice."""
    rng, rows, now, wide = random.Random(seed), [], 10_000.0, 0.1
    for turn in range(600):
        now += rng.choice((0.0, 0.3, 45.0)) if rng.random() < 0.1 else 20.0 + rng.random() * wide
        wide = rng.choice((0.1, 10.0)) if rng.random() < 0.02 else wide
        if rng.random() < 0.005:
            now += rng.choice((-20.0, -1800.0, -5000.0, 50_000.0))
        late = rng.choice((0.0,) * 9 + (-5.0,))
        k = turn % 3
        rows += connects([now + late], dst=f"198.51.10{k}.9", cgroup=12 + k % 2)
        if rng.random() < 0.02:
            rows += rows[-rng.randrange(1, 6) :]
    return rows


@pytest.mark.parametrize("seed", range(2))
def test_rows_of_one_batch_have_what_they_have_one_at_a_time(seed):
    """Against the same in plain words; between two parts there is a checkpoint. A batch is read in order of time, and so is cut where its clock goes back."""
    rows = mixed(seed)
    heads = [0, *(k + 1 for k, (a, b) in enumerate(pairwise(rows)) if b["time"] < a["time"]), len(rows)]
    expected = np.array(one_by_one(rows)).T
    assert (expected[0] >= REGULAR).sum() > 20
    assert ((expected[0] > 0) & (expected[0] < REGULAR)).sum() > 20
    for step in (1, 7, len(rows)):
        series, parts = Rhythm(), []
        for head, tail in pairwise(heads):
            for first in range(head, tail, step):
                parts.append(followed(rows[first : min(first + step, tail)], series))
                kept = series.state()
                series = Rhythm()
                series.restore(kept)
        said = np.concatenate(parts, axis=1)
        assert said == pytest.approx(expected, abs=1e-6)


def test_batches_that_come_again_make_no_rhythm_and_break_none():
    series = Rhythm()
    for k in range(40):
        followed(connects([100 + k // 20 * 60.0]), series)
    assert followed(connects([300.0]), series)[0] == [0.0], "the same two beginnings again and again"
    series = Rhythm()
    for _ in range(3):
        assert set(followed(connects(beats(12)), series)[0]) == {0.0}
    periodicity, interval = followed(connects(beats(5, start=100 + 12 * 60)), series)
    assert periodicity == [0.0, 0.0, 0.0, 10.0, 10.0]
    assert interval[-1] == pytest.approx(60)


def test_a_clock_that_was_put_back_begins_anew():
    series = Rhythm()
    followed(connects(beats(20, start=500_000.0)), series)
    periodicity, _ = followed(connects(beats(20, start=1000.0)), series)
    assert [p > 0 for p in periodicity] == [False] * (BEATS - 1) + [True] * 5


def test_odd_times_do_nothing():
    series = Rhythm()
    heard = heard_of(connects([1.0, 2.0, 3.0, 4.0]))
    heard.connections.time[:] = [-(2**63), 2**63 - 1, 0, -1]
    for _ in range(30):
        said = series.count(0, heard)
        assert np.isfinite(said).all()
    assert len(series) == 1
    again = Rhythm()
    again.restore(series.state())


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scans_are_bounded_and_push_no_rhythm_out(monkeypatch):
    monkeypatch.setattr(rhythm, "MOST", 200)
    series, beat, bin_s = Rhythm(), beats(60), 600
    for number in range(4):
        here = [at for at in beat if number * bin_s <= at < (number + 1) * bin_s]
        scan = connects((), "")
        for k in range(300):
            scan += connects([number * bin_s + bin_s * k / 300], dst=f"10.{number}.{k // 200}.{k % 200}")
        rows = sorted([*connects(here), *scan], key=lambda row: row["time"])
        whole, alone = Rhythm(), series
        whole.restore(series.state())
        together = followed(rows, whole, number)[0]
        assert [followed([row], alone, number)[0][0] for row in rows] == together, "the bound follows from rows alone"
        assert len(series) <= 200
        mine = [p for row, p in zip(rows, together, strict=True) if row["dst_ip"] == "198.51.100.9"]
        assert len(mine) == len(here)
        assert mine[-1] == (10 if number else 0), "ten beats, then twenty and more"


def test_what_was_silent_for_a_day_is_forgotten():
    series = Rhythm()
    heard = heard_of(connects(beats(20)))
    now = int(heard.time[-1]) // BIN_NS
    series.count(now, heard)
    later = heard_of(connects([0.0], dst="192.0.2.1"))
    later.connections.time[:] = heard.time[-1] + 90_000 * 10**9
    series.count(int(later.time[0]) // BIN_NS, later)
    assert len(series) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"beats": np.zeros((1, 3), np.int64)}, {"key": np.zeros(1)}, {"key": np.zeros(2, np.uint64)}, {"told": None}, {"bin": "x"},
     {"beats": np.full((1, BEATS), -(1 << 61))}],
)  # fmt: skip
def test_a_state_of_another_form_is_refused(wrong):
    series = Rhythm()
    followed(connects([100.0]), series)
    with pytest.raises(ValueError, match=r"not a node's rhythms|invalid literal"):
        Rhythm().restore(series.state() | wrong)
    assert MOST * 152 < 2_000_000


# ── how surprising a rhythm is ──────────────────────────────────────────────────────────────────────────────────────


def measured(rows, counts: Counts):
    """What is measured of the rows of one batch, and those as they are learned."""
    heard = heard_of(rows)
    periodicity, interval = Rhythm().count(0, heard)
    heard = heard.beating(np.where(periodicity >= REGULAR, interval, 0.0))
    reach = Reach().count(0, heard.connections)
    return heard.connections, contacts.measure(counts, heard, reach, periodicity)


def taught(rows) -> Counts:
    counts = Counts(10_000, 1000)
    c, _ = measured(rows, counts)
    contacts.learn(counts, c, np.ones(len(c)), 1)
    return counts


def test_the_first_rhythm_of_a_workload_is_news_and_one_that_it_always_had_is_none():
    people, health = connects(at_random(900), "198.51.110.9"), connects(beats(900), port=8080)
    beacon = connects(beats(BEATS + 2))
    new = measured(beacon, taught(people))[1].column("periodicity_bits")
    assert new[: BEATS - 1].tolist() == [0.0] * (BEATS - 1), "before there is a rhythm there is nothing to say"
    assert min(new[BEATS - 1 :]) > 12
    other = taught([*health, *people])
    assert min(measured(beacon, other)[1].column("periodicity_bits")[BEATS - 1 :]) > 8, "another rhythm than that"
    assert max(measured(health[: BEATS + 2], other)[1].column("periodicity_bits")) < 2


def test_the_bits_of_contacts_are_the_same_with_a_rhythm():
    counts = taught(connects(at_random(300)))
    _, found = measured(connects(beats(20)), counts)
    assert len(set(found.column("contact_bits").tolist())) == 1
    assert np.isfinite(found.column("periodicity")).all()
    assert found.features.shape[1] == len(CONNECTION_FEATURES)


# ── the analyser ────────────────────────────────────────────────────────────────────────────────────────────────────


def usual(hours: float, *, seed: int = 1, start: float = 60.0) -> list[dict[str, Any]]:
    """What others' connections are, and one workload's health checks."""
    rng = random.Random(seed)
    rows = sockets.usual(hours, seed=seed, start=start)
    for k in range(int(hours * 120)):
        row = opened(CHECKED, start + k * 30 + rng.random() * 0.02, "10.96.0.40", 8080)
        rows += [row, closed(row, 0.01, 100, 100)]
    return sorted(rows, key=lambda row: row["time"])


@pytest.fixture(scope="module")
def learned():
    return Lesson(usual, **MODELS)


def visits(times: Iterable[float], cgroup: int = 12, dst: str = "203.0.113.77", port: int = 443):
    """Connections to a host of a network that the workload knows."""
    rows = []
    for at in times:
        row = opened(cgroup, at, dst, port)
        rows += [row, closed(row, 0.4, 900, 1200)]
    return rows


def test_a_health_check_that_was_always_there_and_usual_connections_raise_nothing(learned):
    assert learned.findings == []
    findings, scores = run(learned.again(), learned.later(hours=1), first=AFTER)
    assert findings == []
    assert len([score for score in scores if score["state"] == "Active"]) >= 8
    assert max(score["score"] for score in scores if score["state"] == "Active") < 0.8


def test_a_beacon_to_a_known_place_alarms_and_is_explained(learned):
    """The place, the port and the program are usual; that it comes every twenty seconds is not."""
    rows = learned.later(*visits(beats(40, 20.0, start=LATER + 300)))
    (finding,) = run(learned.again(), rows, first=AFTER)[0]
    assert finding.subject.workload == VICTIM
    assert finding.title == f"{VICTIM} behaves unlike itself: /usr/bin/curl connected to 203.0.113.77:443 (tcp)"
    text = " ".join(finding.explanation)
    assert "it did so every 20.0 s, 16 times in a row, 12 of 15 intervals within 0.02 s of it: " in text
    assert "with such a rhythm never before in " in text
    assert "never in all watched workloads (" in text
    without = analyser(models=('{"name": "process_rarity"}', '{"name": "network_contact"}'))
    run(without, usual(3), 2000)
    assert run(without, rows, first=AFTER)[0] == []


def test_a_person_who_visits_as_often_does_not_alarm(learned):
    times = [LATER + 200 + at for at in at_random(40, 20.0)]
    assert run(learned.again(), learned.later(*visits(times)), first=AFTER)[0] == []


def test_borders_of_batches_and_checkpoints_change_neither_scores_nor_findings(learned):
    rows = learned.later(*visits(beats(40, 20.0, start=LATER + 300)))
    whole, scores = run(learned.again(), rows, len(rows), first=AFTER)
    assert len(whole) == 1
    for findings, said in (run(learned.again(), rows, 1, first=AFTER), learned.restarting(rows, 40)):
        assert [(f.id, f.key, f.score) for f in findings] == [(f.id, f.key, f.score) for f in whole]
        assert said == scores


def test_a_state_that_knows_no_rhythms_is_read(learned):
    state = {k: v for k, v in learned.state.items() if "_rhythm." not in k and not k.endswith("_interval")}
    width = CONNECTION_FEATURES.index("periodicity")
    state |= {name: value[:, :width] for name, value in state.items() if name.endswith("_features")}
    detector = analyser(**MODELS)
    detector.restore(state)
    assert detector.status()["connections"]["items"] == learned.again().status()["connections"]["items"]
    run(detector, learned.later(), first=AFTER)


def test_rhythms_whose_state_cannot_be_used_begin_anew_alone(learned, caplog):
    detector = analyser(**MODELS)
    detector.restore(learned.state | {"connections_around0_rhythm.beats": np.zeros(3)})
    assert "begins anew: not a node's rhythms" in caplog.text
    assert detector.status()["connections"]["items"] > 0
    run(detector, learned.later(), first=AFTER)
