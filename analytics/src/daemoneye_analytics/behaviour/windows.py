"""A node's open windows: which executions belong together, and their statistics.

Responsible for where windows begin and end, and for what is computed of their rows; not for what is unusual. A window is one workload on one node, in
one span of `BIN_NS` of the events' time, of at most `SIZE` executions: the next one opens a new window. Borders of batches leave no trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, NamedTuple, Self, TypeVar

import numpy as np

from daemoneye.events.codec import starts
from daemoneye.events.sets import groups, places, ranks
from daemoneye_analytics.behaviour.catalogue import PROCESS_FEATURES
from daemoneye_analytics.behaviour.columns import Columns
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
_CLOSED: Final = -1
_ROOM: Final = 1024


T = TypeVar("T", bound=Columns)


@dataclass(frozen=True, slots=True)
class Watched(ABC, Generic[T]):
    """Rows that windows are made of, with what was measured of them: columns of one length, in order of time.

    Attributes:
        things: What they are.
        measured: Features at the time at which they came.
        scores: What models say of each, float64, shape (n, m), larger is more unusual; NaN where a model does not speak.
        flagged: Which belong to a process tree that somebody found something in, bool.
    """

    things: T
    measured: Measured
    scores: np.ndarray
    flagged: np.ndarray

    THINGS: ClassVar[Any]
    """Class of `things`."""
    WIDTH: ClassVar[int]
    """Number of features."""

    def __len__(self) -> int:
        return len(self.flagged)

    @property
    def columns(self) -> list[np.ndarray]:
        """All columns in order."""
        return [*self.things.columns, *self.measured, self.scores, self.flagged]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of its columns, in a checkpoint."""
        return (*(f"e_{name}" for name in cls.THINGS.names()), "features", "new", "evidence", "scores", "flagged")

    @classmethod
    def of(cls, columns: Sequence[np.ndarray]) -> Self:
        """The inverse of `columns`."""
        *things, features, new, evidence, scores, flagged = columns
        return cls(cls.THINGS(*things), Measured(features, new, evidence), scores, flagged)

    @property
    def workload(self) -> np.ndarray:
        """Hash of each row's workload with its image, u64."""
        return self.things.workload

    @property
    @abstractmethod
    def notable(self) -> np.ndarray:
        """Which rows are worth a look before their window closes, bool: what is not makes no open window alarm."""

    @abstractmethod
    def figures(self, of: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, ...]:
        """Statistics of w windows before those of the models, float64, shape (w,) each; `of` is each row's window, `size` each window's rows."""

    def windows(self, of: np.ndarray, closed: np.ndarray, end: int | None) -> Windows[Self]:
        """The windows of the rows, of which each has one at least; arguments as for `Windows`."""
        size = np.bincount(of, minlength=len(closed))
        order, begin = places(of), starts(size)
        time = self.things.time[order]
        last = np.maximum.reduceat(time, begin)
        statistics = np.column_stack(
            (*self.figures(of, size), np.fmax.reduceat(self.scores.take(order, axis=0), begin))
        )
        return Windows(
            self, of, self.workload[order[begin]], np.minimum.reduceat(time, begin), last if end is None else np.maximum(last, end), size, statistics,
            closed,
        )  # fmt: skip


R = TypeVar("R", bound=Watched[Any])


class Rows(Watched[Executions]):
    """Executions in open windows."""

    __slots__ = ()

    THINGS = Executions
    WIDTH = len(PROCESS_FEATURES)

    @property
    def notable(self) -> np.ndarray:
        """See `Watched`."""
        return (self.measured.column("rarity_bits") >= NOTABLE_BITS) | (self.measured.column("new_items") > 0)

    def figures(self, of: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, ...]:
        """See `Watched`: the catalogue's, in its order."""
        e, measured = self.things, self.measured
        programs = _Programs.of(of, e.program)
        return (
            programs.largest_sum(measured.column("rarity_bits"), len(size), TOP),
            programs.largest_sum(suspicion(measured), len(size), SUSPICIOUS),
            np.bincount(of, weights=measured.column("relative_bits"), minlength=len(size)) / size,
            _each_once(of, measured.new, (measured.new != 0).astype(np.float64), len(size)),
            _each_once(of, e.signs, measured.evidence, len(size)),
        )


class Windows(NamedTuple, Generic[R]):
    """w windows with the rows that they are made of.

    Attributes:
        rows: Their executions, or what else they are made of.
        of: Window of each row, int64, shape (n,).
        workload: Hash of the workload with its image, u64, shape (w,).
        start: Time of the first execution, ns, int64.
        end: Where the window ended, or of an open one the time of its last execution, ns, int64.
        size: Rows.
        statistics: float64, shape (w, k): of executions the catalogue's features of windows in order, then the largest score of each model of rows.
        closed: Whether nothing more will come.
    """

    rows: R
    of: np.ndarray
    workload: np.ndarray
    start: np.ndarray
    end: np.ndarray
    size: np.ndarray
    statistics: np.ndarray
    closed: np.ndarray

    def top(self: Windows[Any], window: int, number: int = TOP) -> np.ndarray:
        """Rows of a window's processes that stand out most, by their signs and then by their rarity, one a program, int64."""
        mine = np.flatnonzero(self.of == window)
        measured = self.rows.measured
        bits = measured.column("rarity_bits") + _SPEAKING * measured.column("sign_bits")
        order = mine[np.argsort(-bits[mine], kind="stable")]
        first, _ = groups(self.rows.things.program[order])
        return order[np.sort(first)][:number]

    def signs(self: Windows[Any], window: int) -> dict[int, float]:
        """A window's signs of an intrusion by their numbers, with the most bits that a process gives to each, the strongest first."""
        mine = self.of == window
        numbers, bits = self.rows.things.signs[mine], self.rows.measured.evidence[mine]
        shown: dict[int, float] = {}
        for number, value in zip(numbers[bits > 0].tolist(), bits[bits > 0].tolist(), strict=True):
            shown[number] = max(value, shown.get(number, 0.0))
        return dict(sorted(shown.items(), key=lambda sign: (-sign[1], sign[0])))


class OpenWindows(Generic[R]):
    """The rows of one node whose windows are open, of the kind that it is made with.

    Attributes:
        bin: Number of the span of time that is open, -1 before the first.
    """

    def __init__(self, kind: type[R]) -> None:
        self.bin = -1
        self._kind = kind
        self._clear()

    @property
    def rows(self) -> R | None:
        """The rows in order of time, copied; None where there are none."""
        open_ = np.flatnonzero(self._number[: self._length] != _CLOSED)
        return self._kind.of([column.take(open_, axis=0) for column in self._columns]) if len(open_) else None

    @rows.setter
    def rows(self, rows: R | None) -> None:
        self._clear()
        if rows is not None and len(rows):
            self._put(rows)

    def close(self) -> Windows[R] | None:
        """All windows, closed by time; None where there are none."""
        rows = (
            self.rows
            if self._closed
            else self._kind.of([column[: self._length] for column in self._columns])
            if self._length
            else None
        )
        self._clear()
        if rows is None:
            return None
        first, of = groups(rows.workload)
        return rows.windows(of, np.ones(len(first), bool), (self.bin + 1) * BIN_NS)

    def add(self, rows: R) -> Windows[R] | None:
        """Take in rows of the bin that is open.

        Returns:
            The windows that became full, which are closed, and the open ones to which a notable process came; None where there are none.
        """
        if not len(rows):
            return None
        numbers = self._put(rows)
        # One more for closed rows, whose number is -1.
        looked = np.append(self._sizes >= SIZE, False)
        looked[numbers[rows.notable]] = True
        here = np.flatnonzero(looked.take(self._number[: self._length]))
        return self._take(here) if len(here) else None

    def _clear(self) -> None:
        # Columns as `Rows` has them, with room for more; the first `_length` rows are used, those of closed windows until they are too many.
        self._columns: list[np.ndarray] = []
        self._length = self._closed = 0
        self._number = np.zeros(0, np.int32)
        self._numbers: dict[int, int] = {}
        self._sizes = np.zeros(0, np.int64)

    def _put(self, rows: R) -> np.ndarray:
        """Append rows; the number of each one's workload, int32."""
        first, code = groups(rows.workload)
        known = self._numbers
        numbers = np.array([known.setdefault(key, len(known)) for key in rows.workload[first].tolist()], np.int32)
        self._sizes = np.append(self._sizes, np.zeros(len(known) - len(self._sizes), np.int64))
        self._sizes[numbers] += np.bincount(code)
        begin, end = self._length, self._length + len(rows)
        if end > len(self._number):
            self._grow(rows, end)
        for column, more in zip((*self._columns, self._number), (*rows.columns, numbers[code]), strict=True):
            column[begin:end] = more
        self._length = end
        return self._number[begin:end]

    def _grow(self, rows: R, least: int) -> None:
        """Room for so many rows at least, in place: nobody else holds the columns."""
        self._columns = self._columns or [np.empty((0, *column.shape[1:]), column.dtype) for column in rows.columns]
        for column in (*self._columns, self._number):
            column.resize((max(_ROOM, least + least // 4), *column.shape[1:]), refcheck=False)

    def _take(self, here: np.ndarray) -> Windows[R]:
        """The windows of some rows, all of their workloads'; the full ones are taken out."""
        mine = self._kind.of([column.take(here, axis=0) for column in self._columns])
        _, code = groups(mine.workload)
        order = places(code)
        rank = np.empty(len(code), np.int64)
        rank[order] = ranks(code[order])
        first, of = groups(code * len(code) + rank // SIZE)
        full = np.bincount(of, minlength=len(first)) == SIZE
        if full.any():
            gone = here[full[of]]
            self._sizes -= np.bincount(self._number[gone], minlength=len(self._sizes))
            self._number[gone] = _CLOSED
            self._closed += len(gone)
            if self._closed > max(_ROOM, self._length // 2):
                self._compact()
        return mine.windows(of, full, None)

    def _compact(self) -> None:
        open_ = np.flatnonzero(self._number[: self._length] != _CLOSED)
        for column in (*self._columns, self._number):
            column[: len(open_)] = column.take(open_, axis=0)
        self._length, self._closed = len(open_), 0


def suspicion(measured: Measured) -> np.ndarray:
    """How much each of n processes looks like an intruder's, in bits, float64: see the catalogue. What is rarer still says no more of that."""
    return np.maximum(np.minimum(measured.column("rarity_bits"), 20.0) + 1.5 * measured.column("intent"), 0.0)


class _Programs(NamedTuple):
    """The rows of windows by window and program: their order, where each program begins in it, and its window, int64."""

    order: np.ndarray
    begin: np.ndarray
    window: np.ndarray

    @classmethod
    def of(cls, of: np.ndarray, program: np.ndarray) -> _Programs:
        """Programs of the rows of windows."""
        first, code = groups(program)
        pair = of * len(first) + code
        order = places(pair)
        begin = np.flatnonzero(np.diff(pair[order], prepend=-1))
        return cls(order, begin, of[order[begin]])

    def largest_sum(self, bits: np.ndarray, count: int, number: int) -> np.ndarray:
        """Sum of the bits of each window's `number` programs that have most, float64, shape (count,)."""
        most = np.maximum.reduceat(bits[self.order], self.begin)
        by_size = np.lexsort((-most, self.window))
        window = self.window[by_size]
        top = by_size[np.arange(len(window)) - starts(np.bincount(window, minlength=count))[window] < number]
        return np.bincount(self.window[top], weights=most[top], minlength=count)


def _each_once(of: np.ndarray, things: np.ndarray, bits: np.ndarray, count: int) -> np.ndarray:
    """Sum over each window's different things of the most bits that a row gives to it, float64, shape (count,)."""
    row, column = np.nonzero(bits)
    window, thing, bits = of[row], things[row, column], bits[row, column]
    order = np.lexsort((-bits, thing, window))
    window, thing, bits = window[order], thing[order], bits[order]
    head = np.ones(len(order), bool)
    head[1:] = (window[1:] != window[:-1]) | (thing[1:] != thing[:-1])
    return np.bincount(window[head], weights=bits[head], minlength=count)
