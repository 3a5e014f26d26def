"""Connections, watched: windows of what each workload speaks to.

Responsible for the rows of such windows and for which parts of the package measure, count and tell them; only made where a model looks at connections.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from daemoneye.findings import Finding
from daemoneye_analytics.analyzer import BehavioralAnalyzer
from daemoneye_analytics.behaviour import contacts
from daemoneye_analytics.behaviour.catalogue import CONNECTION_FEATURES
from daemoneye_analytics.behaviour.connections import Connections, Heard, connections
from daemoneye_analytics.behaviour.contacts import Reach
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.directory import Directory
from daemoneye_analytics.behaviour.flagged import Flagged
from daemoneye_analytics.behaviour.flowtelling import FlowTeller
from daemoneye_analytics.behaviour.models import BehavioralModel
from daemoneye_analytics.behaviour.node import Node
from daemoneye_analytics.behaviour.rhythm import REGULAR, Rhythm
from daemoneye_analytics.behaviour.waiting import WAIT_NS, Waiting
from daemoneye_analytics.behaviour.watch import Watch, last
from daemoneye_analytics.behaviour.windows import NOTABLE_BITS, Watched
from daemoneye_analytics.detectors.base import Declaration, State
from daemoneye_analytics.detectors.parts import Part, collected, renewed
from daemoneye_analytics.frame import Frame

_LOG: Final = logging.getLogger(__name__)
_SHARE: Final = 4
"""Of the items that the analyser may keep, connections have another quarter."""
_CONTEXTS: Final = 100_000


class _Around:
    """What is known around one node's connections."""

    def __init__(self) -> None:
        self.reach = Reach()
        self.directory = Directory()
        self.rhythm = Rhythm()
        self.waiting = Waiting()

    def parts(self, at: int) -> dict[str, Part]:
        """What has a form of its own in a checkpoint, by the name that it has there as the node of this number."""
        return {f"around{at}_{name}": getattr(self, name) for name in ("directory", "rhythm", "waiting")}


class Flows(Watched[Connections]):
    """Connections in open windows; of a window nothing counts but the largest score of each model."""

    __slots__ = ()

    THINGS = Connections
    WIDTH = len(CONNECTION_FEATURES)

    @property
    def notable(self) -> np.ndarray:
        """See `Watched`."""
        contact, rhythm = (self.measured.column(name) for name in ("contact_bits", "periodicity_bits"))
        return np.maximum(contact, rhythm) >= NOTABLE_BITS

    def figures(self, of: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, ...]:  # noqa: ARG002 - there are none
        """See `Watched`."""
        return ()


class FlowWatch(Watch):
    """The nodes' connections, judged by models of connections."""

    lane = "bulk"
    kind = Flows
    unit = "connections"

    def __init__(
        self,
        parameters: Mapping[str, Any],
        models: Sequence[BehavioralModel],
        held: Mapping[str, int],
        flagged: Flagged,
        declaration: Declaration,
    ) -> None:
        self._around: dict[str, _Around] = {}
        self._flows = FlowTeller()
        analyzer = BehavioralAnalyzer(
            models, parameters["threshold"], parameters["update_seconds"], figures=(), held=held
        )
        counts = Counts(max(1000, int(parameters["max_items"]) // _SHARE), _CONTEXTS)
        super().__init__(parameters, analyzer, counts, self._flows, flagged, declaration)

    @property
    def counted(self) -> dict[str, int]:
        """Closed windows since this process began: see `Lives`."""
        return dict(self._lives.counted)

    @property
    def references(self) -> dict[str, dict[str, int]]:
        """Each reference's counts by name."""
        return self._analyzer.summary()

    @property
    def models(self) -> dict[str, Any]:
        """Each fitted model's figures by name."""
        return self._analyzer.scorers.status()

    @property
    def suppressed(self) -> int:
        """Alarms that repeated one that was told within the cool-down."""
        return self._repeats.suppressed

    def status(self) -> dict[str, Any]:
        """Figures for heartbeats, bounded."""
        return {
            **self._lives.status(), "items": len(self._counts.items), "contexts": len(self._counts.contexts), "measured": self._measured,
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """Each reference's figures by name, with all of its classes."""
        return self._analyzer.status()

    def kept(self) -> State:
        """See `Watch`."""
        reach = {name: self._around[name].reach.state() for name in self._nodes if name in self._around}
        parts = {f"reach{at}_{key}": value for at, state in enumerate(reach.values()) for key, value in state.items()}
        for at, name in enumerate(reach):
            around = self._around[name]
            parts |= collected(around.parts(at))
        return {**super().kept(), **parts, "reach": list(reach), "spoken": list(self._flows.spoken.values())}

    def take_over(self, state: State) -> None:
        """See `Watch`."""
        super().take_over(state)
        names, spoken, known = state.get("reach"), state.get("spoken", []), {}
        if not isinstance(names, list):
            raise ValueError("it does not say which nodes' workloads reached what")  # noqa: TRY004 - what was kept has another form
        for at, name in enumerate(names):
            around = known[str(name)] = _Around()
            around.reach.restore({key: state.get(f"reach{at}_{key}") for key in ("bin", "doors", "sums")})
            # Releases before this one knew no names, or no rhythms.
            renewed(state, around.parts(at), "part")
        self._around = known
        self._flows.learn(map(str, spoken if isinstance(spoken, list) else ()))

    def renew(self, state: State) -> None:
        """Go on with what `kept` gave; where that cannot be used, connections begin anew, which is logged, and nothing else does."""
        before = self.kept()
        try:
            self.take_over(state)
        except ValueError as error:
            _LOG.warning("what was kept of connections cannot be used, they begin anew: %s", error)
            self.take_over(before)

    def watch(self, frame: Frame) -> list[Finding]:
        """See `Watch`: rows of sockets wait for names where there are any."""
        node, name, now = self._node(frame), frame.envelope.node, last(frame)
        around = self._around.setdefault(name, _Around())
        if len(self._around) > len(self._nodes):  # a node was forgotten
            self._around = {name: known for name, known in self._around.items() if name in self._nodes}
        self._flagged.add(frame.flagged)
        around.waiting.add(frame)
        self._flows.learn(around.directory.hear(frame, around.waiting.since(now)))
        late = WAIT_NS if len(around.directory) else 0
        found = []
        for early in around.waiting.over(now, late):
            found += self._take(node, early)
        return found + self._pass(node, frame, around.waiting.since(now - late))

    def _read(self, frame: Frame) -> Heard:
        return connections(
            frame, frame.fitting(self._p["exclude_workloads"]), self._around[frame.envelope.node].directory
        )

    def _rows(self, node: Node, arrived: Heard) -> Flows:
        around = self._around[node.place[0]]
        reach = around.reach.count(node.windows.bin, arrived.connections)
        periodicity, interval = around.rhythm.count(node.windows.bin, arrived)
        arrived = arrived.beating(np.where(periodicity >= REGULAR, interval, 0.0))
        measured, c = contacts.measure(self._counts, arrived, reach, periodicity), arrived.connections
        self._measured += len(arrived)
        return Flows(c, measured, self._analyzer.analyze_process(measured), self._flagged.among(c.tree))

    def _count(self, things: Connections, weight: np.ndarray, hour: int) -> None:
        contacts.learn(self._counts, things, weight, hour)
