"""Batches in, findings out: the part of analytics that needs no broker.

Responsible for effect once, for running every detector over every batch, and for going on when one of them fails. Receiving, storing
and acknowledging are `daemoneye_analytics.consumer`'s affair.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from polars.exceptions import PanicException

from daemoneye.envelope import Batch
from daemoneye.errors import CorruptData
from daemoneye.escape import decode
from daemoneye.events.loss import STAGES
from daemoneye.events.registry import BY_NAME
from daemoneye.findings import Finding
from daemoneye.subjects import LANES, SEVERITIES
from daemoneye_analytics.budget import MACHINE, Budget
from daemoneye_analytics.detectors.base import Detector, Scoring, State
from daemoneye_analytics.exemptions import Exemption
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.registry import Chosen
from daemoneye_analytics.share import WHOLE, Share
from daemoneye_analytics.watermarks import Watermarks

OTHER: Final = "other"
"""For what names itself in another way than is known: names become labels of metrics, and a hostile sensor could think of many."""
_LOG = logging.getLogger(__name__)
_UNKNOWN: Final = int(np.iinfo(np.uint64).max)
_SPANS: Final = 64
_NODES: Final = 10_000
_NODE_BYTES: Final = 253
_LIMIT: Final = 1 << 62
_MINUTE: Final = 60.0
_GRAVE: Final = SEVERITIES[SEVERITIES.index("medium") :]


@dataclass(slots=True)
class _Running:
    detector: Detector
    parameters: Mapping[str, Any]
    errors: int = 0
    last_error: str = ""
    logged: float = float("-inf")


@dataclass(slots=True)
class Counts:
    """Since the start of the process, where the pipeline's own counters come from the checkpoint and go on.

    Attributes:
        events: Event rows that took effect.
        unread: Those of them whose record only a newer release knows: they were passed over.
        unwanted: Findings that were dropped, for nobody wants them.
        lost: Records that loss rows tell of, by stage; those that analytics noticed itself come back to it as such rows, too.
        seconds: What each detector took.
        errors: Batches on which each detector failed.
    """

    events: int = 0
    unread: int = 0
    unwanted: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    errors: Counter[str] = field(default_factory=Counter)


class Pipeline:
    """Watermarks and detectors with their state.

    Attributes:
        watermarks: How far each lane has been processed.
        events: Event rows that took effect.
        findings: Findings that were made.
        ignored: Batches of lanes that this version does not know.
        unwanted: Findings that were dropped, for no policy that the subject belongs to wants them.
        budget: How many findings of detectors that score were told, and what was beyond that.
        counts: What this process counted.
        share: Whose rows it looks at. Rows, findings and losses of others are nothing that it counts; watermarks are those of all.
    """

    def __init__(self, chosen: Sequence[Chosen] = (), share: Share = WHOLE) -> None:
        self.share = share
        self.watermarks = Watermarks()
        self.events = 0
        self.findings = 0
        self.ignored = 0
        self.unwanted = 0
        self.budget = Budget()
        self.counts = Counts()
        self._running: dict[str, _Running] = {}
        # What detectors that do not run at the moment have learned: a policy that comes back finds it.
        self._resting: dict[str, State] = {}
        self._wants: Mapping[str, frozenset[str]] | None = None
        self._loss_spans: dict[str, deque[tuple[int, int]]] = {}
        self.configure(chosen)

    def configure(
        self,
        chosen: Sequence[Chosen],
        wants: Mapping[str, frozenset[str]] | None = None,
        thresholds: Mapping[str, float] | None = None,
        budgets: Mapping[str, int] | None = None,
        exemptions: Sequence[Exemption] = (),
    ) -> None:
        """Run these detectors from the next batch on.

        One that runs already with the same parameters goes on; with others, its successor takes over what it learned.

        Args:
            chosen: The detectors.
            wants: Detector name → names of the policies that want it: a finding names those of them that its subject belongs to, and is
                dropped without any. None on one machine, where everything is told.
            thresholds: Name of a policy → score from which on it wants findings of detectors that score.
            budgets: Name of a policy, or `budget.MACHINE`, → findings of such detectors that it is told a day; 0 for all.
            exemptions: Verdicts that say what is wanted behaviour, for detectors that learn from them.
        """
        before, self._running = self._running, {}
        for detector, parameters in chosen:
            name = detector.declaration.name
            running = before.pop(name, None)
            if running is None or running.parameters != parameters:
                state = self._resting.pop(name, None) if running is None else self._state(running)
                running = _Running(detector, parameters)
                if state is not None:
                    self._adopt(running, state)
            self._running[name] = running
        for name, running in before.items():
            state = self._state(running)
            if state is not None:
                self._resting[name] = state
        self._wants, self._thresholds = wants, thresholds or {}
        self.budget.limits = {name: self.share.budget(limit) for name, limit in (budgets or {}).items()}
        for scoring in self._scoring().values():
            scoring.forgive(exemptions)

    def process(self, batch: Batch) -> list[Finding]:
        """Findings of one batch; none for rows that were processed before. A detector that raises is counted and logged, no more.

        Raises:
            CorruptData: The envelope says what cannot be; nothing of the batch took effect.
        """
        envelope = batch.envelope
        _check(batch)
        if envelope.lane not in LANES:
            self.ignored += 1
            return []
        skip = self.watermarks.advance(envelope, time.monotonic())
        if skip >= envelope.rows:
            return []
        mine = self.share.node(envelope.node)
        unread = _unread(batch, skip) if mine else 0
        self.counts.unread += unread
        if envelope.lane == "loss":
            self._count(envelope.rows - skip if mine else 0)
            self._losses(batch, skip, mine=mine)
            return []
        spans = self._loss_spans.get(envelope.node, ())
        frame = Frame(batch, skip=skip, loss_spans=np.array(spans, np.int64).reshape(-1, 2), share=self.share)
        self._count(envelope.rows - skip if self.share.whole else frame.size + unread)
        found = []
        for running in self._running.values():
            told = self._run(running, frame)
            found += told
            if not running.detector.declaration.behavioral:
                frame.flagged += [
                    int(f.subject.process_uid, 16) for f in told if f.subject.process_uid and f.severity in _GRAVE
                ]
        if self._wants is not None:
            found = self._wanted(found, self._wants)
        found = self._within(found)
        self._note_repeated()
        self.findings += len(found)
        return found

    def scores(self) -> list[dict[str, Any]]:
        """Scores of windows that closed since the last call, from all detectors that score."""
        out: list[dict[str, Any]] = []
        for detector in self._scoring().values():
            out += detector.scores
            detector.scores.clear()
        return out

    @property
    def cooled(self) -> int:
        """Alarms that repeated what was told within a detector's cool-down."""
        return sum(detector.suppressed for detector in self._scoring().values())

    def status(self) -> dict[str, dict[str, Any]]:
        """Every detector's phase, figures and errors."""
        out = {}
        for name, running in self._running.items():
            try:
                figures = running.detector.status()
            except Exception as error:  # noqa: BLE001 - somebody else's code
                figures = {"phase": "failing", "status_error": repr(error)[:200]}
            out[name] = {**figures, "errors": running.errors, "last_error": running.last_error}
        return out

    def details(self) -> dict[str, dict[str, Any]]:
        """What detectors say beyond their status, for who asks: more than a heartbeat should carry."""
        out = {}
        for name, detector in self._scoring().items():
            try:
                out[name] = detector.details()
            except Exception as error:  # noqa: BLE001 - somebody else's code
                out[name] = {"error": repr(error)[:200]}
        return out

    def facts(self) -> dict[str, Any]:
        """JSON for a checkpoint, without the detectors."""
        return {
            "watermarks": self.watermarks.state(),
            "events": self.events,
            "findings": self.findings,
            "unwanted": self.unwanted,
            "loss_spans": {node: list(spans) for node, spans in self._loss_spans.items()},
            "budget": self.budget.state(),
        }

    def states(self) -> dict[str, State]:
        """Every detector's state, of those that rest, too; one that cannot give it is left out and logged."""
        running = {name: self._state(each) for name, each in self._running.items()}
        return {**self._resting, **{name: state for name, state in running.items() if state is not None}}

    def restore(self, facts: Mapping[str, Any], states: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what `facts` and `states` gave. A detector that cannot use its state starts afresh.

        Raises:
            ValueError: The facts are of another form; nothing was taken over.
        """
        try:
            watermarks = Watermarks.restored(facts["watermarks"], time.monotonic())
            spans = {
                str(node): deque([(int(a), int(b)) for a, b in pairs], _SPANS)
                for node, pairs in facts["loss_spans"].items()
            }
            events, findings = int(facts["events"]), int(facts["findings"])
            unwanted = int(facts.get("unwanted", 0))  # the release before did not count them
            budget = Budget.restored(facts["budget"]) if "budget" in facts else Budget()
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"not a pipeline's facts: {error!r}"
            raise ValueError(msg) from error
        self.watermarks, self._loss_spans = watermarks, spans
        budget.limits, self.budget = self.budget.limits, budget
        self.events, self.findings, self.unwanted = events, findings, unwanted
        self._resting = {name: dict(state) for name, state in states.items()}
        for name, running in self._running.items():
            state = self._resting.pop(name, None)
            if state is not None:
                self._adopt(running, state)

    def _wanted(self, found: Sequence[Finding], wants: Mapping[str, frozenset[str]]) -> list[Finding]:
        """The findings that a policy of their subject wants, with the names of these policies."""
        out = []
        for finding in found:
            policies = self._asking(finding, wants)
            if policies:
                out.append(replace(finding, policies=policies))
        self.unwanted += len(found) - len(out)
        self.counts.unwanted += len(found) - len(out)
        return out

    def _within(self, found: Sequence[Finding]) -> list[Finding]:
        """The findings that somebody's budget has room for, with the names of those policies; rules have no budget."""
        out = []
        for finding in found:
            policies = finding.policies if self._wants is not None else (MACHINE,)
            told = self.budget.admit(finding, policies) if self._scored(finding.detector) else policies
            if told:
                out.append(finding if told == policies else replace(finding, policies=told))
        return out

    def _asking(self, finding: Finding, wants: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
        """The policies of a finding's subject that want it."""
        return tuple(
            name
            for name in finding.policies
            if name in wants.get(finding.detector, ()) and finding.score >= self._least(finding.detector, name)
        )

    def _note_repeated(self) -> None:
        """Keep what detectors did not tell, for they had told it, for whoever asks for what was suppressed."""
        for detector in self._scoring().values():
            for finding in detector.repeated:
                policies = (MACHINE,) if self._wants is None else self._asking(finding, self._wants)
                if policies:
                    self.budget.note(finding, policies)
            detector.repeated.clear()

    def _least(self, detector: str, policy: str) -> float:
        """Score from which on a policy wants a detector's findings."""
        return self._thresholds.get(policy, 0.0) if self._scored(detector) else 0.0

    def _scoring(self) -> dict[str, Scoring]:
        """The running detectors that score, by name."""
        return {
            name: running.detector for name, running in self._running.items() if isinstance(running.detector, Scoring)
        }

    def _scored(self, detector: str) -> bool:
        running = self._running.get(detector)
        return running is not None and running.detector.declaration.scored

    def _state(self, running: _Running) -> State | None:
        try:
            return running.detector.state()
        except Exception as error:  # noqa: BLE001 - somebody else's code
            self._failed(running, error, "cannot save its state")
            return None

    def _adopt(self, running: _Running, state: State) -> None:
        try:
            running.detector.restore(state)
        except Exception as error:  # noqa: BLE001 - somebody else's code
            self._failed(running, error, "cannot use its saved state and starts afresh")

    def _run(self, running: _Running, frame: Frame) -> list[Finding]:
        name, begun = running.detector.declaration.name, time.perf_counter()
        try:
            return running.detector.process(frame)
        except (Exception, PanicException) as error:  # noqa: BLE001 - a detector must never stop the others
            self.counts.errors[name] += 1
            where = f"{frame.envelope.node}/{frame.envelope.lane}/{frame.envelope.first_sequence}"
            self._failed(running, error, f"failed on batch {where}")
            return []
        finally:
            self.counts.seconds[name] += time.perf_counter() - begun

    def _failed(self, running: _Running, error: BaseException, what: str) -> None:
        running.errors += 1
        running.last_error = repr(error)[:200]
        if time.monotonic() - running.logged >= _MINUTE:
            running.logged = time.monotonic()
            name = running.detector.declaration.name
            _LOG.error("detector %s %s (%d errors so far)", name, what, running.errors, exc_info=error)

    def _count(self, rows: int) -> None:
        self.events += rows
        self.counts.events += rows

    def _losses(self, batch: Batch, skip: int, *, mine: bool) -> None:
        section = batch.section("loss")
        if section is None:
            return
        node = batch.envelope.node
        lanes = section.values("lane")
        wall = zip(
            batch.wall_ns(section.rows["since"]).tolist(), batch.wall_ns(section.rows["time"]).tolist(), strict=True
        )
        self._loss_spans.setdefault(node, deque(maxlen=_SPANS)).extend(wall)
        while len(self._loss_spans) > _NODES:
            del self._loss_spans[next(iter(self._loss_spans))]
        for stage, count in zip(section.values("stage")[skip:], section.rows["count"][skip:].tolist(), strict=True):
            name = text if (text := decode(stage)) in STAGES else OTHER
            self.counts.lost[name] = self.counts.lost.get(name, 0) + (count if mine else 0)
        for row, lane in zip(section.rows, lanes, strict=True):
            if int(row["first_sequence"]) != _UNKNOWN:
                self.watermarks.explain(
                    node, int(row["epoch"]), decode(lane), int(row["first_sequence"]), int(row["count"])
                )


def _unread(batch: Batch, skip: int) -> int:
    """New event rows of records that this release does not know."""
    begin = found = 0
    for section in batch.sections:
        end = begin if section.context else begin + len(section.rows)
        if section.record.name not in BY_NAME:
            found += end - min(max(begin, skip), end)
        begin = end
    return found


def _check(batch: Batch) -> None:
    """Refuse an envelope whose numbers and names no sensor writes: they become keys, subjects and 64-bit columns."""
    envelope = batch.envelope
    numbers = (envelope.first_sequence, envelope.rows, envelope.first_time, envelope.last_time)
    rows = sum(len(s.rows) for s in batch.sections if not s.context)
    if envelope.rows != rows:
        raise CorruptData(f"batch of {envelope.rows} rows holds {rows}")
    if (
        not 0 <= envelope.epoch <= _UNKNOWN
        or not all(0 <= n < _LIMIT for n in numbers)
        or abs(envelope.clock_offset_ns) >= _LIMIT
    ):
        raise CorruptData("batch with numbers beyond 64 bits")
    if not 0 < len(envelope.node.encode("utf-8", "replace")) <= _NODE_BYTES or not envelope.node.isprintable():
        raise CorruptData("batch of a node without a proper name")
