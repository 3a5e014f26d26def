"""What time it is for what all nodes have in common: when models are trained, and when counts fade.

Responsible for whose clock that is: one node's at a time. Nodes' clocks differ, some are wrong by years, and by whichever was heard last it would be time
for a training with every other batch.
"""

from __future__ import annotations

from typing import Any, Final

BACK_NS: Final = 3600 * 1_000_000_000
"""What comes with a time so much earlier than what came before it is not late: its node's clock was put back."""
SILENT: Final = 100
"""Turns of each of the others after which one of them takes over; a turn takes ten seconds of the events' time."""


class Clock:
    """The clock of one node.

    Attributes:
        now: Its time, ns since 1970; 0 before the first turn.
    """

    def __init__(self) -> None:
        self.now = 0
        self._node = ""
        self._turns = 0

    def turn(self, node: str, now: int, nodes: int) -> bool:
        """Hear what time it is on one of so many nodes; whether that counts."""
        if node != self._node:
            self._turns += 1
            if self._node and self._turns <= SILENT * nodes:
                return False
        self._node, self._turns, self.now = node, 0, now
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"now": self.now, "node": self._node, "turns": self._turns}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; a release before this one kept nothing of it.

        Raises:
            ValueError: It is of another form.
        """
        now, node, turns = state.get("now", 0), state.get("node", ""), state.get("turns", 0)
        if not (isinstance(now, int) and isinstance(node, str) and isinstance(turns, int)):
            raise ValueError("not a node's clock")  # noqa: TRY004 - what was kept has another form
        self.now, self._node, self._turns = now, node, turns
