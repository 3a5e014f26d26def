"""What each node last said.

Responsible for reading heartbeats, bounding what a hostile node can put into them, and remembering the newest a node; not for judging it
(:mod:`daemoneye_operator.reconcile.status`) nor for subscribing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from daemoneye import subjects
from daemoneye.errors import ConfigError, CorruptData
from daemoneye.nodeconfig import NodeAnswer

MAX_HEARTBEAT: Final = 256 * 1024
"""Bytes of the largest heartbeat that is read."""
MAX_NODES: Final = 20_000
REMOVED: Final = "removed"
BURST: Final = 20.0
A_SECOND: Final = 2.0
"""Heartbeats of one node that are read: so many at once, and a second. A sensor sends one in ten seconds, and one a change."""
_PREFIX: Final = subjects.status("x").removesuffix("x")
_TEXT: Final = 512


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One heartbeat.

    Attributes:
        node: Plain name of the node, taken from the subject, to which no other node's sensor can send (on a broker of the user's own, if its
            permissions say so).
        received: When it came, seconds since 1970 by the operator's clock.
        answer: What the node runs.
        state: `ready`, `removed`, or what else the sensor says.
        version: Version of the sensor; empty when it does not say.
        error: What keeps the sensor from working, one sentence; empty when nothing does.
    """

    node: str
    received: float
    answer: NodeAnswer = field(default_factory=NodeAnswer)
    state: str = "ready"
    version: str = ""
    error: str = ""

    @classmethod
    def read(cls, subject: str, data: bytes, received: float) -> Self:
        """The heartbeat of a message.

        Raises:
            CorruptData: It is too large, comes from no node's subject, or is no heartbeat.
        """
        try:
            if not subject.startswith(_PREFIX):
                raise CorruptData("not a node's subject", where=subject)
            node = subjects.unescape_node(subject.removeprefix(_PREFIX))
            if len(data) > MAX_HEARTBEAT:
                raise CorruptData(f"a heartbeat of {len(data)} bytes; at most {MAX_HEARTBEAT} are read", where=subject)
            value = json.loads(data)
            # Sensors that have no configuration yet say nothing of one.
            config: Mapping[str, Any] | None = value.get("config")
            answer = NodeAnswer() if config is None else NodeAnswer.from_json(config)
            return cls(
                node,
                received,
                answer,
                str(value.get("state", ""))[:32],
                str(value.get("version") or "")[:64],
                str(value.get("error") or "")[:_TEXT],
            )
        except (ValueError, TypeError, AttributeError, RecursionError, ConfigError) as error:
            raise CorruptData(f"not a heartbeat: {error}", where=subject) from error


class Heartbeats:
    """The newest report of each node; at most `limit` nodes, beyond that the one heard of longest ago is forgotten.

    Attributes:
        dropped: Heartbeats that could not be read, or were not: they came faster than a sensor sends any.
    """

    def __init__(self, limit: int = MAX_NODES) -> None:
        self.dropped = 0
        self._limit = limit
        # Of each subject, how many more may come at once, and as of when.
        self._allowed: dict[str, tuple[float, float]] = {}
        self._reports: dict[str, NodeReport] = {}

    @property
    def reports(self) -> Mapping[str, NodeReport]:
        """By node, the one heard of longest ago first."""
        return self._reports

    def admits(self, subject: str, now: float) -> bool:
        """Whether a heartbeat on this subject is worth reading: what one node sends must not cost what all others need.

        Args:
            subject: Where it came; the broker lets each node write to its own alone.
            now: Monotonic seconds.
        """
        allowed, before = self._allowed.pop(subject, (BURST, now))
        allowed = min(BURST, allowed + (now - before) * A_SECOND)
        admitted = allowed >= 1
        self._allowed[subject] = (allowed - 1 if admitted else allowed, now)
        if len(self._allowed) > self._limit:
            del self._allowed[next(iter(self._allowed))]
        self.dropped += not admitted
        return admitted

    def put(self, report: NodeReport) -> bool:
        """Remember a report; whether it says anything new, so that statuses are to be looked at."""
        old = self._reports.pop(report.node, None)
        self._reports[report.node] = report
        if len(self._reports) > self._limit:
            del self._reports[next(iter(self._reports))]
        return old is None or (old.answer, old.state, old.error) != (report.answer, report.state, report.error)

    def keep(self, nodes: Collection[str]) -> None:
        """Forget every node that is not among these."""
        for node in self._reports.keys() - set(nodes):
            del self._reports[node]

    def removed(self, nodes: Collection[str]) -> bool:
        """Whether all of these nodes said that they are left."""
        return all(node in self._reports and self._reports[node].state == REMOVED for node in nodes)
