"""What a run has seen so far, in numbers and in the newest few of each kind.

Responsible for counting; every view draws from it. Not for reading messages (:mod:`daemoneye_cli.feed`) nor for
showing anything (:mod:`daemoneye_cli.show`). Bounded in everything that it keeps.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from daemoneye.envelope import Batch, Envelope
from daemoneye.escape import decode
from daemoneye.events.ancestry import identity_rows
from daemoneye_cli import heartbeats
from daemoneye_cli.logfile import LogLine

SPARK_SECONDS: Final = 60
_WORKLOADS: Final = 2_000
_FINDINGS: Final = 200
_LINES: Final = 50


def now_rfc3339() -> str:
    """Give the wall time as the contract writes it: RFC 3339, UTC, nine digits."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@dataclass
class Tally:
    """Counts of one run. ``clock`` gives seconds that only grow, ``hint`` is a command to paste for a first finding."""

    node: str
    clock: Callable[[], float]
    cluster: str = "local"
    state: str = "starting"
    hint: str = ""
    inactive: tuple[str, ...] = ()
    events: int = 0
    batches: int = 0
    findings_count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    workloads: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)
    restarts: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_FINDINGS))
    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=_LINES))

    def __post_init__(self) -> None:
        """Start the clock."""
        self.started = self.clock()
        self._seconds: deque[tuple[int, int]] = deque(maxlen=SPARK_SECONDS)

    def add_envelope(self, envelope: Envelope) -> None:
        """Count a batch by its header alone."""
        if envelope.lane == "loss":
            return
        self.batches += 1
        self.events += envelope.rows
        for section in envelope.sections:
            if not section.context:
                self.kinds[section.record] += section.rows
        second = int(self.clock())
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + envelope.rows)
        else:
            self._seconds.append((second, envelope.rows))

    def add_workloads(self, batch: Batch) -> None:
        """Count the batch's events by workload; by columns, not by event."""
        identities = batch.section("cgroup_identity", context=True)
        if identities is None:
            return
        names = [decode(name) or "unknown" for name in identities.values("workload")]
        for section in batch.sections:
            if section.context or section.record.name == "loss" or "cgroup_id" not in (section.rows.dtype.names or ()):
                continue
            where = identity_rows(batch, section.rows)
            for index, count in enumerate(np.bincount(where[where >= 0], minlength=len(names)).tolist()):
                if count:
                    self.workloads[names[index]] += count
        if len(self.workloads) > _WORKLOADS:
            self.workloads = Counter(dict(self.workloads.most_common(_WORKLOADS // 2)))

    def add_loss(self, loss: Mapping[str, Any]) -> None:
        """Count lost records by stage."""
        self.lost[str(loss["stage"])] += int(loss["count"])

    def add_finding(self, finding: dict[str, Any]) -> None:
        """Keep a finding as the newest."""
        self.findings_count += 1
        self.severities[str(finding.get("severity", ""))] += 1
        self.findings.append(finding)

    def add_node(self, name: str, status: dict[str, Any]) -> None:
        """Keep what a node's sensor last said of itself."""
        self.nodes[name] = status

    def add_component(self, name: str, status: dict[str, Any]) -> None:
        """Keep what a component that is no node's, such as analytics, last said of itself."""
        self.components[name] = status

    def processes(self) -> dict[str, dict[str, Any]]:
        """Give what each process last said of itself by its name; a node that bears a component's is ``node/<name>``."""
        nodes = {f"node/{name}" if name in self.components else name: said for name, said in self.nodes.items()}
        return {**nodes, **self.components}

    def phases(self) -> dict[str, int]:
        """Give the behavioural analyser's workloads by phase, as analytics last said; empty where none are scored."""
        return heartbeats.phases(self.components.get("analytics", {}))

    def rates(self, seconds: int = SPARK_SECONDS) -> list[int]:
        """Give events per second of the last so many whole seconds, oldest first."""
        now = int(self.clock())
        counts = dict(self._seconds)
        return [counts.get(second, 0) for second in range(now - seconds, now)]

    def rate(self) -> float:
        """Give events per second over the last five seconds."""
        return sum(self.rates(5)) / 5

    def as_status(self) -> dict[str, Any]:
        """Give the contract's status line."""
        return {
            "kind": "status",
            "time": now_rfc3339(),
            "state": self.state,
            "node": self.node,
            "cluster": self.cluster,
            "uptime_s": round(self.clock() - self.started, 1),
            "events": self.events,
            "events_per_second": round(self.rate(), 1),
            "events_by_kind": dict(self.kinds),
            "findings": self.findings_count,
            "lost": dict(self.lost),
            "restarts": dict(self.restarts),
            "inactive": list(self.inactive),
            "processes": self.processes(),
        }
