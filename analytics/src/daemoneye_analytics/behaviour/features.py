"""Executions → features, by what was counted before; and what is counted of them afterwards.

Responsible for the kinds of things whose surprise is measured. An execution is told as a chain: the program, its parent given the program, its words
given the program; the bits of the links add up (the chain rule of probability). Its user is measured beside: benign work changes users often, and adding
its bits cost more recall than it gained (docs/behaviour.md). A condition that was never seen says nothing: its links have no bits.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from daemoneye.events.sets import groups
from daemoneye_analytics.behaviour import signs
from daemoneye_analytics.behaviour.catalogue import CONNECTION_FEATURES, PROCESS_FEATURES
from daemoneye_analytics.behaviour.counts import Counts, Things
from daemoneye_analytics.behaviour.executions import Arrivals, Executions
from daemoneye_analytics.behaviour.tokens import WORDS
from daemoneye_analytics.frame import combine


class Kind(NamedTuple):
    """A kind of thing: its number in the keys (append-only), the bits of one that nobody ever showed beyond those of its novelty."""

    number: int
    base_bits: float


EXE: Final = Kind(1, 4.0)
PARENT: Final = Kind(2, 1.0)
USER: Final = Kind(3, 1.0)
WORD: Final = Kind(4, 2.0)
TREE: Final = Kind(5, 1.0)
SIGN: Final = Kind(6, 8.0)
KINDS: Final = (EXE, PARENT, USER, TREE, WORD, SIGN)
"""In the order of `Links`."""
_UNREMARKABLE: Final = np.uint64(1)
"""What is counted of an execution without signs: a sign's share is one of all executions."""
_FREE_SIGN: Final = 6.0
_FREE_PROCESS: Final = 10.0
"""Bits of surprise, of a sign in its workload and of the process that shows it, from which on the sign begins to speak. Chosen on the corpus' development
split, as is the next."""
_WEAK: Final = 0.5
"""Bits that each sign must bring in: many weak ones are no strong one."""
_TOP_WORDS: Final = 2
_COLUMN: Final = {name: at for names in (PROCESS_FEATURES, CONNECTION_FEATURES) for at, name in enumerate(names)}


class Measured(NamedTuple):
    """Features of n executions, or of n connections, which show no signs.

    Attributes:
        features: float64, shape (n, features of the scope), columns in the catalogue's order.
        new: Hashes of the executable, the pair and the user that the workload never showed, u64, shape (n, 3), 0 for one that is not new.
        evidence: Bits with which each of its signs speaks for an intrusion, float64, shape (n, signs.WIDTH): its own, as far as both the sign and the
            whole execution are surprising in the workload.
    """

    features: np.ndarray
    new: np.ndarray
    evidence: np.ndarray

    def take(self, index: np.ndarray) -> Measured:
        """Some rows: int array."""
        return Measured(*(column.take(index, axis=0) for column in self))

    def column(self, name: str) -> np.ndarray:
        """One feature, shape (n,)."""
        return self.features[:, _COLUMN[name]]


class Links(NamedTuple):
    """Things of n executions one after another, arrays of one length: whose, what kind, on what condition, what, and the kind's base bits.

    `column` is the place of each word on its command line, then that of each sign among its execution's.
    """

    row: np.ndarray
    kind: np.ndarray
    condition: np.ndarray
    thing: np.ndarray
    base_bits: np.ndarray
    column: np.ndarray


def links(e: Executions) -> Links:
    """Everything that is counted of executions: n of each of the first four kinds in order of `KINDS`, then the words and the signs that there are."""
    n = len(e)
    named = e.exe != 0
    row, column = np.nonzero((e.words != 0) & named[:, None])
    told = _told(e.signs)
    of_signs, place = np.nonzero(told)
    conditions = (np.zeros(n, np.uint64), e.exe, e.exe, e.program, e.exe[row], np.zeros(len(of_signs), np.uint64))
    things = (
        e.exe,
        np.where(named, e.parent, 0),
        np.where(named, e.user, 0),
        np.where(e.parent != 0, e.grandparent, 0),
        e.words[row, column],
        told[of_signs, place],
    )
    each = [len(thing) for thing in things]
    every = np.arange(n)
    return Links(
        np.concatenate((every, every, every, every, row, of_signs)),
        np.repeat(np.array([kind.number for kind in KINDS], np.uint64), each),
        np.concatenate(conditions),
        np.concatenate(things).astype(np.uint64),
        np.repeat(np.array([kind.base_bits for kind in KINDS]), each),
        np.concatenate((column, place)),
    )


def measure(counts: Counts, arrived: Arrivals) -> Measured:
    """Features of executions; those that are the same for the counts are looked up once."""
    first, inverse = groups(arrived.executions.signature)
    few = _few(counts, arrived.executions.take(first))
    features = np.empty((len(inverse), len(PROCESS_FEATURES)))
    counted = few.features.shape[1]
    evidence = few.evidence.take(inverse, axis=0)
    features[:, :counted], features[:, counted:-1] = few.features.take(inverse, axis=0), arrived.shape
    features[:, -1] = evidence.sum(axis=1)
    return Measured(features, few.new.take(inverse, axis=0), evidence)


def _few(counts: Counts, e: Executions) -> Measured:
    n = len(e)
    chain = links(e)
    found = counts.surprisal(*_things(e, chain), chain.base_bits)
    # A condition that nobody ever showed says nothing of what follows it.
    silent = (chain.thing == 0) | ((found.fleet == chain.base_bits) & (chain.kind != EXE.number))
    here, fleet = np.where(silent, 0.0, found.bits), np.where(silent, 0.0, found.fleet)
    exe, parent, user, tree = here[: 4 * n].reshape(4, n)
    number = np.count_nonzero(chain.kind == WORD.number)
    spoken, signed = slice(4 * n, 4 * n + number), slice(4 * n + number, None)
    words, fleet_words = _top(chain.row[spoken], chain.column[:number], here[spoken], fleet[spoken], n)
    rarity = exe + parent + words
    relative = rarity - fleet[: 2 * n].reshape(2, n).sum(axis=0) - fleet_words
    known = slice(0, 3 * n)
    unseen = (found.seen[known] == 0) & (chain.thing[known] != 0)
    new = (
        np.where(unseen, combine(chain.kind[known], chain.condition[known], chain.thing[known]), np.uint64(0))
        .reshape(3, n)
        .T
    )
    surprise = np.zeros(e.signs.shape)
    row = chain.row[signed]
    surprise[row, chain.column[number:]] = np.minimum(found.bits[signed] - _FREE_SIGN, rarity[row] - _FREE_PROCESS)
    evidence = np.maximum(np.minimum(surprise, signs.bits(e.signs)) - _WEAK, 0.0)
    return Measured(
        np.column_stack((exe, parent, user, words, tree, rarity, relative, (new != 0).sum(axis=1))), new, evidence
    )


def _told(shown: np.ndarray) -> np.ndarray:
    """Signs as they are counted: of an execution without any, that it has none."""
    out = shown.copy()
    out[:, 0] = np.where(out[:, 0] == 0, _UNREMARKABLE, out[:, 0])
    return out


def _top(
    row: np.ndarray, column: np.ndarray, here: np.ndarray, fleet: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean bits of the most surprising words of each of n executions, here and in the fleet; 0 without words."""
    bits, fleet_bits = np.full((n, WORDS), -1.0), np.zeros((n, WORDS))
    bits[row, column], fleet_bits[row, column] = here, fleet
    sums, number, every = np.zeros((2, n)), np.zeros(n), np.arange(n)
    for _ in range(_TOP_WORDS):
        top = bits.argmax(axis=1)
        there = bits[every, top] >= 0
        sums += np.where(there, (bits[every, top], fleet_bits[every, top]), 0.0)
        number += there
        bits[every, top] = -1.0
    mean, fleet_mean = sums / np.maximum(number, 1)
    return mean, fleet_mean


def _things(e: Executions, chain: Links) -> tuple[np.ndarray, Things]:
    """Contexts and things as `Counts` wants them."""
    first, whose = groups(e.context)
    return e.levels[first], Things(whose[chain.row], chain.kind, chain.condition, chain.thing)


def learn(counts: Counts, e: Executions, weight: np.ndarray, hour: int) -> None:
    """Count executions with these weights (float, shape (n,)), the same ones together; `hour` counts up with the events' time."""
    first, inverse = groups(e.signature)
    e, weight = e.take(first), np.bincount(inverse, weights=weight)
    chain = links(e)
    counts.learn(*_things(e, chain), weight[chain.row], hour)
