"""A node's open windows: which executions belong together, and their statistics.

Responsible for where windows begin and end, and for what is computed of their rows; not for what is unusual. A window is one workload on one node, in
one span of `BIN_NS` of the events' time, of at most `SIZE` executions: the next one opens a new window. Borders of batches leave no trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from daemoneye.events.sets import ranks
from daemoneye_analytics.behaviour.executions import Executions
from daemoneye_analytics.behaviour.features import Measured

BIN_NS: Final = 600_000_000_000
SIZE: Final = 100
TOP: Final = 3
SUSPICIOUS: Final = 5
"""Processes of a window that count most."""
NOTABLE_BITS: Final = 8.0
_SPEAKING: Final = 4.0
"""Bits of rarity that a bit of a sign is worth when a window's processes are named."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Executions in open windows with what was measured of them: columns of one length, in order of time.

    Attributes:
        executions: What they are.
        measured: Features at the time at which they came.
        scores: What models say of each, float64, shape (n, m), larger is more unusual; NaN where a model does not speak.
        flagged: Which belong to a process tree that somebody found something in, bool.
    """

    executions: Executions
    measured: Measured
    scores: np.ndarray
    flagged: np.ndarray

    def __len__(self) -> int:
        return len(self.flagged)

    def take(self, index: np.ndarray) -> Rows:
        """Some of them."""
        return Rows(
            self.executions.take(index),
            Measured(*(column[index] for column in self.measured)),
            self.scores[index],
            self.flagged[index],
        )


class Windows(NamedTuple):
    """w windows with the rows that they are made of.

    Attributes:
        rows: Their executions.
        of: Window of each row, int64, shape (n,).
        workload: Hash of the workload with its image, u64, shape (w,).
        start: Time of the first execution, ns, int64.
        end: Where the window ended, or of an open one the time of its last execution, ns, int64.
        size: Executions.
        statistics: float64, shape (w, 5 + m): the catalogue's features of windows in order, then the largest score of each model of processes.
        closed: Whether nothing more will come.
    """

    rows: Rows
    of: np.ndarray
    workload: np.ndarray
    start: np.ndarray
    end: np.ndarray
    size: np.ndarray
    statistics: np.ndarray
    closed: np.ndarray

    def top(self, window: int, number: int = TOP) -> np.ndarray:
        """Rows of a window's processes that stand out most, by their signs and then by their rarity, one a program, int64."""
        mine = np.flatnonzero(self.of == window)
        measured = self.rows.measured
        bits = measured.column("rarity_bits") + _SPEAKING * measured.column("sign_bits")
        order = mine[np.argsort(-bits[mine], kind="stable")]
        _, first = np.unique(self.rows.executions.program[order], return_index=True)
        return order[np.sort(first)][:number]

    def signs(self, window: int) -> dict[int, float]:
        """A window's signs of an intrusion by their numbers, with the most bits that a process gives to each, the strongest first."""
        mine = self.of == window
        numbers, bits = self.rows.executions.signs[mine], self.rows.measured.evidence[mine]
        shown: dict[int, float] = {}
        for number, value in zip(numbers[bits > 0].tolist(), bits[bits > 0].tolist(), strict=True):
            shown[number] = max(value, shown.get(number, 0.0))
        return dict(sorted(shown.items(), key=lambda sign: (-sign[1], sign[0])))


class OpenWindows:
    """The rows of one node whose windows are open.

    Attributes:
        bin: Number of the span of time that is open, -1 before the first.
    """

    def __init__(self) -> None:
        self.bin = -1
        self._parts: list[Rows] = []
        self._sizes: Counter[int] = Counter()

    @property
    def rows(self) -> Rows | None:
        """The rows in order of time; None where there are none."""
        if len(self._parts) > 1:
            self._parts = [_joined(self._parts)]
        return self._parts[0] if self._parts else None

    @rows.setter
    def rows(self, rows: Rows | None) -> None:
        self._parts = [] if rows is None else [rows]
        self._sizes = Counter() if rows is None else Counter(rows.executions.workload.tolist())

    def close(self) -> Windows | None:
        """All windows, closed by time; None where there are none."""
        rows, self.rows = self.rows, None
        if rows is None or not len(rows):
            return None
        _, of = np.unique(rows.executions.workload, return_inverse=True)
        return _windows(rows, of, np.ones(int(of.max()) + 1, bool), (self.bin + 1) * BIN_NS)

    def add(self, rows: Rows) -> Windows | None:
        """Take in rows of the bin that is open.

        Returns:
            The windows that became full, which are closed, and the open ones to which a notable process came; None where there are none.
        """
        if not len(rows):
            return None
        self._parts.append(rows)
        workloads, sizes = np.unique(rows.executions.workload, return_counts=True)
        self._sizes.update(dict(zip(workloads.tolist(), sizes.tolist(), strict=True)))
        full = [key for key in workloads.tolist() if self._sizes[key] >= SIZE]
        looked = np.union1d(np.array(full, np.uint64), rows.executions.workload[notable(rows.measured)])
        return self._take(looked) if len(looked) else None

    def _take(self, workloads: np.ndarray) -> Windows:
        """The windows of some workloads; the full ones are taken out."""
        held = self.rows
        assert held is not None  # noqa: S101 - something was added
        here = np.isin(held.executions.workload, workloads)
        mine = held.take(np.flatnonzero(here))
        _, code = np.unique(mine.executions.workload, return_inverse=True)
        order = np.argsort(code, kind="stable")
        rank = np.empty(len(code), np.int64)
        rank[order] = ranks(code[order])
        part, of = np.unique(code * len(code) + rank // SIZE, return_inverse=True)
        full = np.bincount(of, minlength=len(part)) == SIZE
        if full.any():
            here[here] = full[of]
            self.rows = held.take(np.flatnonzero(~here))
        return _windows(mine, of, full, None)


def notable(measured: Measured) -> np.ndarray:
    """Which of n processes are worth a look before their window closes, bool: what is not makes no open window alarm."""
    return (measured.column("rarity_bits") >= NOTABLE_BITS) | (measured.column("new_items") > 0)


def _windows(rows: Rows, of: np.ndarray, closed: np.ndarray, end: int | None) -> Windows:
    count = len(closed)
    e = rows.executions
    size = np.bincount(of, minlength=count)
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, of, e.time)
    last = np.full(count, np.iinfo(np.int64).min)
    np.maximum.at(last, of, e.time)
    workload = np.zeros(count, np.uint64)
    workload[of] = e.workload
    statistics = np.column_stack((
        _largest_sum(of, e.program, rows.measured.column("rarity_bits"), count, TOP),
        _largest_sum(of, e.program, suspicion(rows.measured), count, SUSPICIOUS),
        np.bincount(of, weights=rows.measured.column("relative_bits"), minlength=count) / size,
        _distinct(of, rows.measured.new, count),
        _evidence(of, e.signs, rows.measured.evidence, count),
        *(_largest(of, scores, count) for scores in rows.scores.T),
    ))  # fmt: skip
    ends = last if end is None else np.maximum(last, end)
    return Windows(rows, of, workload, first, ends, size, statistics, closed)


def suspicion(measured: Measured) -> np.ndarray:
    """How much each of n processes looks like an intruder's, in bits, float64: see the catalogue. What is rarer still says no more of that."""
    return np.maximum(np.minimum(measured.column("rarity_bits"), 20.0) + 1.5 * measured.column("intent"), 0.0)


def _largest_sum(of: np.ndarray, program: np.ndarray, bits: np.ndarray, count: int, number: int) -> np.ndarray:
    """Sum of the bits of each window's `number` programs that have most."""
    order = np.lexsort((-bits, program, of))
    head = np.ones(len(order), bool)
    head[1:] = (program[order][1:] != program[order][:-1]) | (of[order][1:] != of[order][:-1])
    each = order[head]
    each = each[np.lexsort((-bits[each], of[each]))]
    top = each[ranks(of[each]) < number]
    return np.bincount(of[top], weights=bits[top], minlength=count)


def _distinct(of: np.ndarray, new: np.ndarray, count: int) -> np.ndarray:
    """Different things that are new, of each window."""
    row, column = np.nonzero(new)
    pairs = np.unique(np.column_stack((of[row].astype(np.uint64), new[row, column])), axis=0)
    return np.bincount(pairs[:, 0].astype(np.int64), minlength=count).astype(np.float64)


def _evidence(of: np.ndarray, signs: np.ndarray, bits: np.ndarray, count: int) -> np.ndarray:
    """Sum over each window's different signs of the most bits that a row gives to it."""
    row, column = np.nonzero(bits)
    window, sign, bits = of[row], signs[row, column], bits[row, column]
    order = np.lexsort((-bits, sign, window))
    window, sign, bits = window[order], sign[order], bits[order]
    head = np.ones(len(order), bool)
    head[1:] = (window[1:] != window[:-1]) | (sign[1:] != sign[:-1])
    return np.bincount(window[head], weights=bits[head], minlength=count)


def _largest(of: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Largest score of each window; NaN where there is none."""
    out = np.full(count, -np.inf)
    known = ~np.isnan(scores)
    np.maximum.at(out, of[known], scores[known])
    return np.where(np.isinf(out), np.nan, out)


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(
        Executions.joined([part.executions for part in parts]),
        Measured(*(np.concatenate(columns) for columns in zip(*(part.measured for part in parts), strict=True))),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.flagged for part in parts]),
    )
