"""Connections → features, by what was counted before; and what is counted of them afterwards.

Responsible for the kinds of things whose surprise is measured: where a connection goes, by name where that is known and by address where not, and which
program uses which port, and with whom there is a rhythm. They are counted in a table of their own, so that no scan pushes out what was learned of
executions.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from daemoneye.events.sets import groups, isin, places, unique
from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour.catalogue import CONNECTION_FEATURES
from daemoneye_analytics.behaviour.connections import Connections, Heard
from daemoneye_analytics.behaviour.counts import Counts, Surprisal, Things
from daemoneye_analytics.behaviour.features import Kind, Measured
from daemoneye_analytics.frame import combine

# Numbers go on behind those of executions.
DESTINATION: Final = Kind(7, 4.0)
PROGRAM_PORT: Final = Kind(8, 4.0)
DOMAIN: Final = Kind(9, DESTINATION.base_bits)
"""Measured in place of DESTINATION where the other side's name is known. Counted apart: whoever begins to see names has none that is surprising."""
KINDS: Final = (DESTINATION, PROGRAM_PORT)
RHYTHM: Final = Kind(10, DESTINATION.base_bits)
_UNRHYTHMIC: Final = np.uint64(1)
"""What is counted of a connection without a rhythm: a rhythm's share is one of all connections that were made."""
_HALF: Final = 0.5
"""What one of the two rows of a connection counts where both are counted."""
_DOORS: Final = 65_536
"""Doors that are told apart on a node in ten minutes: who tries more has the figure of whoever tries so many."""


class Reach:
    """How many connections each workload of a node began or took within the open span of time, and to how many doors."""

    def __init__(self) -> None:
        self._bin = -1
        self._doors = np.zeros(0, np.uint64)
        self._sums: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def count(self, number: int, c: Connections) -> np.ndarray:
        """Different doors and connections of each row's workload up to it, log2(1 + n), float64, shape (n, 2).

        Args:
            number: Of the span of time that the rows are in.
            c: Rows in order.
        """
        if number != self._bin:
            self._bin, self._doors, self._sums = number, np.zeros(0, np.uint64), ({}, {})
        pair = np.where(c.door != 0, combine(c.workload, c.door), np.uint64(0))
        first, _ = groups(pair)
        fresh = np.zeros(len(c), bool)
        fresh[first] = (pair[first] != 0) & ~isin(pair[first], self._doors)
        fresh[np.flatnonzero(fresh)[_DOORS - len(self._doors) :]] = False
        self._doors = unique(np.concatenate((self._doors, pair[fresh])))
        head, code = groups(c.workload)
        order = places(code)
        out = np.empty((len(c), 2))
        begin = np.flatnonzero(np.diff(code[order], prepend=-1))
        keys = c.workload[head].tolist()
        for column, (known, step) in enumerate(zip(self._sums, (fresh, c.begins), strict=True)):
            running = np.cumsum(step[order])
            before = np.array([known.get(key, 0) for key in keys], np.int64)
            sums = running + (before - running[begin] + step[order[begin]])[code[order]]
            out[order, column] = np.log2(1.0 + sums)
            known.update(zip(keys, sums[np.append(begin[1:], len(c)) - 1].tolist(), strict=True))
        return out

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"bin": self._bin, "doors": self._doors, "sums": [list(known.items()) for known in self._sums]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        try:
            number, doors = int(state["bin"]), np.asarray(state["doors"]).astype(np.uint64, casting="same_kind")
            sums = [{int(key): int(value) for key, value in known} for known in state["sums"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not what a node's workloads reach: {error!r}") from error
        if len(sums) != len(self._sums) or doors.ndim != 1:
            raise ValueError("not what a node's workloads reach")
        self._bin, self._doors, self._sums = number, doors, (sums[0], sums[1])


def measure(counts: Counts, heard: Heard, reach: np.ndarray, periodicity: np.ndarray) -> Measured:
    """Features of connections, in the catalogue's order; those that are the same for the counts are looked up once.

    Args:
        counts: What was seen before.
        heard: n connections with their intervals.
        reach: What `Reach` counted, shape (n, 2).
        periodicity: What `daemoneye_analytics.behaviour.rhythm` says of each, shape (n,).
    """
    first, inverse = groups(heard.connections.contact)
    c = heard.connections.take(first)
    named, beating = c.name != 0, np.flatnonzero(c.interval)
    levels, things = _things(c, np.where(named, DOMAIN.number, DESTINATION.number), c.side)
    both = len(things.thing)
    base_bits = np.repeat([kind.base_bits for kind in (*KINDS, RHYTHM)], (len(c), len(c), len(beating)))
    found = counts.surprisal(levels, _more(things, beating, RHYTHM, c.side[beating]), base_bits)
    rhythm = np.zeros(len(c))
    rhythm[beating] = found.bits[both:]
    found = Surprisal(*(column[:both] for column in found))
    known = things.thing != 0
    here, fleet = (np.where(known, bits, 0.0).reshape(len(KINDS), -1) for bits in (found.bits, found.fleet))
    new = (
        np.where(known & (found.seen == 0), combine(things.kind, things.thing), np.uint64(0)).reshape(len(KINDS), -1).T
    )
    contact = here.sum(axis=0)
    bits = np.column_stack((*here, contact, contact - fleet.sum(axis=0), (new != 0).sum(axis=1)))
    of_names = np.column_stack((np.where(named, here[0], 0.0), named))
    features = np.column_stack(
        (bits.take(inverse, axis=0), heard.shape, reach, of_names.take(inverse, axis=0), periodicity, rhythm[inverse])
    )
    assert features.shape[1] == len(CONNECTION_FEATURES)  # noqa: S101 - columns and catalogue are written apart
    return Measured(features, new.take(inverse, axis=0), np.zeros((len(inverse), 0)))


def learn(counts: Counts, c: Connections, weight: np.ndarray, hour: int) -> None:
    """Count connections with these weights (float, shape (n,)), the same ones together; `hour` counts up with the events' time.

    Addresses, programs and rhythms are counted as connections begin. A name may be known at the end alone, so that both rows are counted by it: whatever is
    measured is learned.
    """
    first, inverse = groups(c.contact)
    begun = np.bincount(inverse, weights=weight * c.begins)
    either = np.bincount(inverse, weights=weight * np.where(c.begins & c.ended, 1.0, _HALF))
    c = c.take(first)
    levels, things = _things(c, np.full(len(c), DESTINATION.number), c.destination)
    named, made = np.flatnonzero(c.name), np.flatnonzero(c.direction == Direction.OUTBOUND)
    things = _more(things, named, DOMAIN, c.domain[named])
    things = _more(things, made, RHYTHM, np.where(c.interval > 0, c.side, _UNRHYTHMIC)[made])
    counts.learn(levels, things, np.concatenate((np.tile(begun, len(KINDS)), either[named], begun[made])), hour)


def _things(c: Connections, kind: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, Things]:
    """Contexts and things as `Counts` wants them: all other sides, of these kinds, then all programs with their ports."""
    first, whose = groups(combine(*c.levels.T))
    kinds = np.concatenate((kind, np.full(len(c), PROGRAM_PORT.number))).astype(np.uint64)
    things = np.concatenate((side, c.program_port))
    return c.levels[first], Things(np.tile(whose, len(KINDS)), kinds, np.zeros(len(things), np.uint64), things)


def _more(things: Things, row: np.ndarray, kind: Kind, thing: np.ndarray) -> Things:
    """Things of one more kind behind them, u64, of some of the same connections (their rows, int64)."""
    n = len(row)
    return Things(
        np.concatenate((things.whose, things.whose[row])),
        np.concatenate((things.kind, np.full(n, kind.number, np.uint64))),
        np.concatenate((things.condition, np.zeros(n, np.uint64))),
        np.concatenate((things.thing, thing)),
    )
