"""Fitting a model in the background, and whether what came of it may take over.

Responsible for the thread and for the judgement; when to begin and what happens to the old model is `daemoneye_analytics.behaviour.shape`'s affair.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from daemoneye_analytics.behaviour.frozen import Frozen
from daemoneye_analytics.behaviour.outliers import Choice

BUDGET: Final = 0.01
"""Share of the newest rows that may be more unusual than one in a thousand of what was learned: ten times the nominal share."""

CANARY: Final = 0.99
"""Quantile of the scores of trusted rows that a known attack lies beyond."""
_FEWEST: Final = 100


class Training:
    """A fit that runs in a thread. The same rows give the same model, so that one which was lost is fitted again.

    Attributes:
        rows: What it learns from, float64, shape (n, k).
        begun_ns: Event time of its begin.
        number: Of the model to be.
    """

    def __init__(self, rows: np.ndarray, choice: Choice, *, seed: int, number: int, begun_ns: int) -> None:
        self.rows = rows
        self.begun_ns = begun_ns
        self.number = number
        self._choice = choice
        self._seed = seed
        self._model: Frozen | None = None
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="model-fit", daemon=True)
        self._thread.start()

    def finish(self) -> Frozen | str:
        """Wait for the end: the model, or why there is none."""
        self._thread.join()
        return self._model or self._error

    def _run(self) -> None:
        try:
            self._model = Frozen.fit(
                self.rows.copy(), self._choice, seed=self._seed, number=self.number, trained_ns=self.begun_ns
            )
        except Exception as error:  # noqa: BLE001 - whatever pyod and its libraries raise, the old model goes on
            self._error = f"{self._choice.detector} could not be fitted to {len(self.rows)} rows: {error!r}"


def objection(old: Frozen | None, new: Frozen, recent: np.ndarray, canaries: np.ndarray) -> str:
    """What speaks against the new model; empty where it may take over.

    Args:
        old: The model in use; the first has nothing to be compared with.
        new: The candidate.
        recent: The newest rows, float64, shape (n, k): the shadow run. More than `BUDGET` of them must not be beyond one in a thousand, unless it is even
            worse with the old model.
        canaries: Rows of known attacks, float64, shape (c, k). By the new model half of them must stand out from the newest rows that can be trusted,
            those that the old one does not find odd, unless no more do by the old one. How many a model calls odd is no measure: a first one, which has
            seen little, calls most things so.
    """
    try:
        alarms = _beyond(new, recent)
        if old is None:
            return ""
        allowed, trusted = _beyond(old, recent), _trusted(old, recent)
        found, known = standing_out(new, trusted, canaries), standing_out(old, trusted, canaries)
    except Exception as error:  # noqa: BLE001 - as above
        return f"the new model could not score: {error!r}"
    limit = max(BUDGET * len(recent), allowed)
    if alarms > limit:
        return (
            f"{alarms} of the newest {len(recent)} rows are beyond one in a thousand, at most {limit:.0f} are allowed"
        )
    if found < min(known, (len(canaries) + 1) // 2):
        return f"it finds {found} of {len(canaries)} known attacks among trusted rows, the model in use {known}"
    return ""


def standing_out(model: Frozen, trusted: np.ndarray, canaries: np.ndarray) -> int:
    """How many known attacks have a higher score than the `CANARY` quantile of trusted rows, or than one in a thousand where there are none."""
    usual = model.score(trusted)
    usual = usual[~np.isnan(usual)]
    limit = float(np.quantile(usual, CANARY)) if len(usual) else 1.0
    return int(np.count_nonzero(model.score(canaries) > limit))


def _trusted(model: Frozen, rows: np.ndarray) -> np.ndarray:
    """Rows that a model does not find odd; all where these are too few to say anything."""
    trusted = rows[model.score(rows) <= 1]
    return trusted if len(trusted) >= _FEWEST else rows


def _beyond(model: Frozen, rows: np.ndarray) -> int:
    """Rows with a score above 1, or with none although they have features."""
    scores = model.score(rows)
    silent = np.isnan(scores) & ~np.isnan(rows).all(axis=1)
    return int(np.count_nonzero((scores > 1) | silent))
