"""Sets of numbers, held against numpy's and Python's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.events.sets import groups, isin, places, ranks, unique

NUMBERS = st.lists(st.integers(0, 20), max_size=40).map(lambda values: np.array(values, np.int64))
HASHES = st.lists(
    st.integers(0, 2**64 - 1) | st.sampled_from((5, 2**63, 2**63 + 1, 2**63 + 2, 2**64 - 1)), max_size=40
).map(lambda values: np.array(values, np.uint64))
"""Some are alike but for their last bits."""
SIGNED = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=40).map(
    lambda v: np.array(v, np.int64)
)


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


@given(HASHES | SIGNED)
def test_numbers_of_any_size_are_put_in_order_and_grouped(values):
    assert places(values).tolist() == np.argsort(values, kind="stable").tolist()
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    assert [each.tolist() for each in groups(values)] == [first.tolist(), inverse.tolist()]
