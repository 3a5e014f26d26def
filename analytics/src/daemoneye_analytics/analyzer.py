"""The behavioural analyser: many models' p-values into one score.

Responsible for aggregation and for what a score means; models and features are given to it. A score is stated once and never
renormalised: 0.8 means an aggregate p of 1e-4, one false alarm in 10,000 benign windows if the models are calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from daemoneye.errors import ConfigError
from daemoneye_analytics.models import BehavioralModel

DECADES: Final = 5.0
"""Decades of p that the score's range from 0 to 1 spans."""


class BehavioralAnalyzer:
    """Models and the threshold from which on their common score is an alarm.

    Attributes:
        models: The models; at least one.
        anomaly_threshold: Score from 0 to 1.

    Raises:
        ConfigError: No model, two of one name, or a threshold outside of 0 to 1.
    """

    def __init__(self, models: tuple[BehavioralModel, ...], anomaly_threshold: float = 0.8) -> None:
        names = [m.name for m in models]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"the analyser needs models with different names, not {names}")
        if not 0 <= anomaly_threshold <= 1:
            raise ConfigError(f"anomaly_threshold {anomaly_threshold} must lie in 0 to 1")
        self.models = models
        self.anomaly_threshold = anomaly_threshold

    def analyze(self, features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Score windows.

        Args:
            features: Name → float64 array of shape (n,), one value a window.

        Returns:
            Scores (float64, NaN where no model is calibrated) and alarms (bool), both of shape (n,).

        Raises:
            ConfigError: A model's feature is missing.
        """
        columns = []
        for model in self.models:
            missing = [name for name in model.features if name not in features]
            if missing:
                raise ConfigError(f"model {model.name}: features {missing} are not among {sorted(features)}")
            columns.append(model.model.p_values(np.column_stack([features[name] for name in model.features])))
        scores = score(aggregate(np.column_stack(columns)))
        return scores, scores >= self.anomaly_threshold


def aggregate(p_values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Bonferroni's minimum, weighted: min(1, min p_i · W / w_i), which holds however the models depend on each other.

    Equal weights give k · min p. (Genovese, Roeder, Wasserman: False discovery control with p-value weighting, 2006.)

    Args:
        p_values: float64, shape (n windows, m models); NaN where a model gives none, whose weight does not count then.
        weights: float64, shape (m,), positive: how much of the alarms each may raise; equal by default.

    Returns:
        float64, shape (n,); NaN where every model's is.
    """
    known = ~np.isnan(p_values)
    weight = np.ones(p_values.shape[1]) if weights is None else np.asarray(weights, np.float64)
    smallest = np.where(known, p_values / weight, np.inf).min(axis=1, initial=np.inf)
    total = (known * weight).sum(axis=1)
    return np.where(total > 0, np.minimum(1.0, total * np.where(total > 0, smallest, 1.0)), np.nan)


def score(p: np.ndarray) -> np.ndarray:
    """clip(-log10 p / 5, 0, 1) of any shape: p = 1 gives 0, 1e-4 gives 0.8, 1e-5 and less give 1; NaN stays."""
    with np.errstate(divide="ignore"):
        # A p of exactly 0 cannot come from data; it is the best score and no error.
        return np.clip(-np.log10(p) / DECADES, 0.0, 1.0)
