"""The detectors that models may use: each row's score is its own, and what cannot be used is said with the choices."""

from __future__ import annotations

import numpy as np
import pytest

from daemoneye.errors import ConfigError
from daemoneye_analytics.behaviour.frozen import Frozen
from daemoneye_analytics.behaviour.outliers import KINDS, REFUSED, choose
from tests.unit.analytics.behaviour.shaperows import odd, usual


def fitted(detector, rows):
    parameters = {"n_estimators": 20} if detector == "IForest" else {}
    return Frozen.fit(rows, choose(detector, parameters, "model m"), seed=3, number=1, trained_ns=0)


@pytest.mark.parametrize("columns", [5, 20])
@pytest.mark.parametrize("detector", KINDS)
def test_a_rows_score_does_not_depend_on_its_batch(detector, columns):
    rng = np.random.default_rng(4)
    # With twenty columns libraries by themselves multiply matrices instead of walking trees.
    wide = rng.normal(size=(5, columns)) if columns > 5 else np.eye(5)
    model = fitted(detector, usual(800) @ wide)
    rows = np.vstack((usual(120, 5), odd(13))) @ wide
    rows[7, 2] = np.nan
    together = model.score(rows)
    assert not np.isnan(together).any()
    for size in (1, 2, 3, 7, 64):
        parts = [model.score(rows[i : i + size]) for i in range(0, min(len(rows), 20 * size), size)]
        found = np.concatenate(parts).tolist()
        assert found == together[: len(found)].tolist()
    order = rng.permutation(len(rows))
    assert model.score(rows[order]).tolist() == together[order].tolist()
    # Who repeats himself does not become usual.
    assert model.score(np.repeat(rows[-1:], 400, axis=0)).tolist() == [together[-1]] * 400


@pytest.mark.parametrize("detector", KINDS)
def test_odd_rows_have_higher_scores_and_one_in_a_thousand_has_the_score_1(detector):
    model = fitted(detector, usual(3_000))
    assert np.mean(model.score(usual(3_000)) > 1) <= 0.002
    assert np.median(model.score(odd(20))) > 1
    assert abs(np.median(model.score(usual(3_000, 6)))) < 0.2


@pytest.mark.parametrize("detector", KINDS)
def test_the_same_rows_give_the_same_model(detector):
    rows = np.vstack((usual(50, 7), odd(9)))
    assert fitted(detector, usual(700)).score(rows).tolist() == fitted(detector, usual(700)).score(rows).tolist()


@pytest.mark.parametrize("detector", KINDS)
def test_rows_that_are_not_clean(detector):
    rows = usual(800)
    rows[::7, 0] = np.nan
    rows[3] = [np.inf, -np.inf, 1e300, 5, 5]
    rows[:, 3] = np.nan
    model = fitted(detector, rows)
    scores = model.score(np.array([[np.inf, 0, -np.inf, 1e308, np.nan], [np.nan] * 5, [2, 6, 3, 0, 0]]))
    assert np.isfinite(scores[[0, 2]]).all()
    assert np.isnan(scores[1])
    assert scores[0] > scores[2]
    assert model.score(np.zeros((0, 5))).shape == (0,)


def test_rows_that_are_all_alike_and_one_alone():
    model = fitted("HBOS", np.ones((600, 3)))
    assert model.score(np.ones((2, 3))).tolist() == [0.0, 0.0]
    assert model.score(np.array([[1.0, 1, 9]]))[0] > 1
    with pytest.raises(ValueError, match="at least 2"):
        fitted("HBOS", np.ones((1, 3)))


@pytest.mark.parametrize("detector", [*REFUSED, "AutoEncoder", "hbos", ""])
def test_a_detector_that_cannot_be_used_is_refused_with_the_choices(detector):
    with pytest.raises(ConfigError, match="choose one of HBOS, IForest, KNN"):
        choose(detector, {}, "model m")


@pytest.mark.parametrize(
    ("detector", "parameters", "message"),
    [
        ("HBOS", {"bins": 3}, "no parameter 'bins'; it has n_bins, alpha, tol"),
        ("LOF", {"n_jobs": 3}, "no parameter 'n_jobs'; it has n_neighbors"),
        ("HBOS", {"n_bins": 1}, "n_bins is 1, not between 1 and 257"),
        ("HBOS", {"n_bins": 3.5}, "not a whole number"),
        ("HBOS", {"alpha": float("nan")}, "not between 0 and 1"),
        ("HBOS", {"n_bins": True}, "not a whole number"),
        ("KNN", {"method": "least"}, "not one of largest, mean, median"),
        ("IForest", {"n_estimators": 10**9}, "not between 9 and 201"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(detector, parameters, message):
    with pytest.raises(ConfigError, match=message):
        choose(detector, parameters, "model m")


@pytest.mark.parametrize("detector", KINDS)
def test_every_setting_reaches_the_detector(detector):
    settings = {s.name: s.choices[-1] if s.choices else s.default for s in KINDS[detector].settings}
    made = choose(detector, settings, "model m").fit(usual(300), 1)
    assert {name: getattr(made, name) for name in settings} == settings


def test_whole_numbers_on_the_edges_of_bins_are_usual():
    # 0 to 10 in ten bins: pyod itself finds every number in the bin below its own.
    values = np.random.default_rng(6).integers(0, 2, (1_000, 1)) * 5.0
    rows = np.vstack((values, [[10.0]] * 20))
    scores = fitted("HBOS", rows).score(np.array([[0.0], [5], [10], [7]]))
    assert scores[0] == pytest.approx(scores[1], abs=0.1)
    assert scores[1] < scores[2] < scores[3]
