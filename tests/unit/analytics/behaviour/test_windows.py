"""Open windows, held against a dictionary of lists."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_analytics.behaviour.catalogue import PROCESS_FEATURES
from daemoneye_analytics.behaviour.executions import LEVELS, Executions
from daemoneye_analytics.behaviour.features import Measured
from daemoneye_analytics.behaviour.signs import WIDTH
from daemoneye_analytics.behaviour.tokens import WORDS
from daemoneye_analytics.behaviour.windows import BIN_NS, SIZE, OpenWindows, Rows

WIDE = {"levels": LEVELS, "words": WORDS, "signs": WIDTH, "tree": 9}


def rows(workloads: list[int], first: int) -> Rows:
    """Executions of these workloads, numbered from `first` on by `sequence`; nothing of them is notable."""
    n = len(workloads)
    columns: dict[str, np.ndarray] = {
        name: np.ones((n, WIDE[name]) if name in WIDE else n, np.uint64) for name in Executions.names()
    }
    columns |= {"workload": np.array(workloads, np.uint64), "sequence": np.arange(first, first + n, dtype=np.uint64)}
    columns["time"] = columns["sequence"].astype(np.int64)
    measured = Measured(np.zeros((n, len(PROCESS_FEATURES))), np.zeros((n, 3), np.uint64), np.zeros((n, WIDTH)))
    return Rows(Executions(**columns), measured, np.full((n, 1), np.nan), np.zeros(n, bool))


@given(st.lists(st.tuples(st.integers(1, 700), st.integers(1, 5)), min_size=1, max_size=12), st.integers(0, 99))
def test_windows_are_full_at_their_size_and_the_rest_stays_open(steps, seed):
    random, windows, first = Random(seed), OpenWindows(Rows), 0
    held: dict[int, list[int]] = {}
    closed: list[list[int]] = []
    windows.bin = 0
    for size, kinds in steps:
        workloads = [random.randrange(kinds) for _ in range(size)]
        for at, workload in enumerate(workloads, first):
            held.setdefault(workload, []).append(at)
        full = windows.add(rows(workloads, first))
        first += size
        if full is not None:
            assert full.closed[full.size == SIZE].all()
            closed += [full.rows.things.sequence[full.of == at].tolist() for at in np.flatnonzero(full.closed)]
    expected = [
        part for its in held.values() for at in range(0, len(its), SIZE) if len(part := its[at : at + SIZE]) == SIZE
    ]
    assert sorted(closed) == sorted(expected)
    left = sorted(at for its in held.values() for at in its[len(its) // SIZE * SIZE :])
    still = windows.rows
    assert ([] if still is None else still.things.sequence.tolist()) == left
    over = windows.close()
    assert ([] if over is None else sorted(over.rows.things.sequence.tolist())) == left
    if over is not None:
        assert over.closed.all()
        assert (over.end == BIN_NS).all()
        for at, workload in enumerate(over.workload.tolist()):
            assert over.start[at] == over.rows.things.time[over.of == at][0]
            assert over.size[at] == len(held[workload]) % SIZE
    assert windows.rows is None
