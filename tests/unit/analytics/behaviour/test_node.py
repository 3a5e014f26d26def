"""Where in a node's stream something is learned: by the events' time, or by their number where they come thick; never by batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from daemoneye_analytics.behaviour.node import BLOCK, TICK_NS, Node
from daemoneye_analytics.frame import Frame


@dataclass(frozen=True)
class Moments:
    """Rows of which nothing is asked but when."""

    time: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    @property
    def workload(self) -> np.ndarray:
        return np.ones(len(self), np.uint64)

    @property
    def identity(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    def cgroup(self, frame: Frame, at: int) -> tuple[int, int]:
        raise NotImplementedError((frame, at))  # steps ask nobody whose rows are: whoever does is wrong

    def span(self, first: int, last: int) -> Moments:
        return Moments(self.time[first:last])


def learned(time: np.ndarray, size: int) -> list[int]:
    """Rows before each moment of learning, when they come in batches of so many."""
    node, rows, out = Node("n"), 0, []
    for at in range(0, len(time), size):
        for tick, block, step in node.steps(Moments(time[at : at + size])):
            if block or tick > node.tick:
                out.append(rows)
            node.enter(tick)
            rows += len(step)
    assert rows == len(time)
    return out


@pytest.mark.parametrize("size", [100, 1_912, BLOCK, 100_000])
def test_thick_rows_are_learned_from_by_number_and_thin_ones_by_time_however_they_come_in_batches(size):
    thick = np.linspace(1, TICK_NS - 1, 20_000).astype(np.int64)
    thin = np.arange(1, 4) * TICK_NS + 5
    assert learned(np.append(thick, thin), size) == [*range(0, 20_000, BLOCK), 20_000, 20_001, 20_002]


@pytest.mark.parametrize("cut", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_node_that_was_kept_goes_on_at_its_place_in_the_block(cut):
    node = Node("n")
    list(node.steps(Moments(np.full(cut, 5))))
    arrays, plain = node.state()
    node = Node.restored(arrays, plain, node.kind, 0)
    rows, borders = cut, []
    for _, block, step in node.steps(Moments(np.full(2 * BLOCK, 5))):
        borders += [rows] if block else []
        rows += len(step)
    assert borders == [at for at in (BLOCK, 2 * BLOCK, 3 * BLOCK) if cut <= at < rows]
