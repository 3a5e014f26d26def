"""What the callout counts, and what it says of refusals without filling its log.

Responsible for the counters; how they are shown is others' affair.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from daemoneye.escape import escape
from daemoneye_operator.callout.decision import Granted, Refused

_MINUTE: Final = 60.0

_log = logging.getLogger(__name__)


class Tally:
    """Counters since the start.

    Attributes:
        granted: Connections that were let in.
        refused: Those that were not, by reason.
        errors: Questions that could not be read or answered.
        observe: Called with the seconds that each TokenReview took which was answered.
    """

    def __init__(self) -> None:
        self.granted = 0
        self.refused: Counter[str] = Counter()
        self.errors = 0
        self.observe: Callable[[float], None] = lambda _: None
        self._said: dict[str, tuple[float, int]] = {}

    def decided(self, decision: Granted | Refused, host: str, client: str) -> None:
        """Count a decision; of refusals, one a minute and reason is said."""
        if isinstance(decision, Granted):
            self.granted += 1
            _log.debug("let in: node %s, pod %s, from %s", decision.node, decision.pod, host)
            return
        self.refused[decision.reason] += 1
        known = ", ".join(f"{what} {name}" for what, name in (("node", decision.node), ("pod", decision.pod)) if name)
        self._say(decision.reason, f"refused: {decision.message} ({known or client or 'no name'}, from {host or '?'})")

    def failed(self, message: str) -> None:
        """Count a question that could not be read or answered."""
        self.errors += 1
        self._say("Error", message)

    def _say(self, reason: str, message: str) -> None:
        now = time.monotonic()
        before, silent = self._said.get(reason, (float("-inf"), 0))
        if now - before < _MINUTE:
            self._said[reason] = (before, silent + 1)
            return
        self._said[reason] = (now, 0)
        _log.warning("%s: %s%s", reason, escape(message), f"; {silent} more since the last line" if silent else "")
