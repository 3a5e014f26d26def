"""behavioral_anomaly: windows of workloads that are unlike what their workload, and like ones, showed before.

Responsible for the order of things: measure, judge, tell, and learn afterwards (prequential: a window is never held against itself). What is measured,
judged and told is the affair of the package's other modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.findings import Finding
from daemoneye_analytics.analyzer import DECADES, BehavioralAnalyzer
from daemoneye_analytics.behaviour import features, models, signs, telling
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.executions import Arrivals, Executions, executions
from daemoneye_analytics.behaviour.kept import Kept
from daemoneye_analytics.behaviour.lives import Lives, Phase
from daemoneye_analytics.behaviour.node import TICK_NS, Node
from daemoneye_analytics.behaviour.telling import Alarm, Place
from daemoneye_analytics.behaviour.windows import Rows, Windows
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.detectors.parts import gathered, restored
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.exemptions import Exemption
from daemoneye_analytics.frame import Frame, text_hash

_FORMAT: Final = 1
_SECOND: Final = 1_000_000_000
_HOUR_NS: Final = 3600 * _SECOND
_HALF_LIFE_S: Final = 14 * 86_400
_MAX_FLAGGED: Final = 10_000
_MAX_NODES: Final = 10_000
_MAX_SCORES: Final = 10_000
_NEWEST: Final = 20
_NAME: Final = 256
_LEARNED: Final = 8192
"""Executions that are counted at once: each has some fifty keys."""
_GATE: Final = 0.02
"""Windows that are so unusual are learned in part only: what comes once is not what is usual."""
_GATED: Final = 0.25
_EXTREME: Final = 1e-3
"""Such windows are no reference for others, or attacks that nobody noticed would make the next ones usual; of benign ones it is one in a thousand."""


@detector(
    name="behavioral_anomaly",
    version=1,
    title="A workload behaves unlike itself",
    severity="medium",
    techniques=(telling.INTERPRETER, *(t for t in signs.TECHNIQUES if t != telling.INTERPRETER)),
    behavioral=True,
    scored=True,
    parameters=(
        Parameter("threshold", 0.8, "score from which on a window is told; 0.8 is p = 1e-4", minimum=0),
        Parameter("models", (), "declared models, each a JSON object with name, features, detector, parameters; the built-in ones if none"),
        Parameter("update_seconds", 86_400, "seconds of the events' time between two trainings", minimum=60),
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
class BehavioralAnomaly:
    """Judges windows of at most 100 executions or ten minutes of each workload by how surprising they are.

    Programs, their parents, users and arguments are counted for each workload, with back-off to its image, its namespace and all workloads; a window's
    rarest processes, its shift and its new things are held against those of windows of like workloads that were seen before. It misses what a workload
    does anyway, and what is done slowly enough to be learned.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._p = parameters
        declared = models.parse([models.read(text) for text in parameters["models"]])
        self._analyzer = BehavioralAnalyzer(declared, parameters["threshold"], parameters["update_seconds"])
        self._counts = Counts(parameters["max_items"])
        self._lives = Lives(
            parameters["max_workloads"], parameters["learning_events"], parameters["learning_seconds"], parameters["quiet_seconds"],
            parameters["learned_per_hour"],
        )  # fmt: skip
        self._kept = Kept()
        self._repeats = Repeats(1, int(parameters["cooldown_seconds"] * _SECOND))
        self._teller = telling.Teller()
        self._nodes: dict[str, Node] = {}
        self._flagged: dict[int, None] = {}
        self._exemptions: tuple[Exemption, ...] = ()
        self._decayed = 0
        self._measured = 0
        self.scores: list[dict[str, Any]] = []
        """Records of closed windows since somebody took them; see `telling.record`."""

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        envelope = frame.envelope
        if envelope.lane != "urgent":
            return []
        node = self._nodes.get(envelope.node)
        if node is None:
            node = self._nodes[envelope.node] = Node(envelope.node)
            while len(self._nodes) > _MAX_NODES:  # names are the nodes' own: there may be no end of them
                del self._nodes[next(iter(self._nodes))]
        node.place = (envelope.node, envelope.epoch, envelope.lane)
        self._flag(frame.flagged)
        arrived = executions(frame, frame.fitting(self._p["exclude_workloads"]))
        found: list[Finding] = []
        if len(arrived):
            self._teller.hear(frame)
        for tick, block, step in node.steps(arrived):
            found += self._advance(node, tick, frame, learn=block)
            node.hear(frame, step)
            windows = node.windows.add(self._rows(step))
            if windows is not None:
                found += self._look(node, windows, frame)
        return found + self._advance(
            node, int(frame.batch.wall_ns(np.array([envelope.last_time]))[0]) // TICK_NS, frame, learn=False
        )

    def state(self) -> State:
        """See `Detector`."""
        out = gathered(_FORMAT, self._parts)
        nodes = []
        for at, node in enumerate(self._nodes.values()):
            arrays, plain = node.state()
            out |= {f"node{at}_{name}": value for name, value in arrays.items()}
            nodes.append(plain)
        return {**out, "nodes": nodes, "flagged": np.array(list(self._flagged), np.uint64), "decayed": self._decayed}

    def restore(self, state: State) -> None:
        """See `Detector`."""
        restored(state, _FORMAT, self._parts, self.declaration.name)
        try:
            nodes = [
                Node.restored(
                    {name.removeprefix(f"node{at}_"): v for name, v in state.items() if name.startswith(f"node{at}_")}, plain, len(self._analyzer.process)
                )
                for at, plain in enumerate(state["nodes"])
            ]  # fmt: skip
            flagged, decayed = dict.fromkeys(state["flagged"].tolist()), int(state["decayed"])
        except (KeyError, TypeError, AttributeError, CorruptData) as error:
            msg = f"state of {self.declaration.name}: {error!r}"
            raise ValueError(msg) from error
        self._nodes = {node.place[0]: node for node in nodes}
        self._flagged, self._decayed = flagged, decayed

    def status(self) -> dict[str, Any]:
        """See `Detector`. Bounded, whatever was watched: it is part of every heartbeat."""
        lives = self._lives.status()
        phase = next(
            (p for p in (Phase.ACTIVE, Phase.DRIFTED, Phase.CALIBRATING) if lives["phases"][p]), Phase.LEARNING
        )
        return {
            "phase": str(phase).lower(), **lives, "suppressed": self._repeats.suppressed, "items": len(self._counts.items),
            "contexts": len(self._counts.contexts), "references": self._analyzer.summary(), "models": self._analyzer.scorers.status(),
            "flagged": len(self._flagged),
            "counted": {
                "executions": self._measured, **{name: self._lives.counted[name] for name in ("judged", "insufficient", "alarms")},
                "nominal": self._lives.counted["judged"] * 10.0 ** (-DECADES * self._p["threshold"]),
            },
            "newest": [
                {"workload": life.name[:_NAME], "phase": str(now), "executions": life.executions, "windows": life.windows, "alarms": life.alarms}
                for life, now in self._lives.newest(_NEWEST)
            ],
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """What is too long for every heartbeat: the calibration of each reference by classes."""
        return {"references": self._analyzer.status()}

    @property
    def suppressed(self) -> int:
        """Alarms that repeated one that was told within the cool-down."""
        return self._repeats.suppressed

    def forgive(self, exemptions: Sequence[Exemption]) -> None:
        """Learn what these benign verdicts cover although it alarms; it is found all the same, and kept silent by the operator."""
        self._exemptions = tuple(e for e in exemptions if e.detector in ("", self.declaration.name))

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "counts": self._counts,
            "lives": self._lives,
            "kept": self._kept,
            "judge": self._analyzer,
            "scorers": self._analyzer.scorers,
            "repeats": self._repeats,
        }

    # ── the order of things ─────────────────────────────────────────────────────────────────────────────────────────

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

    def _rows(self, arrived: Arrivals) -> Rows:
        measured = features.measure(self._counts, arrived)
        self._measured += len(arrived)
        e = arrived.executions
        return Rows(e, measured, self._analyzer.analyze_process(measured), self._of_flagged(e))

    def _of_flagged(self, e: Executions) -> np.ndarray:
        """Which executions belong to a process tree that somebody found something in, bool."""
        if not self._flagged:
            return np.zeros(len(e), bool)
        flagged = np.isin(e.tree, np.fromiter(self._flagged, np.uint64, len(self._flagged)))
        return np.asarray(flagged.any(axis=1))

    def _look(self, node: Node, windows: Windows, frame: Frame) -> list[Finding]:
        """Judge windows, tell what alarms, and note what of the closed ones may be learned."""
        # What was flagged since they came counts, too.
        rows = windows.rows
        windows = windows._replace(
            rows=dataclasses.replace(rows, flagged=rows.flagged | self._of_flagged(rows.executions))
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
        extreme = (judgement.p <= _EXTREME) & ~drifted
        kept = windows.closed & ~alarms & ~flagged & ~extreme
        self._analyzer.add(windows, sums, learned, kept)
        for at in np.flatnonzero(kept).tolist():
            self._kept.add(
                windows.rows.executions.tree[windows.of == at], int(windows.workload[at]), int(windows.start[at])
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
            alarm = Alarm(windows, at, life, self._lives.phase(life), places[at], score, p, each)
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
            self._flag(w.rows.executions.process[w.top(alarm.window)].tolist())
        finding = self._teller.finding(alarm, node.place, self._counts, frame, self.declaration)
        return finding if self._repeats.admit(text_hash(finding.key), start) is not None else None

    def _close(self, node: Node, alarm: Alarm, *, size: int, alarmed: bool, forgiven: bool) -> float:
        """Record a closed window's score; the weight with which its `size` executions are learned, 0 if it alarmed and nobody said that it is benign."""
        self.scores.append(telling.record(alarm, node.place[0], calibrated=alarm.life.calibrated))
        del self.scores[:-_MAX_SCORES]
        if alarmed and not forgiven:
            return 0.0
        gated = _GATED if alarm.p <= _GATE and not forgiven else 1.0
        return self._lives.weight(alarm.life, size, int(alarm.windows.end[alarm.window])) * gated

    def _keep(self, node: Node, windows: Windows, weights: np.ndarray) -> None:
        """Let windows with a weight be learned at the next tick, without process trees that somebody found something in."""
        mine = np.flatnonzero(~windows.rows.flagged & (weights[windows.of] > 0))
        if len(mine):
            mine = mine[np.argsort(windows.of[mine], kind="stable")]
            node.pending.append((windows.rows.executions.take(mine), weights[windows.of[mine]]))
            self._analyzer.scorers.offer(windows.rows.measured.take(mine))

    def _learn(self, node: Node) -> None:
        """Count what is pending; train and forget when it is time."""
        now = node.tick * TICK_NS
        pending, node.pending = node.pending, []
        if pending:
            e = Executions.joined([e for e, _ in pending])
            weight = np.where(self._of_flagged(e), 0.0, np.concatenate([weight for _, weight in pending]))
            del pending
            for first in range(0, len(e), _LEARNED):
                part = slice(first, first + _LEARNED)
                features.learn(self._counts, e.span(part.start, part.stop), weight[part], now // _HOUR_NS)
            self._analyzer.refresh()
        if self._analyzer.scorers.advance(now):
            self._lives.settle()
        interval = int(self._p["update_seconds"])
        if now - self._decayed >= interval * _SECOND:
            if self._decayed:
                self._counts.decay(0.5 ** (interval / _HALF_LIFE_S))
            self._decayed = now

    def _flag(self, processes: Iterable[int]) -> None:
        """Remember process trees that somebody found something in: what they do is not learned, and what they did is no example any more."""
        new = [process for process in processes if process and process not in self._flagged]
        if not new:
            return
        workload, start = self._kept.take(np.array(new, np.uint64))
        if len(start):
            self._analyzer.forget(workload, start)
        self._flagged.update(dict.fromkeys(new))
        while len(self._flagged) > _MAX_FLAGGED:
            del self._flagged[next(iter(self._flagged))]
