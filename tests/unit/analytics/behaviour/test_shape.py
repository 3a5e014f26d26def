"""The life of a pyod model: learning, taking over at a fixed event time, refusal, going back, restart."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from daemoneye.errors import ConfigError
from daemoneye_analytics.behaviour import shape
from daemoneye_analytics.behaviour.frozen import Frozen
from daemoneye_analytics.behaviour.outliers import choose
from daemoneye_analytics.behaviour.reservoir import Reservoir
from daemoneye_analytics.behaviour.retraining import objection
from daemoneye_analytics.behaviour.shape import DELAY_NS, ShapeModel
from daemoneye_analytics.behaviour.signing import Signer
from tests.unit.analytics.behaviour.shaperows import FEATURES, odd, usual

KEY = b"0123456789abcdef0123456789abcdef"
DAY = 86_400_000_000_000
SHIFT = np.array([20.0, 0, 0, 0, 0])
ROWS = np.vstack((usual(20, 30), odd(5)))


def made(**how):
    return ShapeModel("process_shape", FEATURES, **{"signer": Signer(KEY)} | how)


def fit(model, now=0):
    assert model.begin(now)
    return model.promote(now + DELAY_NS)


def grown(models=1, **how):
    model = made(**how)
    for index in range(models):
        model.offer(usual(600, 40 + index))
        assert fit(model, index * DAY)
    return model


def scores(model, rows=ROWS):
    return model.score(rows).tolist()


def test_from_learning_to_scores_that_separate():
    model = made()
    model.offer(usual(499))
    assert not model.due(0)
    assert np.isnan(model.score(ROWS)).all()
    assert model.explain(ROWS[0]) == []
    model.offer(usual(101, 2))
    assert model.due(0)
    assert model.begin(0)
    assert not model.begin(1)
    assert not model.due(1)
    assert not model.promote(DELAY_NS - 1)
    assert np.isnan(model.score(ROWS)).all()
    assert model.promote(DELAY_NS)
    assert model.number == 1
    assert min(scores(model)[20:]) > 1 > np.median(scores(model)[:20])
    assert not model.due(DAY - 1)
    assert model.due(DAY)
    assert model.status()["phase"] == "active"
    json.dumps(model.status(), allow_nan=False)


def test_what_takes_over_are_the_rows_of_the_begin_however_late_the_promotion():
    prompt, late = made(), made()
    for model, after in ((prompt, 0), (late, 900)):
        model.offer(usual(600))
        model.begin(0)
        model.offer(odd(after))
        assert model.promote(DELAY_NS * (1 + after))
    assert scores(prompt) == scores(late)


def test_the_explanation_names_the_feature_that_is_odd():
    row = usual(1)[0].copy()
    row[3:] = 0
    row[1] = 30
    parts = grown().explain(row)
    assert parts[0].feature == "length"
    assert parts[0].more > 0.2
    assert parts[0].value == 30
    assert parts[0].usual == pytest.approx(np.median(usual(2000)[:, 1]), rel=0.05)
    assert {part.feature for part in parts} <= set(FEATURES)


def test_a_candidate_that_forgot_the_canaries_does_not_take_over(caplog):
    model = grown(canaries=odd(10))
    before = scores(model)
    assert model.status()["canaries_found"] == 10
    # An attacker who repeats his attack until it is usual.
    model.offer(np.vstack([np.vstack((usual(900, k), odd(900, k))) for k in range(20)]))
    with caplog.at_level(logging.WARNING):
        assert not fit(model, DAY)
    assert "finds" in model.status()["reason"]
    assert "does not take over" in caplog.text
    assert scores(model) == before
    assert model.status()["rejected"] == 1
    assert not model.due(DAY + DELAY_NS)
    assert model.due(DAY + shape.RETRY_NS)


def test_a_first_model_that_called_everything_odd_is_no_measure_for_the_next():
    """Few rows of one kind make most things odd; what is learned later knows more, and attacks still stand out from it."""
    canaries = odd(10)
    model = made(canaries=canaries)
    model.offer(usual(600))
    assert fit(model)
    # Another half of what is usual, far from the first and nearer to the attacks.
    model.offer(np.vstack((usual(4_000, 3), usual(4_000, 4) + SHIFT)))
    first = model.score(canaries)
    assert fit(model, DAY), model.status()
    assert (model.number, model.status()["rejected"]) == (2, 0)
    assert (model.score(canaries) < first).any(), "attacks are less extreme by the new model"
    assert model.status()["canaries_found"] >= 5


def test_what_drifted_is_trained_at_once_and_no_oftener_than_hourly():
    model = grown()
    assert not model.due(shape.RETRY_NS)
    model.hasten()
    assert not model.due(shape.RETRY_NS - 1)
    assert model.due(shape.RETRY_NS)
    assert fit(model, shape.RETRY_NS)
    model.hasten()
    assert not model.due(2 * shape.RETRY_NS - 1)


def test_a_candidate_that_alarms_on_the_newest_rows_is_objected_to():
    shifted = usual(1_000, 51) + SHIFT
    choice = choose("HBOS", {}, "model m")
    old, new = (
        Frozen.fit(rows, choice, seed=0, number=1, trained_ns=0)
        for rows in (np.vstack((usual(1_000), shifted)), usual(1_000))
    )
    nothing = np.zeros((0, 5))
    assert "at most 10 are allowed" in objection(old, new, shifted, nothing)
    assert objection(new, old, shifted, nothing) == ""
    # The first has nothing to be compared with, and one that is no worse than the old takes over.
    assert objection(None, new, shifted, nothing) == ""
    assert objection(new, new, shifted, nothing) == ""


def test_drift_of_what_is_usual_takes_over():
    model = grown()
    model.offer(usual(9_000, 50) + SHIFT)
    assert np.median(model.score(usual(100) + SHIFT)) > 0.5
    assert fit(model, DAY)
    assert np.median(model.score(usual(100) + SHIFT)) < 0.5


def test_three_models_are_kept_to_go_back_to():
    model = made()
    held = {}
    for index in range(4):
        model.offer(usual(600, index) * (1 + index))
        assert fit(model, index * DAY)
        held[model.number] = scores(model)
    assert model.status()["kept"] == [4, 3, 2]
    assert model.begin(4 * DAY)
    back = made(hold=2)
    back.restore(model.state())
    assert back.number == 2
    assert scores(back) == held[2]
    assert (back.status()["phase"], back.status()["kept"]) == ("held", [2])
    back.hasten()
    assert not back.promote(9 * DAY)
    assert not back.due(9 * DAY)
    on = made()
    on.restore(back.state())
    assert scores(on) == held[2]
    assert on.due(9 * DAY)
    assert on.begin(9 * DAY)
    assert on.promote(9 * DAY + DELAY_NS)
    assert on.number == 6, "numbers are used once"


def test_a_model_that_is_not_kept_cannot_be_gone_back_to_and_the_newest_goes_on(caplog):
    model = grown(2)
    again = made(hold=7)
    again.restore(model.state())
    assert scores(again) == scores(model)
    assert again.due(5 * DAY)
    assert again.status()["reason"] == "training 7 is to be held and is not kept any more; kept: 2, 1"
    assert "kept: 2, 1" in caplog.text


@pytest.mark.parametrize("models", [0, 1, 3])
def test_a_restart_changes_nothing(models):
    model = grown(models)
    model.offer(usual(300, 60))
    again = made()
    again.restore(model.state())
    assert scores(again) == scores(model) or models == 0
    assert again.status() == model.status()
    for each in (model, again):
        each.offer(usual(300, 61))
        assert fit(each, 9 * DAY)
    assert scores(again) == scores(model)


def test_a_fit_that_a_restart_interrupts_is_done_again():
    model = grown()
    model.begin(DAY)
    again = made()
    again.restore(model.state())
    for each in (model, again):
        each.offer(usual(700, 62))
        assert not each.promote(DAY + DELAY_NS - 1)
        assert each.promote(DAY + DELAY_NS)
    assert scores(again) == scores(model)


@pytest.mark.parametrize("damage", ["changed", "foreign", "empty", "future", "oversized"])
def test_a_stored_model_that_is_not_ours_is_refused_and_fitted_anew(damage, caplog):
    model = grown()
    state = model.state()
    stored = state["model0"].copy()
    if damage == "changed":
        stored[-5] ^= 1
    elif damage == "future":
        stored[4] = 9
    state["model0"] = {"empty": stored[:0], "oversized": np.zeros(2**24 + 1, np.uint8)}.get(damage, stored)
    again = made(signer=Signer(b"the key of somebody else")) if damage == "foreign" else made()
    with caplog.at_level(logging.WARNING):
        again.restore(state)
    assert "refused" in caplog.text
    assert again.status()["refused"] == 1
    assert np.isnan(again.score(ROWS)).all()
    assert again.due(DELAY_NS)
    assert fit(again, DELAY_NS)
    assert min(scores(again)[20:]) > 1


def test_a_model_too_large_to_be_kept_is_told(monkeypatch, caplog):
    monkeypatch.setattr("daemoneye_analytics.behaviour.signing.MAX_BYTES", 1_000)
    model = grown()
    state = model.state()
    assert "is not kept: a model of" in model.status()["reason"]
    again = made()
    again.restore(state)
    assert again.due(DELAY_NS)
    assert not np.isnan(scores(model)).any()
    assert "is not kept" in caplog.text


def test_an_older_model_serves_where_the_newest_is_refused():
    model = grown(2)
    state = model.state()
    state["model0"] = np.zeros(100, np.uint8)
    again = made()
    again.restore(state)
    first = made(hold=1)
    first.restore(model.state())
    assert scores(again) == scores(first)
    assert again.due(DAY)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"configuration": None},
        {"sample": np.zeros((3, 2))},
        {"seen": "x"},
        {"counts": {}},
        {"models": 2},
    ],
)
def test_a_state_of_another_form_is_refused_and_changes_nothing(change):
    model = grown()
    before = scores(model)
    with pytest.raises(ValueError):
        model.restore(model.state() | change)
    assert scores(model) == before


def test_features_that_changed_in_flight_are_another_configuration():
    with pytest.raises(ValueError, match="another format or configuration"):
        ShapeModel("process_shape", FEATURES[:4]).restore(grown().state())
    with pytest.raises(ConfigError, match="each once"):
        ShapeModel("m", ("a", "a"))


class Broken:
    """A detector of which one method fails."""

    def __init__(self, method):
        self.method = method

    def fit(self, rows):
        if self.method == "fit":
            raise MemoryError("no room")
        return self

    def decision_function(self, rows):
        raise ZeroDivisionError("bad row")


@pytest.mark.parametrize("method", ["fit", "decision_function"])
def test_a_detector_that_raises_is_told_and_the_old_model_goes_on(method, monkeypatch):
    model = grown()
    before = scores(model)
    monkeypatch.setattr(
        "daemoneye_analytics.behaviour.outliers.Choice.fit", lambda self, rows, seed: Broken(method).fit(rows)
    )
    assert not fit(model, DAY)
    assert scores(model) == before
    assert "could not be fitted to 600 rows" in model.status()["reason"]


def test_a_model_that_fails_while_scoring_is_told_and_gives_nan():
    model = grown()
    object.__setattr__(model._models[0], "detector", Broken("decision_function"))
    assert np.isnan(model.score(ROWS)).all()
    assert np.isnan(model.score(ROWS)).all()
    assert model.status()["errors"] == 2
    assert "bad row" in model.status()["reason"]


def test_an_interval_of_ones_own_and_a_check_beforehand():
    model = grown(interval_s=600)
    assert not model.due(599_999_999_999)
    assert model.due(600_000_000_000)
    shape.check("HBOS", {"n_bins": 20}, "model m")
    with pytest.raises(ConfigError, match=r"^model m: detector 'ECOD' cannot be used: .* choose one of"):
        shape.check("ECOD", {}, "model m")


def test_a_clock_that_was_put_back_does_not_stop_it():
    model = made()
    model.offer(usual(600))
    model.begin(400 * DAY)
    assert model.promote(10 * DAY)
    assert model.due(10 * DAY)


def test_the_sample_is_bounded_and_does_not_depend_on_batches():
    rows = np.arange(100_000.0).reshape(-1, 1)
    whole, parts = Reservoir(1, 256, 64), Reservoir(1, 256, 64)
    whole.offer(rows)
    for begin in range(0, len(rows), 777):
        parts.offer(rows[begin : begin + 777])
    assert (whole.sample == parts.sample).all()
    assert (whole.recent == parts.recent).all()
    assert sorted(whole.recent.ravel()) == list(range(99_936, 100_000))
    # Old rows are there beside newer ones, as the horizon says: a 1/e of the sample is older than 32 times its size.
    old = np.mean(whole.sample < 100_000 - 32 * 256)
    assert 0.25 < old < 0.5
