"""What windows were like before: a window's statistic becomes the probability that a usual window is at least as unusual.

Responsible for the pool of past windows, for which of them a new one is compared with, for how they leave it, and for saying where they are too few. The
shape of tails is `daemoneye_analytics.behaviour.tail`'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from daemoneye_analytics.behaviour import tail

SIZES: Final = (10, 100)
"""Executions from which on a window is of the second and the third class of sizes."""
SHARE: Final = 20
"""One workload holds at most this fraction (1/20) of the room of a stratum, but never less than one class needs: nobody shapes a full pool alone."""
P_MIN: Final = 1e-12
"""Smallest p that is ever given: no fit of a tail says more."""
LARGEST: Final = 1e100
"""Statistics beyond this are taken as infinite: sums over the pool stay finite."""
DAY_NS: Final = 86_400_000_000_000
"""Event time after which the newest windows count at the latest."""
AGE_NS: Final = 14 * DAY_NS
"""Windows that are older go, as counts fade: what is usual drifts. The newest `minimum` of a kind stay, however old they are."""
_NEWEST: Final = 100
_FORMAT: Final = 2
_SIZES: Final = len(SIZES) + 1
_GROWTH: Final = 0.1
_STEP: Final = 30
_ALIKE: Final = 20
_ROW: Final = np.dtype([("statistic", "<f8"), ("workload", "<u8"), ("start", "<i8"), ("size", "u1"), ("learned", "?")])
_SIZE_NAMES: Final = ("1-9 executions", "10-99 executions", "100 and more executions")


@dataclass(frozen=True, slots=True)
class _Class:
    """Windows that are alike: their statistics in ascending order, and their tail."""

    ascending: np.ndarray
    tail: tail.Tail
    coarse: str

    def p_values(self, statistic: np.ndarray) -> np.ndarray:
        n = len(self.ascending)
        # Equal up to rounding is equal, and counts as at least as unusual.
        statistic = statistic - 1e-9 * np.maximum(1.0, np.abs(statistic))
        below = np.searchsorted(self.ascending, statistic)
        p = (n - below + 1) / (n + 1)
        if self.tail.refused:
            return p
        beyond = statistic > self.tail.threshold
        mass = (self.tail.exceedances + 1) / (n + 1)
        fitted = mass * self.tail.survival(statistic[beyond])
        # Never lighter than the data: where something as unusual was seen, the fit says at least as much as that.
        seen = np.where(below[beyond] < n, p[beyond], 0.0)
        p[beyond] = np.clip(np.maximum(fitted, seen), P_MIN, mass)
        return p


class Reference:
    """Statistics of windows that were judged before: what a new one is compared with. One instance a model.

    Windows are alike by size (1-9, 10-99, 100 and more executions) where that matters, and always by whether the workload has left Learning. A class of
    fewer than `minimum` windows uses all sizes together, unless its own windows contradict them. Where neither is left, calibration is insufficient, which
    is said and not guessed.

    p is (k + 1) / (n + 1) with the k of n windows that are at least as unusual; in the tail it is what was fitted to it, if the fit was validated.
    It follows from the windows of the last `refresh` alone: a window's p is the same alone and among others.
    """

    def __init__(self, capacity: int = 20_000, minimum: int = 300, *, sized: bool = True) -> None:
        """An empty pool.

        Args:
            capacity: Windows kept for workloads in Learning, and again for the others; a third of them for each class of sizes.
            minimum: Windows without which a class does not speak.
            sized: Whether windows of different sizes are held apart; otherwise all are of one class.
        """
        self._sized = sized
        self.capacity = capacity
        self.minimum = minimum
        self._rows = np.zeros(0, _ROW)
        self._pending: list[np.ndarray] = []
        self._waiting = 0
        self._cells: dict[tuple[int, int], _Class | str] = {}
        self._not_finite = 0
        self._fitted_ns = self._latest_ns = 0

    def p_values(self, statistic: np.ndarray, size: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """Probability that a usual window is at least this unusual.

        Args:
            statistic: float64, shape (n,): larger is more unusual; infinite is more than anything.
            size: Executions in the window, int, shape (n,).
            learned: Whether the workload has left Learning, bool, shape (n,).

        Returns:
            float64, shape (n,), in (0, 1]; NaN where calibration is insufficient or the statistic is NaN.
        """
        out = np.full(len(statistic), np.nan)
        cells = _stratum(self._size_class(size), learned)
        known = ~np.isnan(statistic)
        for cell in np.flatnonzero(np.bincount(cells[known])).tolist():
            found = self._cells.get(divmod(cell, _SIZES))
            if isinstance(found, _Class):
                mine = known & (cells == cell)
                out[mine] = found.p_values(np.clip(statistic[mine], -LARGEST, LARGEST))
        return out

    def add(
        self,
        statistic: np.ndarray,
        size: np.ndarray,
        learned: np.ndarray,
        workload: np.ndarray,
        start: np.ndarray,
    ) -> None:
        """Take in windows after they were judged; they count from the next fit on.

        Args:
            statistic: As for `p_values`, as are `size` and `learned`. What is not finite, or larger than `LARGEST`, is left out and counted.
            size: See there.
            learned: See there.
            workload: u64, shape (n,): the workload, of which the pool keeps the newest windows up to its share.
            start: When each began, ns, int64, shape (n,).
        """
        finite = np.abs(statistic) <= LARGEST
        self._not_finite += int(np.count_nonzero(~finite))
        rows = np.empty(int(np.count_nonzero(finite)), _ROW)
        rows["statistic"] = statistic[finite]
        rows["workload"] = workload[finite]
        rows["start"] = start[finite]
        rows["size"] = self._size_class(size)[finite]
        rows["learned"] = learned[finite]
        if not len(rows):
            return
        self._pending.append(rows)
        self._waiting += len(rows)
        self._latest_ns = max(self._latest_ns, int(rows["start"].max()))
        if self._waiting > 2 * self.capacity:
            # Nobody refreshes: bounded all the same.
            self._pending = [self._kept(np.concatenate(self._pending))]
            self._waiting = len(self._pending[0])

    def refresh(self) -> None:
        """Fit anew when the pool grew by a tenth since, or a day of the windows' time went by; otherwise nothing happens. Some 70 ms for full pools."""
        grown = self._waiting >= max(_STEP, _GROWTH * len(self._rows))
        if not self._waiting or not (grown or self._latest_ns - self._fitted_ns >= DAY_NS):
            return
        # One node's clock that is wrong does not age the others' windows.
        now = int(np.median(np.concatenate([rows["start"] for rows in self._pending])[-_NEWEST:]))
        if grown or now - self._fitted_ns >= DAY_NS:
            rows = self._kept(np.concatenate((self._rows, *self._pending)))
            lasting = rows["start"] >= now - AGE_NS
            lasting[_newest((_stratum(rows["size"], rows["learned"]),), self.minimum)] = True
            self._rows, self._pending, self._waiting = rows[lasting], [], 0
            self._fitted_ns = self._latest_ns = now
            self._fit()

    def forget(self, workload: np.ndarray, start: np.ndarray) -> None:
        """Take windows out, which count no more from now on: u64 and int64, shape (n,), what `add` was given for each."""
        gone = set(zip(workload.tolist(), start.tolist(), strict=True))

        def left(rows: np.ndarray) -> np.ndarray:
            near = np.flatnonzero(np.isin(rows["start"], start))
            out = [at for at in near.tolist() if (int(rows["workload"][at]), int(rows["start"][at])) in gone]
            return np.delete(rows, out)

        self._pending = [left(rows) for rows in self._pending]
        self._waiting = sum(map(len, self._pending))
        before, self._rows = len(self._rows), left(self._rows)
        if len(self._rows) < before:
            self._fit()

    def state(self) -> dict[str, Any]:
        """What `restore` needs: the windows of the last fit, and those that came since."""
        return {
            "format": _FORMAT,
            "rows": self._rows.copy(),
            "pending": np.concatenate((np.zeros(0, _ROW), *self._pending)),
            "not_finite": self._not_finite,
            "fitted_ns": self._fitted_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form; nothing changed.
        """
        numbers = (state.get("not_finite"), state.get("fitted_ns"))
        if state.get("format") != _FORMAT or not all(isinstance(number, int) for number in numbers):
            msg = f"not a reference, or one of another format than {_FORMAT}: {state.get('format')!r}"
            raise ValueError(msg)
        rows, pending = _checked(state, "rows"), _checked(state, "pending")
        # Of a larger capacity, the newest stay.
        self._rows, self._pending, self._waiting = self._kept(rows), [pending], len(pending)
        self._not_finite, self._fitted_ns = int(state["not_finite"]), int(state["fitted_ns"])
        self._latest_ns = int(pending["start"].max(initial=self._fitted_ns))
        self._fit()

    def summary(self) -> dict[str, int]:
        """Windows held, classes that are calibrated, and classes that are not: short, for what is said often."""
        calibrated = sum(isinstance(found, _Class) for found in self._cells.values())
        return {"windows": len(self._rows), "calibrated": calibrated, "insufficient": len(self._cells) - calibrated}

    def status(self) -> dict[str, Any]:
        """Windows held and waiting, and by class whether it is calibrated, with which windows and which tail; JSON."""
        classes = []
        for (learned, size), found in sorted(self._cells.items(), reverse=True):
            named = f"{'learned' if learned else 'learning'}, {_SIZE_NAMES[size] if self._sized else 'all sizes'}"
            if isinstance(found, str):
                classes.append({"class": named, "calibration": "insufficient", "reason": found})
                continue
            told: dict[str, Any] = {"class": named, "calibration": "calibrated", "windows": len(found.ascending)}
            if found.coarse:
                told["compared"] = found.coarse
            if found.tail.refused:
                told["tail"] = f"none: {found.tail.refused}"
            else:
                told["tail"] = {name: round(float(getattr(found.tail, name)), 4) for name in _TOLD}
            classes.append(told)
        return {
            **self.summary(),
            "waiting": self._waiting,
            "not_finite": self._not_finite,
            "classes": classes,
        }

    def _size_class(self, size: np.ndarray) -> np.ndarray:
        return size_class(size) if self._sized else np.zeros(len(size), np.int64)

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        """The newest of each workload up to its share, of these the newest of each stratum; in order. Done in parts, it gives the same."""
        stratum = _stratum(rows["size"], rows["learned"])
        room = max(self.minimum, self.capacity // _SIZES if self._sized else self.capacity)
        # Not less than one class needs: a machine with one workload is calibrated too.
        share = max(self.minimum, room // SHARE)
        rows, stratum = (a[_newest((stratum, rows["workload"]), share)] for a in (rows, stratum))
        return rows[_newest((stratum,), room)]

    def _fit(self) -> None:
        rows = self._rows
        cells = _stratum(rows["size"], rows["learned"])
        self._cells = {}
        for learned in (0, 1):
            here = cells // _SIZES == learned
            every = self._class(rows["statistic"][here], "of all sizes")
            for size in range(_SIZES if self._sized else 1):
                own = rows["statistic"][cells == learned * _SIZES + size]
                found = self._class(own, "")
                if found:
                    self._cells[learned, size] = found
                elif every and _alike(own, every.ascending):
                    self._cells[learned, size] = every
                elif every:
                    self._cells[learned, size] = f"{len(own)} windows, and they are unlike the others"
                else:
                    self._cells[learned, size] = f"{np.count_nonzero(here)} windows, {self.minimum} are needed"

    def _class(self, statistic: np.ndarray, coarse: str) -> _Class | None:
        if len(statistic) < self.minimum:
            return None
        return _Class(np.sort(statistic), tail.fit(statistic), coarse)


_TOLD: Final = ("threshold", "exceedances", "mean", "shape", "distance", "limit")


def _checked(state: dict[str, Any], name: str) -> np.ndarray:
    array = state.get(name)
    if not isinstance(array, np.ndarray) or array.dtype != _ROW or array.ndim != 1:
        msg = f"a reference whose {name} are no windows"
        raise ValueError(msg)
    if not (np.abs(array["statistic"]) <= LARGEST).all() or (array["size"] > len(SIZES)).any():
        msg = f"a reference whose {name} hold values that no window has"
        raise ValueError(msg)
    return array


def _stratum(size: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Number of each window's class, learned * 3 + size, int64; `size` is a class of sizes."""
    return learned.astype(np.int64) * _SIZES + size


def size_class(size: np.ndarray) -> np.ndarray:
    """Class 0, 1 or 2 of windows of so many executions, int64."""
    return np.searchsorted(SIZES, size, side="right")


def _alike(own: np.ndarray, ascending: np.ndarray) -> bool:
    """Whether a class's few windows do not show that a coarser class is lighter: not too many lie in its upper tenth."""
    if len(own) < _ALIKE:
        return True
    usual = 0.1 * len(own)
    above = np.count_nonzero(own > ascending[int(0.9 * (len(ascending) - 1))])
    return bool(above <= usual + 3 * np.sqrt(0.9 * usual))


def _newest(keys: tuple[np.ndarray, ...], number: int) -> np.ndarray:
    """Indices, ascending, of the last `number` of each group of equal keys; shape (k,)."""
    index = np.arange(len(keys[0]))
    order = np.lexsort((-index, *keys))
    head = np.ones(len(order), bool)
    if len(order) > 1:
        head[1:] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    begin = np.maximum.accumulate(np.where(head, index, 0))
    return np.sort(order[index - begin < number])
