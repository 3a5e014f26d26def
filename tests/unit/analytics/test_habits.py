"""First moments by key against a plain model, however they are cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_analytics.detectors.habits import Habits


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=40), st.integers(1, 9))
def test_what_was_seen_before_a_moment(rows: list[tuple[int, int]], size: int) -> None:
    rows = sorted(rows, key=lambda row: row[1])
    habits = Habits(1000)
    first: dict[int, int] = {}
    for at in range(0, len(rows), size):
        keys, times = (np.array(column) for column in zip(*rows[at : at + size], strict=True))
        habits.add(keys.astype(np.uint64), times)
    for key, time in rows:
        first.setdefault(key, time)
    for moment in (0, 50, 100):
        got = habits.before(np.arange(12, dtype=np.uint64), np.full(12, moment))
        assert got.tolist() == [first.get(key, moment) < moment for key in range(12)]
    assert len(habits) == len(first)


def test_state_goes_on_and_room_is_bounded() -> None:
    first, second = Habits(100), Habits(100)
    first.since = 5
    first.add(np.arange(300, dtype=np.uint64), np.arange(300))
    second.restore(first.state())
    assert len(second) <= 100
    assert second.since == 5
    assert second.before(np.array([0, 299], np.uint64), np.array([1000, 1000])).tolist() == [False, True]
    with pytest.raises(ValueError, match="not a tally"):
        second.restore({"since": 1})
