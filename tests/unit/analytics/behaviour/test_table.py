"""Table and counts: exact like a dictionary, bounded, and surprising as Witten and Bell have it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_analytics.behaviour.counts import Counts, Things
from daemoneye_analytics.behaviour.table import Table

KEYS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), min_size=1, max_size=60, unique=True)


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@given(st.lists(KEYS, max_size=20))
def test_a_table_counts_like_a_dictionary(rounds):
    table = Table(10_000)
    known: dict[int, int] = {}
    for number, given_keys in enumerate(rounds):
        keys = [key for key in given_keys if key]  # 0 and 1 are one key
        if not keys:
            continue
        new = table.add(np.array(keys, np.uint64), np.arange(1, len(keys) + 1), number)
        assert new.tolist() == [key not in known for key in keys]
        for at, key in enumerate(keys, 1):
            known[key] = known.get(key, 0) + at
    everything = np.array([*known, 12345678901234567], np.uint64)
    assert table.values(everything).tolist() == [*known.values(), known.get(12345678901234567, 0)]
    assert len(table) == len(known)


def test_a_full_table_drops_what_was_not_seen_for_longest():
    table = Table(1000)
    for number in range(50):
        table.add(np.arange(1 + 100 * number, 101 + 100 * number, dtype=np.uint64), np.ones(100), number)
    assert len(table) <= 1000
    assert table.dropped == 5000 - len(table)
    assert table.values(u64(4999))[0] == 1
    assert table.values(u64(1))[0] == 0


def test_what_decays_is_forgotten():
    table = Table(1000)
    table.add(u64(1, 2), np.array([1.0, 100.0]), 0)
    for _ in range(5):
        table.decay(0.5, 0.1)
    assert table.values(u64(1, 2)).tolist() == [0, 100 / 32]
    assert len(table) == 1


def test_state_and_restore_and_what_is_no_table():
    table = Table(1000)
    table.add(u64(5, 6), np.array([2.0, 3.0]), 7, np.array([1.0, 1.0]))
    other = Table(1000)
    other.restore(table.state())
    assert other.values(u64(5, 6)).tolist() == [2, 3]
    for wrong in (
        {"key": u64(5, 5)},
        {"weight": np.zeros(1, np.float32)},
        {"key": u64(0, 1)},
        {"weight": np.array([np.nan, 1], np.float32)},
    ):
        with pytest.raises(ValueError, match="not a table"):
            Table(1000).restore({**table.state(), **wrong})
    with pytest.raises(ValueError, match="not a table"):
        Table(1000).restore({})


def things(*given: int, kind: int = 1) -> Things:
    n = len(given)
    return Things(np.zeros(n, np.int64), np.full(n, kind, np.uint64), np.zeros(n, np.uint64), u64(*given))


def shown(counts: Counts, levels: np.ndarray, given: list[int], *, base: float = 4.0):
    return counts.surprisal(levels[None], things(*given), np.full(len(given), base))


def learn(counts: Counts, levels: np.ndarray, given: list[int], hour: int) -> None:
    counts.learn(levels[None], things(*given), np.ones(len(given)), hour)


def taught(levels: np.ndarray, given: list[int]) -> Counts:
    counts = Counts()
    learn(counts, levels, given, 1)
    return counts


def test_surprisal_is_witten_bells():
    """90 of one thing and 10 of another in one context: P = (n + t·P')/(N + t), by hand."""
    counts = taught(u64(7), [1] * 90 + [2] * 10)
    found = shown(counts, u64(7), [1, 2, 3])
    base = 2.0**-4
    expected = [-np.log2((n + 2 * base) / 102) for n in (90, 10, 0)]
    assert found.bits == pytest.approx(expected)
    assert found.seen.tolist() == [90, 10, 0]
    assert found.total.tolist() == [100] * 3


def test_what_is_usual_elsewhere_is_less_surprising_than_what_is_not():
    counts = taught(u64(11, 99), [1] * 1000)
    learn(counts, u64(12, 99), [2] * 50, 1)
    known, unknown = shown(counts, u64(11, 99), [2, 3]).bits
    assert known < unknown
    assert (
        shown(counts, u64(0, 99), [2]).bits[0] == shown(counts, u64(11, 99), [2]).fleet[0]
    )  # a level that there is not changes nothing


def test_the_longer_a_workload_shows_the_same_the_more_a_new_thing_surprises():
    short, long = (shown(taught(u64(7), [1] * n), u64(7), [2]).bits[0] for n in (10, 10_000))
    assert long > short + 9


def test_one_context_cannot_fill_the_table():
    counts = taught(u64(7), list(range(1, 6001)))
    learn(counts, u64(7), list(range(10_000, 16_000)), 2)
    assert len(counts.items) == 6000  # the first round was one batch; afterwards nothing more is kept
    assert shown(counts, u64(7), [99_999]).bits[0] < 6  # and nothing is surprising there


def test_counts_outlive_the_process():
    counts = taught(u64(7), [1, 1, 2])
    other = Counts()
    other.restore(counts.state())
    assert shown(other, u64(7), [1, 2, 3]).bits.tolist() == shown(counts, u64(7), [1, 2, 3]).bits.tolist()
    assert other.seen(7, 1, 0, 1) == (2, 3)
    with pytest.raises(ValueError, match="format"):
        Counts().restore({"format": 9})
