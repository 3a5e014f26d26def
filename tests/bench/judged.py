"""A split of the corpus as the behavioural analyser judged it: windows and findings with what really happened in them.

Responsible for running the analyser over the corpus and for the labels; what is counted of it is `tests.bench.behaviour`'s affair. The analyser is the
shipped one; of it, two methods are watched: the one that closes a window, and the one that tells of one.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from daemoneye.envelope import Batch
from daemoneye.events.flags import Flag
from daemoneye.findings import Finding
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.behaviour.node import Node
from daemoneye_analytics.behaviour.telling import Alarm
from daemoneye_analytics.frame import Frame
from tests.corpus.corpus import Attack, Rare, Recording


class Window(NamedTuple):
    """A closed window.

    Attributes:
        workload: Its workload.
        start: First execution, ns since 1970.
        p: Aggregate p-value; NaN where calibration is insufficient.
        models: Each model's p-value.
        times: Moments of its executions, ns since 1970, int64, shape (n,).
        exe: Hashes of their executables, u64.
        pair: Hashes of executable and parent's, u64.
    """

    workload: str
    start: int
    p: float
    models: Mapping[str, float]
    times: np.ndarray
    exe: np.ndarray
    pair: np.ndarray


class Told(NamedTuple):
    """A finding.

    Attributes:
        workload: Its workload.
        at: When it was told by the events' time: the window's last execution then, or its end, ns since 1970.
        times: Moments of the executions that the window held then.
    """

    workload: str
    at: int
    times: np.ndarray


class Watched(BehavioralAnomaly):
    """The analyser, with a note of each window that it closed and of each finding.

    Attributes:
        closed: Windows in the order in which they were closed.
        told: Findings.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self.closed: list[Window] = []
        self.told: list[Told] = []

    def _tell(self, node: Node, alarm: Alarm, frame: Frame, **more: Any) -> Finding | None:
        finding = super()._tell(node, alarm, frame, **more)
        if finding:
            w, at = alarm.windows, alarm.window
            self.told.append(Told(alarm.place.workload, int(w.end[at]), w.rows.things.time[w.of == at]))
        return finding

    def _close(self, node: Node, alarm: Alarm, **more: Any) -> float:
        weight = super()._close(node, alarm, **more)
        w, at = alarm.windows, alarm.window
        e = w.rows.things.take(np.flatnonzero(w.of == at))
        self.closed.append(
            Window(alarm.place.workload, int(w.start[at]), alarm.p, alarm.models, e.time, e.exe, e.program)
        )
        self.scores.clear()
        return weight


class Labels:
    """What happened to each workload when, by number of the attack or event."""

    def __init__(self, spans: Sequence[Attack | Rare]) -> None:
        self._of: dict[str, list[tuple[int, int, int]]] = {}
        for number, span in enumerate(spans):
            self._of.setdefault(span.workload, []).append((span.begin_ns, span.end_ns, number))

    def inside(self, workload: str, times: np.ndarray) -> list[int]:
        """Those of a workload in which one of these moments lies."""
        return [
            number
            for begin, end, number in self._of.get(workload, ())
            if bool(((times >= begin) & (times <= end)).any())
        ]

    def mask(self, workloads: Sequence[str], times: np.ndarray) -> np.ndarray:
        """Which of n moments lie in one of their workloads' spans, bool, shape (n,)."""
        out = np.zeros(len(times), bool)
        names = np.array(workloads)
        for workload in set(workloads) & self._of.keys():
            mine = names == workload
            for begin, end, _ in self._of[workload]:
                out |= mine & (times >= begin) & (times <= end)
        return out


@dataclass(frozen=True, slots=True)
class Judged:
    """A split after the analyser saw it. Windows and findings are those from the first attack on.

    Attributes:
        recording: The split.
        earlier: Windows before the first attack: what there was to learn from.
        windows: Windows.
        attacks: Attacks in each window, by number.
        rare: Rare benign events in each.
        told: Findings.
        told_attacks: Attacks in each finding.
        told_rare: Rare benign events in each.
        cpu_s: CPU seconds that it took.
    """

    recording: Recording
    earlier: list[Window]
    windows: list[Window]
    attacks: list[list[int]]
    rare: list[list[int]]
    told: list[Told]
    told_attacks: list[list[int]]
    told_rare: list[list[int]]
    cpu_s: float

    @property
    def days(self) -> float:
        """Workload-days from the first attack on."""
        begun = min(attack.begin_ns for attack in self.recording.attacks)
        return len(self.recording.workloads) * (self.recording.end_ns - begun) / 86_400e9

    @property
    def p(self) -> np.ndarray:
        """Each window's p-value, float64; NaN where calibration is insufficient."""
        return np.array([window.p for window in self.windows])

    @property
    def attacked(self) -> np.ndarray:
        """Which windows hold a process of an attack, bool."""
        return np.array([bool(numbers) for numbers in self.attacks])

    @property
    def eventful(self) -> np.ndarray:
        """Which windows hold a rare benign event and no attack, bool."""
        return np.array([bool(numbers) for numbers in self.rare]) & ~self.attacked

    def worst(self, score: np.ndarray) -> np.ndarray:
        """The largest of the windows' scores that each attack has, float64; -inf for one without a window."""
        out = np.full(len(self.recording.attacks), -np.inf)
        for value, numbers in zip(score, self.attacks, strict=True):
            out[numbers] = np.maximum(out[numbers], value)
        return out


def judge(recording: Recording, *, announced: bool = False, flagged: bool = False) -> tuple[Judged, Watched]:
    """Run the analyser over a split.

    Args:
        recording: The split.
        announced: Rare benign events are known beforehand: the analyser takes their processes for ones that ran before it.
        flagged: Another detector finds something in the processes of every attack, so that none is learned or makes the next one usual.

    Returns:
        What it said, and the analyser.
    """
    logging.getLogger("daemoneye_analytics").setLevel(logging.ERROR)
    watched = Watched(BehavioralAnomaly.declaration.resolve({}))
    attacks, rare = Labels(recording.attacks), Labels(recording.rare)
    cpu_s = 0.0
    for batch in recording.batches():
        frame = Frame(announce(batch, rare) if announced else batch)
        if flagged:
            frame.flagged = frame.exec_rows["process_uid"][attacks.mask(workloads(frame), frame.exec_time)].tolist()
        begun = time.process_time()
        watched.process(frame)
        cpu_s += time.process_time() - begun
    first = min(attack.begin_ns for attack in recording.attacks)
    late = [window for window in watched.closed if window.times[-1] >= first]
    told = [finding for finding in watched.told if finding.at >= first]
    judged = Judged(
        recording, [window for window in watched.closed if window.times[-1] < first], late, _inside(attacks, late), _inside(rare, late), told,
        _inside(attacks, told), _inside(rare, told), cpu_s,
    )  # fmt: skip
    return judged, watched


def workloads(frame: Frame) -> list[str]:
    """The workload of each new execution."""
    return [frame.identities[row].workload for row in frame.identity[frame.exec_image].tolist()]


def announce(batch: Batch, rare: Labels) -> Batch:
    """A batch whose executions in rare benign events are marked as ones that were running before: their children still have parents."""
    section = batch.section("process_exec")
    if section is None:
        return batch
    frame = Frame(batch)
    rows = section.rows.copy()
    # The new executions are in order of time; the section may not be.
    inside = rare.mask(workloads(frame), frame.exec_time)
    rows["flags"][frame.exec_image[inside] - frame.context] |= np.uint32(Flag.SNAPSHOT)
    marked = dataclasses.replace(section, rows=rows)
    return dataclasses.replace(batch, sections=tuple(marked if each is section else each for each in batch.sections))


def _inside(labels: Labels, happened: Iterable[Window] | Iterable[Told]) -> list[list[int]]:
    return [labels.inside(each.workload, each.times) for each in happened]


def frames(recording: Recording) -> Iterator[Frame]:
    """The split's executions for other detectors."""
    return (Frame(batch) for batch in recording.batches() if batch.envelope.lane == "urgent")
