"""What happened before, and since when that is known.

Responsible for remembering when each of many things was first seen, within bounds; what the 64-bit keys stand for is the user's affair.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from daemoneye_analytics.detectors.tally import Tally

_NEVER: Final = np.iinfo(np.int64).max


class Habits:
    """First moments by key, 40 bytes each; what was not seen for longest is forgotten first.

    Attributes:
        since: The earliest moment of which it was told, ns; far in the future before there was one.
    """

    def __init__(self, capacity: int) -> None:
        self.since = int(_NEVER)
        self._seen = Tally(capacity)

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._seen)

    def add(self, keys: np.ndarray, time: np.ndarray) -> None:
        """What happened when, in any order: u64 and i64 (ns), shape (n,)."""
        if not len(keys):
            return
        order = np.lexsort((time, keys))
        keys, time = keys[order], time[order]
        begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        ends = np.append(begins[1:], len(keys)) - 1
        self._seen.add(
            keys[begins], np.zeros(len(begins), np.uint64), ends - begins + 1, first=time[begins], last=time[ends]
        )

    def before(self, keys: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Whether each key was seen before a moment, bool; u64 and i64 (ns), shape (n,)."""
        return self._seen.column("first", self._seen.find(keys), missing=_NEVER) < time

    def state(self) -> dict[str, Any]:
        """Arrays and counters for a checkpoint."""
        return {**self._seen.state(), "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        self._seen.restore(state)
        self.since = int(state["since"])
