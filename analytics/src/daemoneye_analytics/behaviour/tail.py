"""The tail of a statistic: how probable values are that were seldom or never seen.

Responsible for fitting it, and for refusing a fit that the data contradict. Sources: Pickands 1975 (excesses over a high threshold follow a generalised
Pareto distribution); Hosking and Wallis 1987 (its fit by probability-weighted moments, and the error of the shape).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final

import numpy as np

FRACTIONS: Final = (0.1, 0.05, 0.025)
"""Shares of the data that are tried as the tail, in order: a mixture's tail may begin later."""
MINIMUM: Final = 30
"""Exceedances without which nothing is fitted."""
MAX_SHAPE: Final = 0.5
_KS_1_PERCENT: Final = 1.628
"""Kolmogorov's critical value at 1 %."""
_FAR: Final = (0.2, 0.05)
_NORMAL_1_PERCENT: Final = 2.326


@dataclass(frozen=True, slots=True)
class Tail:
    """What lies above a threshold: the heavier of an exponential and a generalised Pareto distribution of the same mean.

    Attributes:
        threshold: Where it begins, in the statistic's unit.
        exceedances: Values above it that it was fitted to.
        mean: Mean excess over the threshold.
        shape: Of the generalised Pareto distribution, 0 (exponential) to `MAX_SHAPE`: estimated, and two standard errors more, so that the tail of
            few values is taken as heavy.
        distance: Largest distance between the distribution fitted to one half of the excesses and the other half (Kolmogorov–Smirnov).
        limit: Distance from which on it is refused.
        refused: Why it is not used; empty where it is.
    """

    threshold: float
    exceedances: int
    mean: float = 0.0
    shape: float = 0.0
    distance: float = 0.0
    limit: float = 0.0
    refused: str = ""

    def survival(self, values: np.ndarray) -> np.ndarray:
        """Probability that a value above the threshold is at least this large; float64 of the same shape, `values` above the threshold."""
        return _survival(values - self.threshold, self.mean, self.shape)


def fit(values: np.ndarray) -> Tail:
    """The tail of finite values in the order of their coming, float64, shape (n,); refused where none fits."""
    ascending = np.sort(values)
    first: Tail | None = None
    for fraction in FRACTIONS:
        count = max(MINIMUM, ceil(fraction * len(values)))
        if count >= len(values):
            break
        tail = _fit(values, float(ascending[-count - 1]))
        if not tail.refused:
            return tail
        first = first or tail
        if count == MINIMUM:
            break
    return first or Tail(0.0, 0, refused=f"{len(values)} values are too few")


def _fit(values: np.ndarray, threshold: float) -> Tail:
    excess = values[values > threshold] - threshold
    if len(excess) < MINIMUM:
        # Ties: a constant, or few different values.
        return Tail(threshold, len(excess), refused=f"{len(excess)} values above the threshold, {MINIMUM} are needed")
    mean, shape = _moments(excess)
    learnt, held = excess[::2], np.sort(excess[1::2])
    expected = _survival(held, *_moments(learnt))
    above = 1 - np.arange(len(held) + 1) / len(held)
    distance = float(max(np.abs(expected - above[:-1]).max(), np.abs(expected - above[1:]).max()))
    # The fit has itself an error, for it is made of as many values as it is compared with: as for two samples.
    limit = _KS_1_PERCENT * sqrt(1 / len(held) + 1 / len(learnt))
    refused = ""
    if distance > limit:
        refused = f"the fit is {distance:.3f} away from the data, at most {limit:.3f} is allowed"
    for probability in _FAR:
        usual = probability * len(held)
        found = int(np.count_nonzero(expected <= probability))
        if found > usual + _NORMAL_1_PERCENT * sqrt(2 * usual) + 1:
            refused = refused or f"the data's tail is heavier: {found} values where {usual:.0f} are expected"
    return Tail(threshold, len(excess), mean, shape, distance, limit, refused)


def _moments(excess: np.ndarray) -> tuple[float, float]:
    """Mean and shape (with two of its standard errors) of excesses, by probability-weighted moments."""
    n = len(excess)
    mean = float(excess.mean())
    weighted = float((np.sort(excess) * (1 - (np.arange(1, n + 1) - 0.35) / n)).mean())
    spread = mean - 2 * weighted
    # Of a uniform distribution, whose shape is -1, the spread is mean / 3; only excesses that are all alike have none.
    shape = 2 - mean / spread if spread > 0 else 0.0
    return mean, float(np.clip(shape + 2 * sqrt(4 / 3 / n), 0.0, MAX_SHAPE))


def _survival(excess: np.ndarray, mean: float, shape: float) -> np.ndarray:
    exponential = np.exp(-excess / mean)
    if shape == 0:
        return exponential
    return np.maximum(exponential, (1 + shape * excess / (mean * (1 - shape))) ** (-1 / shape))
