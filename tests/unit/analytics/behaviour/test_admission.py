"""Very unusual windows are an example for others as often as there are such windows among usual ones."""

import numpy as np
import pytest

from daemoneye_analytics.behaviour.admission import RARE, Admission
from daemoneye_analytics.behaviour.reference import Reference


def windows(number, *unusual):
    """So many windows that are over, of which these are very unusual."""
    found = np.zeros(number, bool)
    found[list(unusual)] = True
    return np.ones(number, bool), found


def test_one_in_a_thousand_is_admitted():
    one = Admission()
    assert not one.admit(*windows(RARE - 1, 0, 500, 998)).any()
    assert np.flatnonzero(one.admit(*windows(3, 0, 1, 2))).tolist() == [0]
    assert not one.admit(*windows(500, 100, 499)).any()
    assert np.flatnonzero(one.admit(*windows(1500, 0, 1000, 1001))).tolist() == [1000]


def test_how_they_come_together_does_not_matter():
    rng = np.random.default_rng(0)
    judged, unusual = rng.random(20_000) < 0.9, rng.random(20_000) < 0.01
    unusual &= judged
    whole, parts = Admission(), Admission()
    cuts = np.sort(rng.integers(0, 20_000, 50))
    told = [parts.admit(*both) for both in zip(np.split(judged, cuts), np.split(unusual, cuts), strict=True)]
    assert whole.admit(judged, unusual).tolist() == np.concatenate(told).tolist()
    assert whole.state() == parts.state()


def test_a_long_calm_lets_no_flood_in():
    one = Admission()
    one.admit(*windows(1_000_000))
    assert one.admit(*windows(100, *range(100))).sum() == 10


def test_it_goes_on_where_it_was_and_refuses_what_it_never_said():
    one, other = Admission(), Admission()
    one.admit(*windows(RARE - 1))
    other.restore(one.state())
    assert other.admit(*windows(1, 0)).all()
    other.restore({})  # a release before kept nothing
    assert other.state() == {"judged": 0}
    with pytest.raises(ValueError, match="judged"):
        other.restore({"judged": -1})


def alarm_rate(seed, admission):
    """Benign windows with p ≤ 1e-4 for each that there should be, of 60,000 of 200 workloads, of which one in two hundred shows anything odd at all."""
    rng = np.random.default_rng(seed)
    number, step = 60_000, 100
    odd = np.where(rng.random(number) < 0.005, 0.5 + rng.exponential(1.7, number), 0.0)
    workload = rng.integers(0, 200, number).astype(np.uint64)
    reference, low, size, learned = Reference(sized=False), 0, np.full(step, 9), np.ones(step, bool)
    for first in range(0, number, step):
        mine = slice(first, first + step)
        p = reference.p_values(odd[mine], size, learned)
        low += int(np.count_nonzero(p <= 1e-4))
        unusual = p <= 1 / RARE
        kept = ~unusual | (admission.admit(~np.isnan(p), unusual & (p > 1e-4)) if admission else False)
        start = (first + np.flatnonzero(kept)) * 10**9
        reference.add(odd[mine][kept], size[kept], learned[kept], workload[mine][kept], start)
        reference.refresh()
    return low / number / 1e-4


def test_in_the_long_run_p_is_what_it_says():
    seeds = range(4)
    assert np.mean([alarm_rate(seed, Admission()) for seed in seeds]) < 1.5
    assert np.mean([alarm_rate(seed, None) for seed in seeds]) > 5, "what was wrong without it"
