"""A window's p-value: as often as it says, never mixed, never from its batch, and said where there are too few windows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from daemoneye_analytics.behaviour import tail
from daemoneye_analytics.behaviour.reference import AGE_NS, DAY_NS, P_MIN, Reference, size_class

DATA = {
    "exponential": lambda r, n: r.exponential(3, n),
    "lognormal": lambda r, n: r.lognormal(0, 1, n),
    "discrete": lambda r, n: r.poisson(1.0, n).astype(float),
    "rounded": lambda r, n: np.round(r.exponential(3, n), 1),
    "mostly nothing": lambda r, n: np.where(r.random(n) < 0.8, 0, r.exponential(5, n)),
    "mixture": lambda r, n: np.where(r.random(n) < 0.95, r.gamma(5, 1, n), 20 + r.exponential(4, n)),
    "heavy": lambda r, n: r.standard_t(3, n),
}


def rows(statistic, size=50, learned=True, workload=None, start=0):
    """Windows, one a workload and all at one time unless given."""
    n = len(statistic)
    return (
        np.asarray(statistic, float),
        np.broadcast_to(size, n).astype(np.int64),
        np.broadcast_to(learned, n).astype(bool),
        np.arange(n, dtype=np.uint64) if workload is None else np.broadcast_to(workload, n).astype(np.uint64),
        np.broadcast_to(start, n).astype(np.int64),
    )


def filled(statistic, reference=None, **how):
    reference = reference or Reference()
    reference.add(*rows(statistic, **how))
    reference.refresh()
    return reference


def judged(reference, statistic, **how):
    return reference.p_values(*rows(statistic, **how)[:3])


@pytest.mark.parametrize("windows", [1_000, 6_000])
@pytest.mark.parametrize("name", DATA)
def test_p_is_reached_as_often_as_it_says(name, windows):
    rng = np.random.default_rng(7)
    rates = []
    for _ in range(8):
        p = judged(filled(DATA[name](rng, windows)), DATA[name](rng, 100_000))
        rates.append([np.mean(p <= nominal) / nominal for nominal in (1e-2, 1e-3, 1e-4)])
    rates = np.mean(rates, axis=0)
    assert (rates <= 2).all()
    # Few values of a discrete statistic are rarer than 1 % by luck alone; of others at least a third as often as it says.
    assert rates[0] > 0.3


@pytest.mark.parametrize("name", ["exponential", "lognormal", "mixture", "heavy"])
def test_a_full_pool_is_not_absurdly_conservative(name):
    rng = np.random.default_rng(8)
    p = judged(filled(DATA[name](rng, 20_000), Reference(60_000)), DATA[name](rng, 1_000_000))
    assert 0.5 < np.mean(p <= 1e-3) / 1e-3 < 2
    assert 0.1 < np.mean(p <= 1e-4) / 1e-4 < 2


@pytest.mark.parametrize("name", DATA)
def test_more_unusual_is_never_more_probable_and_p_stays_in_its_range(name):
    rng = np.random.default_rng(9)
    reference = filled(DATA[name](rng, 5_000))
    p = judged(reference, np.sort(np.concatenate((DATA[name](rng, 5_000), [-np.inf, 1e300, np.inf]))))
    assert (np.diff(p) <= 0).all()
    assert ((p >= P_MIN) & (p <= 1)).all()


def test_a_row_alone_and_among_others():
    rng = np.random.default_rng(10)
    reference = filled(rng.exponential(1, 3_000), size=np.tile([5, 50, 500], 1_000))
    many = rows(rng.exponential(3, 200), size=rng.integers(1, 300, 200))[:3]
    together = reference.p_values(*many)
    alone = [reference.p_values(*(column[i : i + 1] for column in many))[0] for i in range(200)]
    assert not np.isnan(together).any()
    assert together.tolist() == alone


def test_additions_count_from_the_next_refresh_on_and_their_parts_do_not_matter():
    rng = np.random.default_rng(11)
    columns = rows(
        rng.exponential(1, 9_000),
        size=rng.integers(1, 300, 9_000),
        workload=rng.integers(0, 9, 9_000),
    )
    whole, parts = Reference(900), Reference(900)
    whole.add(*columns)
    for begin in range(0, 9_000, 137):
        parts.add(*(column[begin : begin + 137] for column in columns))
    assert np.isnan(judged(parts, [1.0])).all()
    whole.refresh()
    parts.refresh()
    assert (judged(whole, [0.5, 3, 9]) == judged(parts, [0.5, 3, 9])).all()
    assert whole.status() == parts.status()
    before = judged(parts, [0.5, 3, 9])
    parts.add(*rows(np.full(20, 50.0)))
    parts.refresh()  # a few windows are no tenth
    assert (judged(parts, [0.5, 3, 9]) == before).all()


def test_too_few_windows_are_a_state():
    reference = filled(np.arange(299.0))
    assert np.isnan(judged(reference, [1e9])).all()
    assert reference.status()["calibrated"] == 0
    assert "300 are needed" in reference.status()["classes"][0]["reason"]
    reference = filled(np.arange(31.0), reference)
    assert judged(reference, [1e9])[0] <= 1 / 300


def test_learning_and_learned_never_mix():
    reference = filled(np.zeros(1_000), learned=False)
    assert np.isnan(judged(reference, [9.0])).all()
    assert judged(reference, [9.0], learned=False)[0] == 1 / 1_001


def test_coarser_classes_serve_where_a_class_has_too_few_unless_it_contradicts_them():
    rng = np.random.default_rng(12)
    reference = filled(rng.exponential(1, 2_000), size=5)
    small = judged(reference, [5.0], size=5)
    assert judged(reference, [5.0], size=500) == small
    assert {c["compared"] for c in reference.status()["classes"] if c["class"].startswith("learned, 100")} == {
        "of all sizes",
    }
    # Larger windows turn out to be more unusual by nature: they are not judged by the small ones.
    filled(rng.exponential(1, 250) + 5, reference, size=500)
    assert np.isnan(judged(reference, [5.0], size=500))
    filled(rng.exponential(1, 250) + 5, reference, size=500)
    assert judged(reference, [5.0], size=500) > 0.9


def test_sizes_are_held_apart_only_where_they_matter():
    rng = np.random.default_rng(13)
    size = np.tile([5, 500], 3_000)
    statistic = np.where(size == 5, 30.0, 1.0) * rng.exponential(1, 6_000)
    apart, together = filled(statistic, size=size), filled(statistic, Reference(sized=False), size=size)
    assert judged(apart, [60.0], size=5) > 0.05
    assert judged(apart, [60.0], size=500) < 1e-4
    assert judged(together, [60.0], size=5) == judged(together, [60.0], size=500)
    assert [c["class"] for c in together.status()["classes"]] == ["learned, all sizes", "learning, all sizes"]


@pytest.mark.parametrize("value", [0.0, 17.3])
def test_a_constant_statistic(value):
    reference = filled(np.full(2_000, value))
    p = judged(reference, [value, value * (1 + 1e-13), value + 1, np.nan, np.inf, -np.inf])
    assert p.tolist()[:3] == [1.0, 1.0, 1 / 2_001]
    assert np.isnan(p[3])
    assert p.tolist()[4:] == [1 / 2_001, 1.0]
    assert "0 values above the threshold" in reference.status()["classes"][0]["tail"]


def test_what_is_not_finite_is_left_out_and_counted():
    reference = filled(np.concatenate((np.arange(400.0), [np.nan, np.inf, -np.inf])))
    assert reference.status()["windows"] == 400
    assert reference.status()["not_finite"] == 3


def test_one_workload_cannot_shape_the_pool():
    rng = np.random.default_rng(14)
    reference = Reference()
    for _ in range(20):
        reference.add(*rows(rng.exponential(1, 300)))
        reference.add(*rows(rng.exponential(1, 3_000) + 100, workload=999_999))
    reference.refresh()
    # 333 of 6,333 and no more: 5 % of the pool.
    assert 0.04 < judged(reference, [50.0])[0] < 0.06


def test_the_pool_is_bounded_even_if_nobody_refreshes():
    reference = Reference(900)
    for _ in range(30):
        reference.add(*rows(np.random.default_rng(1).random(500)))
    status = reference.status()
    assert status["waiting"] <= 1_800
    reference.refresh()
    assert reference.status()["windows"] == 300


def test_a_restored_reference_goes_on_as_if_nothing_had_happened():
    rng = np.random.default_rng(15)
    reference = filled(rng.exponential(1, 3_000))
    reference.add(*rows(rng.exponential(1, 200)))
    state = reference.state()
    again = Reference()
    again.restore(state)
    assert again.status() == reference.status()
    for each in (reference, again):
        each.add(*rows(np.arange(200.0)))
        each.refresh()
    assert (judged(again, [1, 9, 99]) == judged(reference, [1, 9, 99])).all()
    json.dumps(again.status(), allow_nan=False)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"rows": np.zeros(3)},
        {"pending": None},
        {"not_finite": "x"},
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(change):
    reference = filled(np.arange(500.0))
    before = judged(reference, [400.0])
    with pytest.raises(ValueError, match="reference"):
        reference.restore(reference.state() | change)
    assert judged(reference, [400.0]) == before


def test_the_newest_windows_count_after_a_day_and_old_ones_go():
    rng = np.random.default_rng(17)
    reference = filled(rng.exponential(1, 3_000), start=DAY_NS)
    filled(np.full(20, 50.0), reference, start=DAY_NS + 1)
    assert judged(reference, [40.0]) < 1e-3, "a few windows are no tenth"
    filled(np.full(21, 50.0), reference, start=2 * DAY_NS + 1)
    assert judged(reference, [40.0]) > 5e-3, "after a day they count"
    # Two weeks on, what is usual is something else; of the old windows those stay without which nothing could be said.
    later = DAY_NS + AGE_NS + 2 * DAY_NS
    filled(rng.exponential(1, 1_000) + 100, reference, start=later)
    assert reference.status()["windows"] == 1_000
    assert judged(reference, [99.0]) > 0.99


def test_one_clock_that_is_wrong_does_not_age_the_others():
    rng = np.random.default_rng(18)
    reference = filled(rng.exponential(1, 3_000), start=DAY_NS)
    reference.add(*rows([1.0] * 20, start=1_000 * DAY_NS))
    filled(rng.exponential(1, 1_000), reference, start=2 * DAY_NS)
    assert reference.status()["windows"] == 4_020


def test_windows_that_turn_out_to_be_no_example_are_taken_out():
    rng = np.random.default_rng(19)
    start = np.arange(3_000)
    reference = filled(np.concatenate((rng.exponential(1, 2_990), np.full(10, 50.0))), start=start)
    reference.add(*rows(np.full(5, 50.0), start=start[:5] + 5_000))
    odd = np.concatenate((np.arange(2_990, 3_000), np.arange(5)))
    assert judged(reference, [40.0]) > 3e-3
    reference.forget(odd.astype(np.uint64), np.concatenate((start[2_990:], start[:5] + 5_000)))
    assert judged(reference, [40.0]) < 1e-4
    assert (reference.status()["windows"], reference.status()["waiting"]) == (2_990, 0)
    reference.forget(np.array([7], np.uint64), np.array([8]))  # another workload's window
    assert reference.status()["windows"] == 2_990


def test_a_tail_that_does_not_fit_is_refused_and_said():
    # Twenty values, each alike: no smooth distribution is near.
    values = np.repeat(np.arange(20.0), 100)
    fitted = tail.fit(np.random.default_rng(16).permutation(values))
    assert "away from the data" in fitted.refused
    assert judged(filled(values), [99.0])[0] == 1 / 2_001


def test_classes_of_sizes():
    assert size_class(np.array([1, 9, 10, 99, 100, 5_000])).tolist() == [0, 0, 1, 1, 2, 2]
