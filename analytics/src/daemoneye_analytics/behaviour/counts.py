"""How often things were seen in a workload, its image, its namespace and the cluster, and how surprising they are.

Responsible for surprisal in bits with back-off, and for learning; which things are looked at is `daemoneye_analytics.behaviour.executions`' affair.

Estimator: Witten and Bell's method C (Witten, Bell: The zero-frequency problem, IEEE Trans. Inf. Theory 37, 1991), interpolated from the general
context to the special one: P(x | c) = (n(x, c) + t(c) · P(x | next more general c)) / (n(c) + t(c)) with n the weight seen in a context and t its
number of different things. A new thing is thus the more surprising the longer a workload has shown few different ones.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye_analytics.behaviour.table import Table
from daemoneye_analytics.detectors.parts import gathered, restored
from daemoneye_analytics.frame import combine

MAX_ITEMS: Final = 2_000_000
MAX_CONTEXTS: Final = 500_000
MAX_BITS: Final = 64.0
_BROAD: Final = 4096
"""Different things that a context keeps: beyond them nothing there is surprising, and one workload cannot fill the table."""
_FORMAT: Final = 1


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


class Counts:
    """Weights of (context, thing) and of contexts; 20 bytes for each place in the tables, half of which are filled."""

    def __init__(self, items: int = MAX_ITEMS, contexts: int = MAX_CONTEXTS) -> None:
        self.items = Table(items)
        # weight: n(c), second: t(c)
        self.contexts = Table(contexts)

    def surprisal(
        self, levels: np.ndarray, kind: np.ndarray, condition: np.ndarray, thing: np.ndarray, base_bits: np.ndarray
    ) -> Surprisal:
        """Surprisal of things.

        Args:
            levels: u64, shape (n, l): hashes of the contexts, the most special first; 0 for one that there is not. The last one is the fleet's.
            kind: u64, shape (n,): what kind of thing it is: part of the keys, append-only.
            condition: u64, shape (n,): what the probability is conditional on, 0 for nothing.
            thing: u64, shape (n,).
            base_bits: float64, shape (n,): bits of a thing that was never seen anywhere.
        """
        n, depth = levels.shape
        context = combine(levels, kind[:, None], condition[:, None])
        item = combine(context, thing[:, None])
        slot = self.contexts.find(context.ravel())
        total = Table.at(self.contexts.weight, slot).reshape(n, depth).astype(np.float64)
        kinds = Table.at(self.contexts.second, slot).reshape(n, depth).astype(np.float64)
        seen = self.items.values(item.ravel()).reshape(n, depth).astype(np.float64)
        p = 2.0**-base_bits
        fleet = p
        for level in range(depth - 1, -1, -1):
            weight = total[:, level] + kinds[:, level]
            there = (levels[:, level] != 0) & (weight > 0)
            p = np.where(there, (seen[:, level] + kinds[:, level] * p) / np.where(there, weight, 1.0), p)
            if level == depth - 1:
                fleet = p
        special = np.argmax(levels != 0, axis=1)
        row = np.arange(n)
        return Surprisal(_bits(p), _bits(fleet), seen[row, special], total[row, special])

    def learn(
        self,
        levels: np.ndarray,
        kind: np.ndarray,
        condition: np.ndarray,
        thing: np.ndarray,
        weight: np.ndarray,
        hour: int,
    ) -> None:
        """Add what was seen; arguments as for `surprisal`, `weight` of shape (n,), `hour` counts up with the events' time."""
        context = combine(levels, kind[:, None], condition[:, None])
        there = (levels != 0) & (weight > 0)[:, None] & (thing != 0)[:, None]
        if not there.any():
            return
        item = combine(context, thing[:, None])[there]
        added = np.broadcast_to(weight[:, None], there.shape)[there]
        context = context[there]
        items, first, inverse = np.unique(item, return_index=True, return_inverse=True)
        whose = context[first]
        # A context that is full counts on, and keeps no more things.
        full = Table.at(self.contexts.second, self.contexts.find(whose)) >= _BROAD
        known = self.items.find(items) >= 0
        kept = known | ~full
        new = np.zeros(len(items), bool)
        new[kept] = self.items.add(items[kept], np.bincount(inverse, weights=added)[kept], hour)
        new[~kept] = True
        contexts, position = np.unique(context, return_inverse=True)
        fresh = np.zeros(len(contexts))
        np.add.at(fresh, np.searchsorted(contexts, whose), new)
        self.contexts.add(contexts, np.bincount(position, weights=added), hour, fresh)

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
