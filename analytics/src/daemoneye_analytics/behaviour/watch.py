"""Rows of one kind, watched: measured, judged, told, and learned afterwards (prequential: a window is never held against itself).

Responsible for the order of things. What a row is, how it is measured, counted and told is the affair of who inherits: executions are
`daemoneye_analytics.behaviour.detector`'s, connections `daemoneye_analytics.behaviour.flows`'.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.findings import Finding
from daemoneye_analytics.analyzer import BehavioralAnalyzer
from daemoneye_analytics.behaviour import telling
from daemoneye_analytics.behaviour.admission import RARE, Admission
from daemoneye_analytics.behaviour.clock import Clock
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.flagged import Flagged
from daemoneye_analytics.behaviour.kept import Kept
from daemoneye_analytics.behaviour.lives import Lives
from daemoneye_analytics.behaviour.node import TICK_NS, Node
from daemoneye_analytics.behaviour.telling import Alarm, Place
from daemoneye_analytics.behaviour.windows import Windows
from daemoneye_analytics.detectors.base import Declaration, State
from daemoneye_analytics.detectors.parts import gathered, restored
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.exemptions import Exemption
from daemoneye_analytics.frame import Frame, text_hash

_FORMAT: Final = 1
_SECOND: Final = 1_000_000_000
_HOUR_NS: Final = 3600 * _SECOND
_HALF_LIFE_S: Final = 14 * 86_400
_MAX_NODES: Final = 10_000
_MAX_SCORES: Final = 10_000
_MAX_REPEATED: Final = 100
_LEARNED: Final = 8192
"""Rows that are counted at once: an execution has some fifty keys."""
_GATE: Final = 0.02
"""Windows that are so unusual are learned in part only: what comes once is not what is usual."""
_GATED: Final = 0.25


class Watch(ABC):
    """The nodes' rows of one kind, from a batch to findings.

    Attributes:
        scores: Records of closed windows since somebody took them; see `telling.record`.
        repeated: Findings since somebody took them that were not told, for they repeat one that was.
    """

    lane: ClassVar[str]
    """The lane in which its rows come."""
    kind: ClassVar[Any]
    """Class of its rows in windows: see `daemoneye_analytics.behaviour.windows.Watched`."""
    unit: ClassVar[str]
    """What its rows are called where they are counted."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        analyzer: BehavioralAnalyzer,
        counts: Counts,
        teller: telling.Teller,
        flagged: Flagged,
        declared: Declaration,
    ) -> None:
        self._p = parameters
        self._declared = declared
        self._analyzer = analyzer
        self._counts = counts
        self._lives = Lives(
            parameters["max_workloads"], parameters["learning_events"], parameters["learning_seconds"], parameters["quiet_seconds"],
            parameters["learned_per_hour"],
        )  # fmt: skip
        self._admission = Admission()
        self._kept = Kept()
        self._clock = Clock()
        self._repeats = Repeats(1, int(parameters["cooldown_seconds"] * _SECOND))
        self._teller = teller
        self._nodes: dict[str, Node] = {}
        self._flagged = flagged
        flagged.heard.append(self._take_back)
        self._exemptions: tuple[Exemption, ...] = ()
        self._decayed = 0
        self._measured = 0
        self.scores: list[dict[str, Any]] = []
        self.repeated: list[Finding] = []

    # ── what rows are ───────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def _read(self, frame: Frame) -> Any:
        """A batch's rows as they arrive: see `daemoneye_analytics.behaviour.node.Arriving`."""

    @abstractmethod
    def _rows(self, node: Node, arrived: Any) -> Any:
        """The same, measured by what was counted before and scored by the models: rows of `kind`."""

    @abstractmethod
    def _count(self, things: Any, weight: np.ndarray, hour: int) -> None:
        """Count rows with these weights, float, shape (n,); `hour` counts up with the events' time."""

    # ── the order of things ─────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, frame: Frame) -> list[Finding]:
        """Findings about a batch of its lane."""
        node = self._node(frame)
        self._flagged.add(frame.flagged)
        return self._take(node, frame) + self._pass(node, frame, last(frame))

    def _node(self, frame: Frame) -> Node:
        """The node of a batch."""
        name = frame.envelope.node
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Node(name, self.kind)
            while len(self._nodes) > _MAX_NODES:  # names are the nodes' own: there may be no end of them
                del self._nodes[next(iter(self._nodes))]
        return node

    def _take(self, node: Node, frame: Frame) -> list[Finding]:
        """Look at a batch's rows."""
        node.place = (frame.envelope.node, frame.envelope.epoch, frame.envelope.lane)
        arrived = self._read(frame)
        found: list[Finding] = []
        if len(arrived):
            self._teller.hear(frame)
        for tick, block, step in node.steps(arrived):
            found += self._advance(node, tick, frame, learn=block)
            node.hear(frame, step)
            windows = node.windows.add(self._rows(node, step))
            if windows is not None:
                found += self._look(node, windows, frame)
        return found

    def _pass(self, node: Node, frame: Frame, now: int) -> list[Finding]:
        """Let time pass until a moment, ns, though nothing came."""
        return self._advance(node, now // TICK_NS, frame, learn=False)

    def _advance(self, node: Node, tick: int, frame: Frame, *, learn: bool) -> list[Finding]:
        """Let time pass: close what is over, then learn what was judged."""
        found: list[Finding] = []
        passed = tick > node.tick
        if node.enter(tick):
            closed = node.windows.close()
            if closed is not None:
                found = self._look(node, closed, frame)
            node.open()
        if passed or learn:
            self._learn(node)
        return found

    def _look(self, node: Node, windows: Windows[Any], frame: Frame) -> list[Finding]:
        """Judge windows, tell what alarms, and note what of the closed ones may be learned."""
        # What was flagged since they came counts, too.
        rows = windows.rows
        windows = windows._replace(
            rows=dataclasses.replace(rows, flagged=rows.flagged | self._flagged.among(rows.things.tree))
        )
        keys = windows.workload.tolist()
        places = [node.places.get(key, Place("")) for key in keys]
        begun = zip(keys, places, windows.start.tolist(), strict=True)
        lives = [self._lives.of(key, place.workload, start) for key, place, start in begun]
        learned = np.array([self._lives.learned(life) for life in lives])
        judgement, sums = self._analyzer.analyze_windows(windows, learned)
        alarms = judgement.alarm
        flagged = np.bincount(windows.of, weights=windows.rows.flagged, minlength=len(lives)) > 0
        drifted = np.array([life.drifted for life in lives])
        fine = windows.closed & ~alarms & ~flagged & ~judgement.suspect
        unusual = fine & (judgement.p <= 1 / RARE) & ~drifted
        kept = (fine & ~unusual) | self._admission.admit(windows.closed & ~np.isnan(judgement.p), unusual)
        self._analyzer.add(windows, sums, learned, kept)
        for at in np.flatnonzero(kept).tolist():
            self._kept.add(
                windows.rows.things.tree[windows.of == at], int(windows.workload[at]), int(windows.start[at])
            )
        clean = np.bincount(windows.of, weights=~windows.rows.flagged, minlength=len(lives)).astype(np.int64)
        weights = np.zeros(len(lives))
        found = []
        for at, life in enumerate(lives):
            p, score = float(judgement.p[at]), float(judgement.score[at])
            if windows.closed[at]:
                self._lives.close(life, int(windows.size[at]), int(windows.end[at]))
                if self._lives.judge(life, p, alarm=bool(alarms[at])):
                    self._analyzer.scorers.hasten()
            if not (windows.closed[at] or alarms[at]):
                continue
            each = {
                model.name: float(value)
                for model, value in zip(self._analyzer.models, judgement.models[at], strict=True)
            }
            alarm = Alarm(
                windows, at, life, self._lives.phase(life), places[at], score, p, each, self._analyzer.scorers
            )
            forgiven = bool(alarms[at]) and self._forgiven(alarm)
            if alarms[at] and (finding := self._tell(node, alarm, frame, forgiven=forgiven)):
                found.append(finding)
            if windows.closed[at]:
                weights[at] = self._close(node, alarm, size=int(clean[at]), alarmed=bool(alarms[at]), forgiven=forgiven)
        self._keep(node, windows, weights)
        return found

    def _forgiven(self, alarm: Alarm) -> bool:
        if not self._exemptions:
            return False
        place, key, end = alarm.place, self._teller.key(alarm), int(alarm.windows.end[alarm.window])
        return any(e.covers(place.pod.namespace, place.workload, place.pod.image, key, end) for e in self._exemptions)

    def _tell(self, node: Node, alarm: Alarm, frame: Frame, *, forgiven: bool) -> Finding | None:
        """The finding about a window; None for one that was told, or that repeats another."""
        w, key = alarm.windows, int(alarm.windows.workload[alarm.window])
        start = int(w.start[alarm.window])
        if node.told.get(key) == start:
            return None
        node.told[key] = start
        if not forgiven:
            self._flagged.add(w.rows.things.process[self._teller.top(alarm)].tolist())
        finding = self._teller.finding(alarm, node.place, self._counts, frame, self._declared)
        if self._repeats.admit(text_hash(finding.key), start) is None:
            self.repeated.append(finding)
            del self.repeated[:-_MAX_REPEATED]
            return None
        return finding

    def _close(self, node: Node, alarm: Alarm, *, size: int, alarmed: bool, forgiven: bool) -> float:
        """Record a closed window's score; the weight with which its `size` rows are learned, 0 if it alarmed and nobody said that it is benign."""
        self.scores.append(telling.record(alarm, node.place[0], self.unit, calibrated=alarm.life.calibrated))
        del self.scores[:-_MAX_SCORES]
        if alarmed and not forgiven:
            return 0.0
        gated = _GATED if alarm.p <= _GATE and not forgiven else 1.0
        return self._lives.weight(alarm.life, size, int(alarm.windows.end[alarm.window])) * gated

    def _keep(self, node: Node, windows: Windows[Any], weights: np.ndarray) -> None:
        """Let windows with a weight be learned at the next tick, without process trees that somebody found something in."""
        mine = np.flatnonzero(~windows.rows.flagged & (weights[windows.of] > 0))
        if len(mine):
            mine = mine[np.argsort(windows.of[mine], kind="stable")]
            node.pending.append((windows.rows.things.take(mine), weights[windows.of[mine]]))
            self._analyzer.scorers.offer(windows.rows.measured.take(mine))

    def _learn(self, node: Node) -> None:
        """Count what is pending; train and forget when it is time."""
        ours = self._clock.turn(node.place[0], node.tick * TICK_NS, len(self._nodes))
        now = self._clock.now
        pending, node.pending = node.pending, []
        if pending:
            things = self.kind.THINGS.joined([things for things, _ in pending])
            weight = np.where(self._flagged.among(things.tree), 0.0, np.concatenate([weight for _, weight in pending]))
            del pending
            for first in range(0, len(things), _LEARNED):
                part = slice(first, first + _LEARNED)
                self._count(things.span(part.start, part.stop), weight[part], now // _HOUR_NS)
            self._analyzer.refresh()
        if not ours:
            return
        if self._analyzer.scorers.advance(now):
            self._lives.settle()
        interval = int(self._p["update_seconds"])
        if abs(now - self._decayed) >= interval * _SECOND:
            if self._decayed:
                self._counts.decay(0.5 ** (interval / _HALF_LIFE_S))
            self._decayed = now

    def _take_back(self, processes: np.ndarray) -> None:
        """Windows that these processes are in are no examples any more."""
        workload, start = self._kept.take(processes)
        if len(start):
            self._analyzer.forget(workload, start)

    # ── what is kept and told of it ─────────────────────────────────────────────────────────────────────────────────

    def kept(self) -> State:
        """What `take_over` needs."""
        out = gathered(_FORMAT, self._parts)
        nodes = []
        for at, node in enumerate(self._nodes.values()):
            arrays, plain = node.state()
            out |= {f"node{at}_{name}": value for name, value in arrays.items()}
            nodes.append(plain)
        return {**out, "nodes": nodes, "decayed": self._decayed}

    def take_over(self, state: State) -> None:
        """Go on with what `kept` gave.

        Raises:
            ValueError: It is of another form.
        """
        restored(state, _FORMAT, self._parts, self._declared.name)
        try:
            nodes = [
                Node.restored(
                    {name.removeprefix(f"node{at}_"): v for name, v in state.items() if name.startswith(f"node{at}_")},
                    plain, self.kind, len(self._analyzer.process),
                )
                for at, plain in enumerate(state["nodes"])
            ]  # fmt: skip
            decayed = int(state["decayed"])
        except (KeyError, TypeError, AttributeError, CorruptData) as error:
            msg = f"state of {self._declared.name}: {error!r}"
            raise ValueError(msg) from error
        self._nodes = {node.place[0]: node for node in nodes}
        self._decayed = decayed

    def forgive(self, exemptions: Sequence[Exemption]) -> None:
        """Learn what these benign verdicts cover although it alarms; it is found all the same, and kept silent by the operator."""
        self._exemptions = tuple(e for e in exemptions if e.detector in ("", self._declared.name))

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "counts": self._counts,
            "lives": self._lives,
            "admission": self._admission,
            "kept": self._kept,
            "judge": self._analyzer,
            "scorers": self._analyzer.scorers,
            "repeats": self._repeats,
            "clock": self._clock,
        }


def last(frame: Frame) -> int:
    """Wall time of a batch's last row, ns."""
    return int(frame.batch.wall_ns(np.array([frame.envelope.last_time]))[0])
