"""How regularly each workload's programs connect to the same other side: the beginnings of their connections, kept as series.

Responsible for series and for how regular each is; how surprising a rhythm is in its workload is `daemoneye_analytics.behaviour.contacts`' affair. Deviations
are from the median, as the detector `beacon` has them, and of them the one counts that three of four do not exceed: a missed beat, or a clock that jumped,
do not hide the rest, and what is asked all the time says less often by chance that there is a rhythm than by the middle deviation.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from daemoneye.events.sets import groups, isin, places, unique
from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour.clock import BACK_NS
from daemoneye_analytics.behaviour.connections import Heard
from daemoneye_analytics.behaviour.windows import BIN_NS
from daemoneye_analytics.frame import combine

BEATS: Final = 16
"""Beats that are judged together."""
WITHIN: Final = 12
"""Of their intervals so many are to lie within the deviation."""
REGULAR: Final = 3.0
"""Periodicity from which on a series has a rhythm: 12 of 15 intervals lie within an eighth of it. Of drawn series those with a jitter of a tenth to both
sides pass 997 times in 1,000, with one of a seventh 8 times in 10, those at random moments never in 400,000 (by the middle deviation 1 in 10,000)."""
MOST: Final = 8_192
"""Series that a node keeps, 152 bytes each."""
_FINEST: Final = 10.0
_SECOND: Final = 1_000_000_000
_LEAST_NS: Final = _SECOND
"""What begins quicker after another is one beat with it: browsers and those who try two addresses connect several times at once."""
_SILENT_NS: Final = 86_400 * _SECOND
_NEVER: Final = -(1 << 61)
_EVER: Final = 1 << 62
_COLUMNS: Final = ("key", "told", "newest", "beats")


class Rhythm:
    """The newest beats of each series of a node: container, program, other side by its name or else its address, port."""

    def __init__(self) -> None:
        self._bin = -1
        # By key: when its newest row was told, the latest time of any, and its beats, the oldest first, `_NEVER` before the first.
        self._key = np.zeros(0, np.uint64)
        self._told, self._newest = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._beats = np.zeros((0, BEATS), np.int64)

    def __len__(self) -> int:
        return len(self._key)

    def count(self, number: int, heard: Heard) -> tuple[np.ndarray, np.ndarray]:
        """How regular the series of each row is up to it.

        Args:
            number: Of the span of time that the rows are in.
            heard: n rows in order.

        Returns:
            Periodicity, log2 of the median interval over the deviation from it, 0 to 10, and the median interval in seconds; float64, shape (n,).
            Both are 0 where there were too few beats, and for what the process did not connect to.
        """
        if number != self._bin:
            self._bin = number
            self._forget(number * BIN_NS)
        c, out = heard.connections, np.zeros((2, len(heard)))
        made = np.flatnonzero(c.direction == Direction.OUTBOUND)
        key = combine(c.workload[made], heard.cgroups[made, 0], c.exe[made], c.side[made])
        self._enter(key[c.begins[made]])
        slot = np.searchsorted(self._key, key)
        known = np.flatnonzero(np.append(self._key, np.uint64(0))[slot] == key) if len(self) else np.zeros(0, np.int64)
        if len(known):
            rows = made[known]
            out[:, rows] = self._follow(slot[known], np.clip(c.time[rows], 0, _EVER), c.begins[rows])
        return out[0], out[1]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"bin": self._bin, **{name: getattr(self, f"_{name}").copy() for name in _COLUMNS}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        try:
            number, (key, told, newest, beats) = int(state["bin"]), (state[name] for name in _COLUMNS)
            fits = key.dtype == np.uint64 and all(column.dtype == np.int64 for column in (told, newest, beats))
            n = len(key)
            fits &= key.shape == told.shape == newest.shape == (n,) and beats.shape == (n, BEATS) and n <= MOST
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a node's rhythms: {error!r}") from error
        if not fits or bool((key[1:] <= key[:-1]).any() or (beats[:, -1] == _NEVER).any()):
            raise ValueError("not a node's rhythms")
        self._bin, self._key, self._told, self._newest, self._beats = (
            number, key.copy(), told.copy(), newest.copy(), beats.copy(),
        )  # fmt: skip

    def _enter(self, key: np.ndarray) -> None:
        """Series that begin, in order; where there is no room they wait for the next span of time."""
        first, _ = groups(key)
        fresh = np.sort(first[~isin(key[first], self._key)])[: MOST - len(self)]
        if not len(fresh):
            return
        n = len(fresh)
        keys = np.concatenate((self._key, key[fresh]))
        order = places(keys)
        self._key = keys[order]
        self._told, self._newest = (
            np.concatenate((column, np.full(n, _NEVER)))[order] for column in (self._told, self._newest)
        )
        self._beats = np.concatenate((self._beats, np.full((n, BEATS), _NEVER)))[order]

    def _forget(self, now: int) -> None:
        """Series that were silent for a day; beyond half of the room first those of one beat, which scans leave behind, then those silent longest."""
        kept = np.flatnonzero(self._newest >= now - _SILENT_NS)
        if len(kept) > MOST // 2:
            order = np.lexsort((self._newest[kept], self._beats[kept, -2] != _NEVER))
            kept = np.sort(kept[order[-MOST // 2 :]])
        self._key, self._beats = self._key[kept], self._beats[kept]
        self._told, self._newest = self._told[kept], self._newest[kept]

    def _follow(self, slot: np.ndarray, time: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """Let n rows of known series follow; what `count` says of each, float64, shape (2, n)."""
        first, code = groups(slot)
        touched, n, k = slot[first], len(slot), len(first)
        at = np.flatnonzero(begins)
        # A series' own row comes before its beginnings, those in order.
        whose = np.concatenate((np.arange(k), code[at]))
        order = places(whose)
        told, times = (np.concatenate((mine[touched], time[at]))[order] for mine in (self._told, self._newest))
        head = order < k
        anew = ~head
        anew[1:] &= told[1:] < told[:-1] - BACK_NS  # after a clock that was put back a series begins anew
        run = np.cumsum(head | anew)
        newest = _running(times, run)
        beat = anew.copy()
        # Nothing that is told again, or late, is later than the newest.
        beat[1:] |= ~head[1:] & (times[1:] - newest[:-1] >= _LEAST_NS)
        # All beats by series and place: those before these rows are at place 0.
        of, column = np.nonzero(self._beats[touched] != _NEVER)
        beats = np.concatenate((self._beats[touched[of], column], times[beat]))
        runs = np.concatenate((run[head][of], run[beat]))
        place = np.concatenate((of * (n + 1), whose[order[beat]] * (n + 1) + at[order[beat] - k] + 1))
        by = places(place)
        beats, runs, place = beats[by], runs[by], place[by]
        last = np.searchsorted(place, np.arange(1, k + 1) * (n + 1)) - 1
        window, whole = _windows(runs, last)
        end = np.flatnonzero(np.append(head[1:], True))
        self._told[touched], self._newest[touched] = told[end], newest[end]
        self._beats[touched] = np.where(whole, beats[window], _NEVER)
        # A row that ends a connection has what its series had by then.
        newest_beat = np.searchsorted(place, code * (n + 1) + np.arange(n) + 1, side="right") - 1
        has = (newest_beat >= 0) & (place[newest_beat] // (n + 1) == code)
        return _judged(beats, runs, np.where(has, newest_beat, 0)) * has


def _running(times: np.ndarray, run: np.ndarray) -> np.ndarray:
    """The latest time of each row's run up to it; runs are numbered upwards."""
    by = np.lexsort((times, run))
    rank = np.empty(len(by), np.int64)
    rank[by] = np.arange(len(by))
    return times[by[np.maximum.accumulate(rank)]]


def _windows(runs: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the beats up to some are, int64, shape (m, BEATS), and which of those are of its run, bool."""
    window = last[:, None] + np.arange(1 - BEATS, 1)
    whole = (window >= 0) & (runs[np.maximum(window, 0)] == runs[last][:, None])
    return np.maximum(window, 0), whole


def _judged(beats: np.ndarray, runs: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Periodicity and median interval of the series up to each of n beats, float64, shape (2, n); each beat is looked at once."""
    asked = unique(newest)
    window, whole = _windows(runs, asked)
    full = np.flatnonzero(whole.all(axis=1))
    out = np.zeros((2, len(asked)))
    if len(full):
        gaps = np.diff(beats[window[full]], axis=1) / _SECOND
        median = np.median(gaps, axis=1)
        spread = np.sort(np.abs(gaps - median[:, None]), axis=1)[:, WITHIN - 1]
        # Beats lie a second apart at least: nothing is divided by 0.
        out[0, full] = np.maximum(np.log2(median / np.maximum(spread, median * 2.0**-_FINEST)), 0.0)
        out[1, full] = median
    return out[:, np.searchsorted(asked, newest)]
