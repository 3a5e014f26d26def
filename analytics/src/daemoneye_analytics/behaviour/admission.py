"""Which windows are an example for others although they are very unusual.

Were none, the windows that others are held against would have no tail, and what comes next would seem more unusual than it is: in the long run p would be
several times too small. Were all, attacks that nobody noticed would make the next ones usual. So of windows that are as unusual as one in a thousand, as
many are admitted as there are among usual ones: one for each thousand that were judged.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

RARE: Final = 1000
"""A window is very unusual where one in so many usual ones is, p ≤ 1 / RARE."""
_MOST: Final = 10 * RARE
"""Windows judged that are remembered at most: a long calm must not let a flood in."""


class Admission:
    """How many are to be had."""

    def __init__(self) -> None:
        self._judged = 0

    def admit(self, judged: np.ndarray, unusual: np.ndarray) -> np.ndarray:
        """Which of the very unusual ones are admitted.

        Args:
            judged: Windows that are over, in their order, bool, shape (n,).
            unusual: Those of them that are very unusual and nothing else speaks against, bool, shape (n,).

        Returns:
            bool, shape (n,).
        """
        out = np.zeros(len(judged), bool)
        seen = np.cumsum(judged)
        before = 0
        for at in np.flatnonzero(unusual).tolist():
            self._judged = min(self._judged + int(seen[at]) - before, _MOST)
            before = int(seen[at])
            if self._judged >= RARE:
                self._judged -= RARE
                out[at] = True
        self._judged = min(self._judged + int(np.count_nonzero(judged)) - before, _MOST)
        return out

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"judged": self._judged}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; a release before this one kept nothing of it.

        Raises:
            ValueError: It is of another form.
        """
        judged = state.get("judged", 0)
        if not isinstance(judged, int) or not 0 <= judged <= _MOST:
            raise ValueError("not how many windows were judged")
        self._judged = judged
