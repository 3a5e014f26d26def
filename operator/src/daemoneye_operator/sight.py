"""Whether a process still sees what happens in the cluster.

Responsible for telling blindness from an API server that is away, and for the sentence in the log, for a kubelet does not keep what /healthz says;
not for what is watched nor for what follows from it (a liveness probe that fails: whoever is started anew asks everything anew).

A watch can die in ways that no error tells: a connection that a proxy keeps open, a server whose cache stands still, a thread that hangs. So
each is asked since when it has shown nothing, though it should have. That time counts only while the API server answers something else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from daemoneye_operator.watch import Watch

WATCH_S: Final = 900.0
"""Of silence after which a watch is blind. Bookmarks come every minute, but not before the API server, since its own start, has seen the first change
of that resource: a watch that stays silent for its five minutes is followed by a list, which can be ten minutes after the last word."""
UNTOLD_S: Final = 180.0
"""After which a change is missed that a watch should have told."""
LEASE_S: Final = 300.0
"""The same for the operator's own Lease, which changes every minute."""
HUNG_S: Final = 900.0
"""Of no sign of life after which a watch's thread, which never waits for longer than five minutes, hangs."""
# A little more than the minute in which something is asked.
_FRESH_S: Final = 90.0
# Between two looks; who is not asked for longer (the kubelet restarts, say) has seen no more of that time than this.
_STEP_S: Final = 30.0
_log = logging.getLogger(__name__)


class Sight:
    """How long each watch has been blind."""

    def __init__(self, patience: Mapping[str, float] | None = None) -> None:
        """`patience` is in seconds by watch; WATCH_S for those that it does not name."""
        self._patience = patience or {}
        self._looked: float | None = None
        self._since: Mapping[str, float] = {}
        self._blind: dict[str, float] = {}

    def look(self, now: float, answered: float, since: Mapping[str, float]) -> dict[str, float]:
        """The blind ones, with the seconds that they were blind; times are monotonic seconds.

        Args:
            now: When this is asked.
            answered: When the API server last answered anything.
            since: By watch, since when it has shown nothing though it should have; what moves between two looks sees.
        """
        passed = 0.0 if self._looked is None else min(now - self._looked, _STEP_S)
        if now - answered > _FRESH_S:
            passed = 0.0
        self._blind = {
            name: self._blind.get(name, 0.0) + passed if self._since.get(name) == at else 0.0
            for name, at in since.items()
        }
        self._looked, self._since = now, dict(since)
        return {name: seconds for name, seconds in self._blind.items() if seconds > self._patience.get(name, WATCH_S)}


def verdict(blind: Mapping[str, float], watches: Iterable[Watch]) -> dict[str, object]:
    """What /healthz says; what makes it fail is logged.

    Args:
        blind: See `Sight.look`.
        watches: All of them; one whose thread gives no sign of life hangs, whatever the API server does.
    """
    said = [f"{name}: nothing for {seconds:.0f} s though the API server answers" for name, seconds in blind.items()]
    said += [f"{one.resource}: its thread has hung for {one.silence:.0f} s" for one in watches if one.silence > HUNG_S]
    if not said:
        return {"ok": True}
    text = "; ".join(said)
    _log.error("blind, /healthz fails so that the pod is started anew: %s", text)
    return {"ok": False, "blind": text}
