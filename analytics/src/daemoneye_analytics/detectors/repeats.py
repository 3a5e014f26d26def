"""What says the same again and again: told a few times an hour, counted otherwise.

Responsible for that decision alone. It follows from the events' own times and order, so that a replay decides alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_MAX_KEYS: Final = 50_000


@dataclass(slots=True)
class _Window:
    start: int
    count: int


class Repeats:
    """Admits the first `limit` of each key within `span_ns`, counted from the first one.

    Attributes:
        suppressed: Repetitions that were not admitted so far.
    """

    def __init__(self, limit: int, span_ns: int) -> None:
        self.suppressed = 0
        self._limit = limit
        self._span = span_ns
        self._windows: dict[int, _Window] = {}

    def admit(self, key: int, time_ns: int) -> int | None:
        """Whether something is told: None if not, otherwise how often its key was suppressed in the span that just ended."""
        window = self._windows.get(key)
        hidden = 0
        # A clock that was put back does not keep silent what it told in the future.
        if window is None or abs(time_ns - window.start) >= self._span:
            if window is not None:
                hidden = max(0, window.count - self._limit)
                del self._windows[key]  # it comes back at the end: the dict's order is that of the windows' beginnings
            window = self._windows[key] = _Window(time_ns, 0)
            if len(self._windows) > _MAX_KEYS:
                del self._windows[next(iter(self._windows))]
        window.count += 1
        if window.count > self._limit:
            self.suppressed += 1
            return None
        return hidden

    def state(self) -> dict[str, Any]:
        """Arrays and counters for a checkpoint."""
        return {
            "key": np.fromiter(self._windows, np.uint64, len(self._windows)),
            "start": np.array([w.start for w in self._windows.values()], np.int64),
            "count": np.array([w.count for w in self._windows.values()], np.int64),
            "suppressed": self.suppressed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: Columns are missing or of different lengths.
        """
        try:
            columns = [state[name].tolist() for name in ("key", "start", "count")]
            suppressed = int(state["suppressed"])
        except (KeyError, AttributeError, TypeError) as error:
            msg = f"not a state of repeats: {error!r}"
            raise ValueError(msg) from error
        self._windows = {key: _Window(start, count) for key, start, count in zip(*columns, strict=True)}
        self.suppressed = suppressed
