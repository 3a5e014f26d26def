"""A fitted model that does not change any more: feature rows to scores.

Responsible for the scale of features and of scores, and for rows that are not clean. A row's score follows from the row alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from daemoneye_analytics.behaviour.outliers import Choice

USUAL: Final = 0.999
"""The quantile of the rows that it learned from which has the score 1."""
_EDGE: Final = 0.001
_LARGEST: Final = 1e9


@dataclass(frozen=True, slots=True)
class Frozen:
    """A pyod detector with the scales around it.

    Features are scaled so that their 0.1 % quantile is 0 and their 99.9 % quantile 1; what lies beyond is learned as the edge, so that a few extreme rows
    do not stretch the model, and is scored up to one range beyond it. A feature that never varied keeps its unit. NaN is the feature's median.

    Attributes:
        number: Counts the models of one name.
        trained_ns: Event time at which its rows were taken.
        low: Per feature, float64, shape (k,).
        width: Per feature.
        median: Per feature.
        centre: The detector's median score.
        unit: Its 99.9 % quantile less the median: the score 1 means as unusual as one row in a thousand that it learned from.
        detector: The fitted pyod detector.
    """

    number: int
    trained_ns: int
    low: np.ndarray
    width: np.ndarray
    median: np.ndarray
    centre: float
    unit: float
    detector: Any

    @classmethod
    def fit(cls, rows: np.ndarray, choice: Choice, *, seed: int, number: int, trained_ns: int) -> Self:
        """Fit to rows.

        Args:
            rows: float64, shape (n, k), n at least 2.
            choice: Which detector.
            seed: Of its chance, if it takes any.
            number: The model's.
            trained_ns: Event time.

        Raises:
            ValueError: Too few rows, or the detector gives no scores. Beside that, whatever pyod raises.
        """
        if len(rows) < 2:
            msg = f"{len(rows)} rows; a model needs at least 2"
            raise ValueError(msg)
        rows = np.clip(rows, -_LARGEST, _LARGEST)
        void = np.isnan(rows).all(axis=0)
        rows[:, void] = 0.0
        median = np.nanmedian(rows, axis=0)
        rows = np.where(np.isnan(rows), median, rows)
        low, high = np.quantile(rows, (_EDGE, 1 - _EDGE), axis=0)
        varies = high - low > 1e-9 * np.maximum(1.0, np.abs(low))
        width = np.where(varies, high - low, 1.0)
        detector = choice.fit(np.ascontiguousarray(np.clip((rows - low) / width, 0.0, 1.0)), seed + number)
        raw = cls(number, trained_ns, low, width, median, 0.0, 1.0, detector)
        scores = raw.score(rows)
        centre, usual = (float(q) for q in np.nanquantile(scores, (0.5, USUAL)))
        if not np.isfinite(centre + usual):
            msg = "its scores are no numbers"
            raise ValueError(msg)
        return cls(number, trained_ns, low, width, median, centre, usual - centre if usual > centre else 1.0, detector)

    def score(self, rows: np.ndarray) -> np.ndarray:
        """How unusual rows are.

        Args:
            rows: float64, shape (n, k).

        Returns:
            float64, shape (n,), 0 for the usual row, 1 for one in a thousand; NaN where a row has no feature or the detector gives no number.
        """
        if not len(rows):
            return np.zeros(0)
        missing = np.isnan(rows)
        filled = np.clip(np.where(missing, self.median, rows), -_LARGEST, _LARGEST)
        scaled = np.ascontiguousarray(np.clip((filled - self.low) / self.width, -1.0, 2.0))
        raw = np.asarray(self.detector.decision_function(scaled), np.float64)
        return np.where(np.isfinite(raw) & ~missing.all(axis=1), (raw - self.centre) / self.unit, np.nan)
