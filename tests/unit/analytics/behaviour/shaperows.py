"""Feature rows for tests of models: usual ones of several kinds of columns, and odd ones."""

from __future__ import annotations

import numpy as np

FEATURES = ("bits", "length", "depth", "flag", "constant")


def usual(n, seed=1):
    rng = np.random.default_rng(seed)
    return np.column_stack(
        (rng.exponential(2, n), rng.normal(6, 1, n), rng.integers(1, 6, n), rng.random(n) < 0.03, np.zeros(n))
    )


def odd(n, seed=2):
    rng = np.random.default_rng(seed)
    return np.column_stack((rng.normal(40, 3, n), rng.normal(14, 1, n), np.full(n, 12), np.ones(n), np.ones(n)))
