"""behavioral_anomaly: windows of workloads that are unlike what their workload, and like ones, showed before.

Responsible for what the detector is to others: settings, state, status. It watches executions itself, and where a model asks for them has connections
watched beside; the order of things is `daemoneye_analytics.behaviour.watch`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.findings import Finding
from daemoneye_analytics.analyzer import DECADES, BehavioralAnalyzer
from daemoneye_analytics.behaviour import features, flowtelling, models, signs, telling
from daemoneye_analytics.behaviour.catalogue import CONNECTION
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.executions import Arrivals, Executions, executions
from daemoneye_analytics.behaviour.flagged import Flagged
from daemoneye_analytics.behaviour.flows import FlowWatch
from daemoneye_analytics.behaviour.lives import Phase
from daemoneye_analytics.behaviour.node import Node
from daemoneye_analytics.behaviour.watch import Watch
from daemoneye_analytics.behaviour.windows import Rows
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.exemptions import Exemption
from daemoneye_analytics.frame import Frame

_NEWEST: Final = 20
_NAME: Final = 256
_CONNECTIONS: Final = "connections_"
_COUNTED: Final = ("judged", "insufficient", "alarms")


@detector(
    name="behavioral_anomaly",
    version=1,
    title="A workload behaves unlike itself",
    severity="medium",
    techniques=tuple(dict.fromkeys((telling.INTERPRETER, *signs.TECHNIQUES, flowtelling.PROTOCOL))),
    behavioral=True,
    scored=True,
    parameters=(
        Parameter("threshold", 0.8, "score from which on a window is told, by anomalyThreshold; 0.8 is p = 1e-4", minimum=0),
        Parameter("models", (), "declared models, by analytics.models; the built-in ones if none"),
        Parameter("update_seconds", 86_400, "seconds of the events' time between two trainings, by modelUpdateInterval", minimum=60),
        Parameter("held_models", (), "trained models that go back to a kept training and stay there, NAME=NUMBER each"),
        Parameter("learning_events", 2000, "executions that a workload must show before it has been learned", minimum=0),
        Parameter("learning_seconds", 3600, "seconds that it must have been watched as well", minimum=0),
        Parameter("quiet_seconds", 86_400, "seconds after which a workload that executes little has been learned, too", minimum=0),
        Parameter("learned_per_hour", 5000, "executions of a workload that are learned at full weight in an hour", minimum=1),
        Parameter("cooldown_seconds", 3600, "seconds in which the same workload, model and program are told once", minimum=0),
        Parameter("max_items", 2_000_000, "things kept in all, 40 bytes each", minimum=1000),
        Parameter("max_workloads", 20_000, "workloads kept", minimum=10),
        Parameter("exclude_workloads", ("host/systemd/daemoneye*",), "workloads left out; * stands for any characters"),
    ),
)  # fmt: skip
class BehavioralAnomaly(Watch):
    """Judges windows of at most 100 executions or ten minutes of each workload by how surprising they are.

    Programs, their parents, users and arguments are counted for each workload, with back-off to its image, its namespace and all workloads; a window's
    rarest processes, its shift and its new things are held against those of windows of like workloads that were seen before. It misses what a workload
    does anyway, and what is done slowly enough to be learned.
    """

    declaration: ClassVar[Declaration]

    lane = "urgent"
    kind = Rows
    unit = "executions"

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        declared = models.parse([models.read(text) for text in parameters["models"]])
        of_executions = [model for model in declared if model.scope != CONNECTION]
        of_connections = [model for model in declared if model.scope == CONNECTION]
        held = models.held(parameters["held_models"], declared)
        super().__init__(
            parameters, BehavioralAnalyzer(of_executions, parameters["threshold"], parameters["update_seconds"], held=held), Counts(parameters["max_items"]),
            telling.Teller(), Flagged(), self.declaration,
        )  # fmt: skip
        self._connections = (
            FlowWatch(parameters, of_connections, held, self._flagged, self.declaration) if of_connections else None
        )

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        if frame.envelope.lane == self.lane:
            return self.watch(frame)
        flows = self._connections
        if flows is None or frame.envelope.lane != flows.lane:
            return []
        found = flows.watch(frame)
        self.scores += flows.scores
        self.repeated += flows.repeated
        flows.scores.clear()
        flows.repeated.clear()
        return found

    def state(self) -> State:
        """See `Detector`."""
        flows = self._connections.kept() if self._connections else {}
        return {
            **self.kept(),
            "flagged": self._flagged.processes,
            **{f"{_CONNECTIONS}{name}": value for name, value in flows.items()},
        }

    def restore(self, state: State) -> None:
        """See `Detector`."""
        self.take_over(state)
        try:
            self._flagged.processes = state["flagged"]
        except (KeyError, AttributeError) as error:
            msg = f"state of {self.declaration.name}: {error!r}"
            raise ValueError(msg) from error
        flows = {k.removeprefix(_CONNECTIONS): v for k, v in state.items() if k.startswith(_CONNECTIONS)}
        if self._connections and flows:
            self._connections.renew(flows)

    def status(self) -> dict[str, Any]:
        """See `Detector`. Bounded, whatever was watched: it is part of every heartbeat."""
        lives = self._lives.status()
        phase = next(
            (p for p in (Phase.ACTIVE, Phase.DRIFTED, Phase.CALIBRATING) if lives["phases"][p]), Phase.LEARNING
        )
        flows = self._connections
        counted = Counter({name: self._lives.counted[name] for name in _COUNTED})
        counted.update(flows.counted if flows else {})
        return {
            "phase": str(phase).lower(), **lives, "suppressed": self.suppressed, "items": len(self._counts.items),
            "contexts": len(self._counts.contexts), "references": self._analyzer.summary() | (flows.references if flows else {}),
            "models": self._analyzer.scorers.status() | (flows.models if flows else {}),
            "flagged": len(self._flagged),
            "counted": {
                "executions": self._measured, **{name: counted[name] for name in _COUNTED},
                "nominal": counted["judged"] * 10.0 ** (-DECADES * self._p["threshold"]),
            },
            "newest": [
                {"workload": life.name[:_NAME], "phase": str(now), "executions": life.executions, "windows": life.windows, "alarms": life.alarms}
                for life, now in self._lives.newest(_NEWEST)
            ],
        } | ({"connections": flows.status()} if flows else {})  # fmt: skip

    def details(self) -> dict[str, Any]:
        """What is too long for every heartbeat: the calibration of each reference by classes."""
        return {"references": self._analyzer.status() | (self._connections.details() if self._connections else {})}

    @property
    def suppressed(self) -> int:
        """Alarms that repeated one that was told within the cool-down."""
        return self._repeats.suppressed + (self._connections.suppressed if self._connections else 0)

    def forgive(self, exemptions: Sequence[Exemption]) -> None:
        """See `Watch`."""
        super().forgive(exemptions)
        if self._connections:
            self._connections.forgive(exemptions)

    def _read(self, frame: Frame) -> Arrivals:
        return executions(frame, frame.fitting(self._p["exclude_workloads"]))

    def _rows(self, node: Node, arrived: Arrivals) -> Rows:  # noqa: ARG002 - connections are counted by node
        measured = features.measure(self._counts, arrived)
        self._measured += len(arrived)
        e = arrived.executions
        return Rows(e, measured, self._analyzer.analyze_process(measured), self._flagged.among(e.tree))

    def _count(self, things: Executions, weight: np.ndarray, hour: int) -> None:
        features.learn(self._counts, things, weight, hour)
