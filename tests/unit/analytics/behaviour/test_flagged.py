"""Flagged process trees: found among rows as a set would find them, the newest ones remembered."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_analytics.behaviour.flagged import Flagged

# Some keys are alike in their low bits, by which most others are told apart.
KEYS = st.integers(1, 5) | st.integers(1, 5).map(lambda key: key + (1 << 16)) | st.integers(1, 2**64 - 1)
TREES = st.lists(st.lists(KEYS | st.just(0), min_size=3, max_size=3), max_size=20)


@given(st.lists(st.tuples(st.lists(KEYS, max_size=10), TREES), max_size=5))
def test_a_row_is_found_by_each_process_of_its_tree_and_by_nothing_else(rounds):
    flagged = Flagged()
    known: set[int] = set()
    for processes, trees in rounds:
        flagged.add(processes)
        known.update(processes)
        found = flagged.among(np.array(trees, np.uint64).reshape(-1, 3))
        assert found.tolist() == [bool(known & set(tree)) for tree in trees]


def test_the_newest_ten_thousand_are_remembered_and_the_same_after_a_restart():
    flagged = Flagged()
    flagged.add(range(1, 10_001))
    tree = np.array([[1, 0], [2, 0], [10_001, 0]], np.uint64)
    assert flagged.among(tree).tolist() == [True, True, False]
    flagged.add([10_001])
    assert flagged.among(tree).tolist() == [False, True, True]
    restored = Flagged()
    assert not restored.among(tree).any()
    restored.processes = flagged.processes
    assert restored.among(tree).tolist() == [False, True, True]
