"""Sets of numbers, held against numpy's and Python's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.events.sets import groups, isin, ranks, unique

NUMBERS = st.lists(st.integers(0, 20), max_size=40).map(lambda values: np.array(values, np.int64))


@given(NUMBERS, NUMBERS)
def test_they_say_what_numpy_says(values, others):
    assert unique(values).tolist() == np.unique(values).tolist()
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    assert [each.tolist() for each in groups(values)] == [first.tolist(), inverse.tolist()]
    assert isin(values, others).tolist() == np.isin(values, others).tolist()


@given(NUMBERS)
def test_a_rank_counts_the_equal_ones_before(values):
    ordered = np.sort(values)
    assert ranks(ordered).tolist() == [ordered[:at].tolist().count(value) for at, value in enumerate(ordered.tolist())]
