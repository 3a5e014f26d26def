"""How well a ranking parts what is sought from what is not: areas, and what is found at a price.

Responsible for the arithmetic alone. Larger scores are more unusual; ties are counted as what they are and never broken in anybody's favour.
"""

from __future__ import annotations

import numpy as np


def auroc(sought: np.ndarray, score: np.ndarray) -> float:
    """Probability that one that is sought lies above one that is not, ties half.

    Args:
        sought: bool, shape (n,).
        score: float64, shape (n,), no NaN.

    Returns:
        0 to 1; NaN where one of the two kinds is missing.
    """
    positives = int(sought.sum())
    negatives = len(sought) - positives
    if not positives or not negatives:
        return float("nan")
    _, code, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[code]
    return float((rank[sought].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(sought: np.ndarray, score: np.ndarray) -> float:
    """Mean of the precision at each threshold, weighted by the recall that it adds; those of equal score come in together. Arguments as for `auroc`."""
    positives = int(sought.sum())
    if not positives:
        return float("nan")
    values, code = np.unique(-score, return_inverse=True)
    hits = np.bincount(code, weights=sought, minlength=len(values))
    alarms = np.cumsum(np.bincount(code, minlength=len(values)))
    return float((hits / positives * np.cumsum(hits) / alarms).sum())


def threshold(usual: np.ndarray, share: float) -> float:
    """The lowest score above which at most this share of what is not sought lies; -inf where that is everything.

    Args:
        usual: Scores of what is not sought, float64, shape (n,).
        share: 0 to 1.
    """
    allowed = int(share * len(usual) + 1e-9)
    return float(np.sort(usual)[::-1][allowed]) if allowed < len(usual) else float("-inf")


def recall(sought: np.ndarray, usual: np.ndarray, share: float) -> float:
    """Share of what is sought above `threshold`; both float64, of any length."""
    return float((sought > threshold(usual, share)).mean()) if len(sought) else float("nan")
