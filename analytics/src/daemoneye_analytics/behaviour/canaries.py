"""Executions of known attacks as rows of features: what a newly trained model must find as well as the one before.

Responsible for a handful of typical ones, in the words of the catalogue. They are what such executions measured in workloads of the development split of
tests/testdata/behaviour, rounded; they guard a promotion and train nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from daemoneye_analytics.behaviour.catalogue import BY_NAME, CONNECTION

# Beside these, every feature is 0.
_USUAL: Final = {"ancestors": 3.0, "path_depth": 3.0, "args_entropy": 3.3, "argc": 2.0, "args_length": 4.5}
_ATTACKS: Final = (
    {"exe_bits": 17.6, "relative_bits": 5.4, "rarity_bits": 17.6, "new_items": 2.0, "path_depth": 2.0, "path_class": 3.0, "odd_file": 1.0},
    {"exe_bits": 17.7, "relative_bits": 5.5, "rarity_bits": 17.7, "new_items": 2.0, "path_depth": 2.0, "path_class": 4.0, "odd_file": 1.0},
    {"exe_bits": 9.8, "pair_bits": 7.3, "args_bits": 7.6, "relative_bits": 5.8, "rarity_bits": 24.7, "new_items": 1.0, "args_length": 6.5, "args_entropy": 4.2},
    {"exe_bits": 16.6, "args_bits": 4.3, "relative_bits": 5.7, "rarity_bits": 20.9, "new_items": 3.0, "argc": 1.6},
    {"exe_bits": 3.3, "pair_bits": 18.3, "args_bits": 15.9, "relative_bits": 21.8, "rarity_bits": 37.5, "new_items": 1.0},
    {
        "exe_bits": 17.4, "user_bits": 14.6, "pair_bits": 3.4, "relative_bits": 5.6, "rarity_bits": 20.8, "new_items": 3.0, "user_change": 1.0,
        "privilege_gain": 1.0,
    },
)  # fmt: skip


def rows(features: Sequence[str]) -> np.ndarray:
    """Their rows with these features, float64, shape (6, number of features); none of connections, of which no attacks were measured."""
    if any(BY_NAME[name].scope == CONNECTION for name in features if name in BY_NAME):
        return np.zeros((0, len(features)))
    return np.array([[(_USUAL | attack).get(name, 0.0) for name in features] for attack in _ATTACKS])
