"""How often things were seen in a workload, its image, its namespace and the cluster, and how surprising they are.

Responsible for surprisal in bits with back-off, and for learning; which things are looked at is `daemoneye_analytics.behaviour.executions`' affair.

Estimator: Witten and Bell's method C (Witten, Bell: The zero-frequency problem, IEEE Trans. Inf. Theory 37, 1991), interpolated from the general
context to the special one: P(x | c) = (n(x, c) + t(c) · P(x | next more general c)) / (n(c) + t(c)) with n the weight seen in a context and t its
number of different things. A new thing is thus the more surprising the longer a workload has shown few different ones.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.events.sets import groups
from daemoneye_analytics.behaviour.table import Table
from daemoneye_analytics.detectors.parts import gathered, restored
from daemoneye_analytics.frame import combine

MAX_ITEMS: Final = 2_000_000
MAX_CONTEXTS: Final = 500_000
MAX_BITS: Final = 64.0
_BROAD: Final = 4096
"""Different things that a context keeps: beyond them nothing there is surprising, and one workload cannot fill the table."""
_FORMAT: Final = 1
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)


class Surprisal(NamedTuple):
    """How surprising n things are, float64 each, shape (n,).

    Attributes:
        bits: -log2 P in the most special context.
        fleet: The same in the most general one.
        seen: Weight with which the thing was seen in the special context.
        total: Weight of all things seen there.
    """

    bits: np.ndarray
    fleet: np.ndarray
    seen: np.ndarray
    total: np.ndarray


class Things(NamedTuple):
    """n things that were seen, arrays of shape (n,).

    Attributes:
        whose: Row of `levels` that holds the contexts it was seen in, int64.
        kind: What kind of thing it is, u64: part of the keys, append-only.
        condition: What the probability is conditional on, u64; 0 for nothing.
        thing: u64.
    """

    whose: np.ndarray
    kind: np.ndarray
    condition: np.ndarray
    thing: np.ndarray


class _Keys(NamedTuple):
    """The d different ones of n things, and keys of the tables: one row a level, for loops over long rows are quick.

    Attributes:
        first: Where each stands first, int64, shape (d,).
        inverse: For each of the n things which one it is.
        levels: Contexts of each of c pairs of contexts and condition, u64, shape (l, c).
        contexts: Their keys, u64, shape (l, c).
        pair: Pair of each of the d things, int64.
        items: Keys of the things in each context, u64, shape (l, d).
    """

    first: np.ndarray
    inverse: np.ndarray
    levels: np.ndarray
    contexts: np.ndarray
    pair: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, levels: np.ndarray, things: Things) -> _Keys:
        whose, kind, condition, thing = things
        # combine(level, kind, condition) and combine(context, thing), each step for as few as it can be done for: contexts that nobody has (on one
        # machine there are no pods) are left out, but for the last, and what is only compared is no more than a sum.
        there = np.asarray(levels.any(axis=0))
        there[-1] = True
        levels = levels[:, there]
        number = kind.astype(np.int64)
        stems = combine(levels.T[:, None], np.arange(number.max(initial=0) + 1)[:, None])
        code = number * len(levels) + whose
        pairs = code.astype(np.uint64) * _ODD + condition
        first, inverse = groups(pairs * _ODD + thing)
        head, pair = groups(pairs[first])
        at = first[head]
        contexts = splitmix64(stems.reshape(len(stems), -1).take(code[at], axis=1) ^ condition[at])
        items = splitmix64(splitmix64(contexts).take(pair, axis=1) ^ thing[first])
        return cls(first, inverse, levels.T.take(whose[at], axis=1), contexts, pair, items)


class Counts:
    """Weights of (context, thing) and of contexts; 20 bytes for each place in the tables, half of which are filled."""

    def __init__(self, items: int = MAX_ITEMS, contexts: int = MAX_CONTEXTS) -> None:
        self.items = Table(items)
        # weight: n(c), second: t(c)
        self.contexts = Table(contexts)

    def surprisal(self, levels: np.ndarray, things: Things, base_bits: np.ndarray) -> Surprisal:
        """Surprisal of things.

        Args:
            levels: u64, shape (w, l): hashes of the contexts, the most special first; 0 for one that there is not. The last one is the fleet's.
            things: n things.
            base_bits: float64, shape (n,): bits of a thing that was never seen anywhere; it follows from its kind.
        """
        keys = _Keys.of(levels, things)
        slot = self.contexts.find(keys.contexts.ravel()).reshape(keys.contexts.shape)
        total = Table.at(self.contexts.weight, slot).astype(np.float64)
        kinds = Table.at(self.contexts.second, slot).astype(np.float64)
        weight = total + kinds
        there = (keys.levels != 0) & (weight > 0)
        weight[~there] = 1.0
        seen = self.items.values(keys.items.ravel()).reshape(keys.items.shape).astype(np.float64)
        kinds, weight, there = (column.take(keys.pair, axis=1) for column in (kinds, weight, there))
        p = np.exp2(-base_bits[keys.first])
        fleet = p
        for level in range(len(seen) - 1, -1, -1):
            p = np.where(there[level], (seen[level] + kinds[level] * p) / weight[level], p)
            if level == len(seen) - 1:
                fleet = p
        special = np.argmax(keys.levels != 0, axis=0)
        shown = seen[special[keys.pair], np.arange(len(p))]
        all_shown = total[special, np.arange(len(special))][keys.pair]
        return Surprisal(*(column[keys.inverse] for column in (_bits(p), _bits(fleet), shown, all_shown)))

    def learn(self, levels: np.ndarray, things: Things, weight: np.ndarray, hour: int) -> None:
        """Add what was seen; arguments as for `surprisal`, `weight` of shape (n,), `hour` counts up with the events' time."""
        keys = _Keys.of(levels, things)
        weight = np.bincount(keys.inverse, weights=weight, minlength=len(keys.first))
        real = (weight > 0) & (things.thing[keys.first] != 0)
        level, row = np.nonzero((keys.levels != 0).take(keys.pair, axis=1) & real)
        if not len(row):
            return
        added = weight[row]
        head, context = groups(keys.contexts.ravel())
        contexts = keys.contexts.ravel()[head]
        context = context[level * keys.contexts.shape[1] + keys.pair[row]]
        items = keys.items[level, row]
        first, inverse = groups(items)
        items, whose = items[first], context[first]
        # A context that is full counts on, and keeps no more things.
        slots = self.contexts.find(contexts)
        full = Table.at(self.contexts.second, slots) >= _BROAD
        places = self.items.find(items)
        kept = (places >= 0) | ~full[whose]
        new = np.ones(len(items), bool)
        new[kept] = self.items.add(items[kept], np.bincount(inverse, weights=added)[kept], hour, slots=places[kept])
        fresh = np.bincount(whose, weights=new, minlength=len(contexts))
        sums = np.bincount(context, weights=added, minlength=len(contexts))
        shown = sums > 0
        self.contexts.add(contexts[shown], sums[shown], hour, fresh[shown], slots=slots[shown])

    def seen(self, level: int, kind: int, condition: int, thing: int) -> tuple[float, float]:
        """Weight of one thing in one context, and of all things there: for explanations."""
        context = combine(np.array([level], np.uint64), kind, np.array([condition], np.uint64))
        item = combine(context, np.array([thing], np.uint64))
        return float(self.items.values(item)[0]), float(self.contexts.values(context)[0])

    def decay(self, factor: float) -> None:
        """Forget a share of everything."""
        self.items.decay(factor, 0.1)
        self.contexts.decay(factor, 0.1)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return gathered(_FORMAT, {"item": self.items, "context": self.contexts})

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form; nothing was taken over.
        """
        items, contexts = Table(self.items.capacity), Table(self.contexts.capacity)
        restored(state, _FORMAT, {"item": items, "context": contexts}, "counts")
        self.items, self.contexts = items, contexts


def _bits(p: np.ndarray) -> np.ndarray:
    return np.minimum(-np.log2(np.maximum(p, 2.0**-MAX_BITS)), MAX_BITS)
