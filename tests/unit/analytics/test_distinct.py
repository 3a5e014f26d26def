"""Distinct items by group and window against a plain model, however the rows are cut into batches."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_analytics.detectors.distinct import Distinct

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6), st.sampled_from([0.0, 1.0, 2.5])), max_size=60
)


@given(ROWS, st.integers(1, 7), st.integers(1, 4), st.sampled_from([0.0, 3.0]))
def test_first_ones_counts_and_the_row_that_reaches(
    rows: list[tuple[int, int, int, float]], size: int, limit: int, least: float
) -> None:
    rows = sorted(rows, key=lambda row: row[0])  # windows come in order
    seen: defaultdict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    expected = []
    for place, (window, group, item, weight) in enumerate(rows):
        known = seen[window, group]
        before = len(known) >= limit and sum(known.values()) >= least
        if item not in known:
            known[item] = weight
            if not before and len(known) >= limit and sum(known.values()) >= least:
                expected.append((place, list(known)))
    distinct, found = Distinct(1000), []
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        windows, groups, items = (np.array([row[i] for row in part]) for i in range(3))
        weights = np.array([row[3] for row in part])
        added = distinct.add(windows, groups.astype(np.uint64), items.astype(np.uint64), weights)
        found += [(at + i, added.members(i).tolist()) for i in added.reached(limit, weights, least).tolist()]
    assert found == expected
    newest = max((row[0] for row in rows), default=0)
    assert len(distinct) == sum(len(items) for (window, _), items in seen.items() if window >= newest - 1)


def test_state_goes_on_and_room_is_bounded() -> None:
    first, second = Distinct(5), Distinct(5)
    numbers = np.arange(8)
    first.add(np.zeros(8, np.int64), np.ones(8, np.uint64), numbers.astype(np.uint64))
    assert (len(first), first.dropped) == (5, 3)
    second.restore(first.state())
    both = [one.add(np.zeros(1, np.int64), np.ones(1, np.uint64), np.array([7], np.uint64)) for one in (first, second)]
    assert [added.first.tolist() for added in both] == [[False], [False]]


def test_nothing_is_nothing() -> None:
    empty = np.zeros(0, np.int64)
    added = Distinct(5).add(empty, empty.astype(np.uint64), empty.astype(np.uint64))
    assert added.reached(1).tolist() == []
