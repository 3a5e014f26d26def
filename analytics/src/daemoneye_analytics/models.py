"""A behavioural model: which features of a window it looks at, and what gives their p-value.

Responsible for the form alone. No model is built in yet: the pyod models, their features and their calibration come with the
behavioural analyser; until then only the deterministic detectors speak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Model(Protocol):
    """Something that was fitted and calibrated before; it never looks at its batch as a whole."""

    def p_values(self, features: np.ndarray) -> np.ndarray:
        """Probability that a benign window is at least this unusual.

        Args:
            features: float64, shape (n windows, k features), columns in the order of `BehavioralModel.features`.

        Returns:
            float64, shape (n,), each in (0, 1]; NaN where calibration is insufficient.
        """
        ...


@dataclass(frozen=True, slots=True)
class BehavioralModel:
    """A model of the analyser: its name, the names of its features in order, and the model."""

    name: str
    features: tuple[str, ...]
    model: Model
