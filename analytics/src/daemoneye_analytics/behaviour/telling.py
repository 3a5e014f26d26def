"""A window that alarmed, told to a person: which process stands out, by how many bits, and how often such a thing was seen here and elsewhere.

Responsible for turning a window into a `Finding` and into a score record; used for the few windows that alarm, so plain Python is right here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.events.jsonform import rfc3339, split_argv
from daemoneye.findings import EventReference, Finding, Process, Subject, Technique, finding_id
from daemoneye_analytics import evidence
from daemoneye_analytics.behaviour import signs
from daemoneye_analytics.behaviour.catalogue import BY_NAME, Part
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.executions import FLEET
from daemoneye_analytics.behaviour.features import EXE, PARENT, USER
from daemoneye_analytics.behaviour.lives import Life, Phase
from daemoneye_analytics.behaviour.scorers import Scorers
from daemoneye_analytics.behaviour.windows import TOP, Windows
from daemoneye_analytics.detectors.base import Declaration
from daemoneye_analytics.frame import Frame, text_hash
from daemoneye_analytics.pods import NOBODY, Pod

INTERPRETER: Final = Technique("T1059", "Command and Scripting Interpreter")
_HIGH: Final = 0.95
_FEW: Final = 5000
_LOGARITHM: Final = re.compile(r"log2\(1 \+ (\w+)\)")
_MOST: Final = 6
"""Signs and techniques that a finding names."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose a window's executions are."""

    workload: str
    container_id: str = ""
    pod_uid: str = ""
    pod: Pod = NOBODY


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a finding is made of: a window, what was judged and by which models, and whose it is."""

    windows: Windows[Any]
    window: int
    life: Life
    phase: Phase
    place: Place
    score: float
    p: float
    models: Mapping[str, float]
    scorers: Scorers


class Teller:
    """Knows the names behind the hashes of executables; the newest 65,536 of them."""

    THINGS: ClassVar[str] = "executions"
    """What windows are made of, in a sentence."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def hear(self, frame: Frame) -> None:
        """Learn the names of a batch's executables."""
        self._names.update((text_hash(text), text) for text in frame.exe.values)
        while len(self._names) > 65_536:
            del self._names[next(iter(self._names))]

    def name(self, key: int) -> str:
        """The executable of a hash, in a sentence."""
        return self._names.get(key, "a program whose name is not kept") if key else "an unknown program"

    def finding(
        self, alarm: Alarm, node: tuple[str, int, str], counts: Counts, frame: Frame | None, declaration: Declaration
    ) -> Finding:
        """The finding about a window.

        Args:
            alarm: What alarmed.
            node: Name, epoch and lane.
            counts: What was seen before, for the explanation.
            frame: The batch that is looked at, where the window's rarest process may be.
            declaration: The detector's.
        """
        top = self.top(alarm)
        row = int(top[0])
        e = alarm.windows.rows.things
        start, exe = int(e.start[row]), self._names.get(int(e.exe[row]), "")
        process, tree = self._processes(frame, node, e, row, exe)
        model, where = loudest(alarm), _where(alarm)
        pod = alarm.place.pod
        title, techniques, explanation = self._told(alarm, counts, top)
        return Finding(
            id=finding_id(
                detector=declaration.name, version=declaration.version, node=node[0], pid=0, start_ns=int(alarm.windows.start[alarm.window]),
                event_ns=0, key=f"{model}:{where}",
            ),
            time=rfc3339(np.array([e.time[row]]))[0],
            severity="high" if alarm.score >= _HIGH and alarm.phase is Phase.ACTIVE else "medium",
            score=math.floor(alarm.score * 1000) / 1000,  # never more than was judged: a policy's threshold holds for it
            detector=declaration.name,
            title=f"{where} behaves unlike itself: {exe or 'a program'} {title}",
            subject=Subject(
                node=node[0], workload=alarm.place.workload, container_id=alarm.place.container_id, pod_uid=alarm.place.pod_uid, pid=process.pid,
                start_time=rfc3339(np.array([start]))[0], exe=exe, argv=process.argv, process_uid=f"{int(e.process[row]):016x}",
                namespace=pod.namespace, pod=pod.name, container=pod.container, image=pod.image, labels=dict(pod.labels), owner_kind=pod.owner_kind,
                owner_name=pod.owner_name, **self._between(e, row),
            ),
            key=self.key(alarm),
            techniques=techniques,
            explanation=(self._meaning(alarm, model), *self._oddities(alarm, model), *explanation),
            confidence=0.8 if alarm.phase is Phase.ACTIVE else 0.5,
            confidence_reasons=tuple(_doubts(alarm, self.THINGS)),
            events=tuple(self._event(e, int(i), node) for i in top),
            process_tree=tree,
            policies=pod.policies,
        )  # fmt: skip

    def key(self, alarm: Alarm) -> str:
        """What an alarm's finding is about: the model that says most, the workload, and the program of its rarest process."""
        exe = int(alarm.windows.rows.things.exe[self.top(alarm)[0]])
        return f"{loudest(alarm)}:{_where(alarm)}:{self._names.get(exe, '')}"

    def top(self, alarm: Alarm) -> np.ndarray:
        """Rows of the alarm's window that stand out most, one a program, int64; at least one."""
        top, program = alarm.windows.top(alarm.window), alarm.windows.rows.things.program
        first = self._oddest(alarm, loudest(alarm))
        return top if first is None else np.append(first, top[program[top] != program[first]])[:TOP]

    def _oddest(self, alarm: Alarm, model: str) -> int | None:
        """The row that a model of rows finds most unusual; None if the model looks at windows, or knows none."""
        column = alarm.scorers.column(model)
        if column is None:
            return None
        mine = np.flatnonzero(alarm.windows.of == alarm.window)
        scores = alarm.windows.rows.scores[mine, column]
        return None if np.isnan(scores).all() else int(mine[np.nanargmax(scores)])

    def _between(self, things: Any, row: int) -> dict[str, Any]:  # noqa: ARG002 - an execution is between nobody
        """Fields of the subject that say between whom it happened."""
        return {}

    def _told(
        self, alarm: Alarm, counts: Counts, top: np.ndarray
    ) -> tuple[str, tuple[Technique, ...], tuple[str, ...]]:
        """How the title goes on behind the program, techniques, and sentences about the rows `top`."""
        shown = _shown(alarm)
        parent = self.name(int(alarm.windows.rows.things.parent[top[0]]))
        techniques = tuple({t.id: t for _, t, _ in shown}.values())[:_MOST] or (INTERPRETER,)
        return f"below {parent}", techniques, (*_signs(shown), *self._contributions(alarm, counts, top))

    def _event(self, things: Any, row: int, node: tuple[str, int, str]) -> EventReference:
        return EventReference(node[0], node[1], node[2], int(things.sequence[row]), "process_exec")

    def _processes(
        self, frame: Frame | None, node: tuple[str, int, str], things: Any, row: int, exe: str
    ) -> tuple[Process, tuple[Process, ...]]:
        """The process of a row with its arguments, and the tree above it, as far as the batch that is looked at holds it."""
        at = np.zeros(0, np.int64)
        if frame is not None and (frame.envelope.node, frame.envelope.epoch, frame.envelope.lane) == node:
            at = np.flatnonzero(frame.exec_sequence == things.sequence[row])
        if frame is None or not len(at):
            process = Process(int(things.pid[row]), exe)
            return process, (process,)
        image = int(frame.exec_image[at[0]])
        begin, length = (int(column[image]) for column in frame.images.section.column("argv"))
        process = Process(
            int(things.pid[row]), exe, tuple(split_argv(frame.images.section.heap[begin : begin + length].tobytes()))
        )
        return process, (*evidence.ancestry(frame, image), process)

    def _oddities(self, alarm: Alarm, model: str) -> list[str]:
        """A sentence about what a model of rows looks at."""
        rows = alarm.windows.rows
        if (row := self._oddest(alarm, model)) is None:
            return []
        if not (parts := alarm.scorers.explain(model, rows.measured, row)):
            return []
        what = ", ".join(map(told, parts[:TOP]))
        return [f"What {model} finds odd about {self.name(int(rows.things.exe[row]))}: {what}."]

    def _meaning(self, alarm: Alarm, model: str) -> str:
        numbers = alarm.scorers.numbers
        others = ", ".join(
            f"{name}{f' (model {numbers[name]})' if numbers.get(name) else ''} {_p(p)}"
            for name, p in alarm.models.items()
        )
        size = int(alarm.windows.size[alarm.window])
        return (
            f"A window of {self._size(size)} that is as unusual as this one has p = {_p(alarm.p)} by the windows "
            f"of like workloads seen before (score {alarm.score:.2f}; by model: {others}); {model} says most."
        )

    def _size(self, rows: int) -> str:
        return "1 execution" if rows == 1 else f"{rows} executions"

    def _contributions(self, alarm: Alarm, counts: Counts, top: np.ndarray) -> list[str]:
        """A sentence for each of the rarest processes: its bits, and how often it was seen here and in the fleet."""
        e, measured = alarm.windows.rows.things, alarm.windows.rows.measured
        out = []
        for row in top.tolist():
            bits = {name: float(measured.column(f"{name}_bits")[row]) for name in ("exe", "pair", "user", "args")}
            if sum(bits.values()) < 1:
                continue
            level = int(next(h for h in e.levels[row].tolist() if h))
            exe, parent = int(e.exe[row]), int(e.parent[row])
            name = self.name(exe)
            here, all_here = counts.seen(level, EXE.number, 0, exe)
            fleet, _ = counts.seen(FLEET, EXE.number, 0, exe)
            below, _ = counts.seen(level, PARENT.number, exe, parent)
            as_user, _ = counts.seen(level, USER.number, exe, int(e.user[row]))
            ran = "never ran" if here == 0 else f"ran {times(here)}"
            said = [
                f"{name} {ran} in this workload in {number(all_here)} executions, {times(fleet)} in all watched workloads ({bits['exe']:.1f} bits)"
            ]
            if bits["pair"] >= 1:
                said.append(
                    f"{'never' if below == 0 else times(below)} below {self.name(parent)} ({bits['pair']:.1f} bits)"
                )
            if bits["user"] >= 1:
                said.append(f"{'never' if as_user == 0 else times(as_user)} as this user ({bits['user']:.1f} bits)")
            if bits["args"] >= 1:
                said.append(f"its arguments hold unusual words ({bits['args']:.1f} bits)")
            out.append(f"{'; '.join(said)}.")
        return out


def record(alarm: Alarm, node: str, unit: str, *, calibrated: bool) -> dict[str, Any]:
    """The score of a closed window, as the command line's contract has it, its rows counted as `unit`.

    `score` and `p` are null where calibration is insufficient.
    """
    w = alarm.windows
    start, end = rfc3339(np.array([w.start[alarm.window], w.end[alarm.window]]))
    return {
        "kind": "score", "workload": alarm.place.workload, "node": node, "start": start, "end": end, unit: int(w.size[alarm.window]),
        "score": round(alarm.score, 4) if calibrated else None, "p": float(f"{alarm.p:.3g}") if calibrated else None, "state": str(alarm.phase),
        "models": {name: None if math.isnan(p) else float(f"{p:.3g}") for name, p in alarm.models.items()},
    }  # fmt: skip


def _shown(alarm: Alarm) -> list[tuple[str, Technique, float]]:
    """The signs of an intrusion in a window, their words, techniques and bits, the strongest first."""
    known = ((signs.meaning(sign), bits) for sign, bits in alarm.windows.signs(alarm.window).items())
    return [(*found, bits) for found, bits in known if found]


def _signs(shown: list[tuple[str, Technique, float]]) -> list[str]:
    if not shown:
        return []
    told = "; ".join(
        f"{words} ({technique.id} {technique.name}, {bits:.1f} bits)" for words, technique, bits in shown[:_MOST]
    )
    more = f"; and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return [f"What intruders do and this workload seldom does: {told}{more}."]


def loudest(alarm: Alarm) -> str:
    """The model with the smallest p-value."""
    return min(alarm.models, key=lambda name: math.inf if math.isnan(alarm.models[name]) else alarm.models[name])


def _where(alarm: Alarm) -> str:
    return alarm.place.workload or "an unknown workload"


def _doubts(alarm: Alarm, things: str) -> list[str]:
    life = alarm.life
    doubts = []
    if alarm.phase is Phase.LEARNING:
        doubts.append(
            f"The workload is still being learned ({life.executions:,} {things}): it was held against others in that phase."
        )
    elif life.executions < _FEW:
        doubts.append(f"The workload has shown only {life.executions:,} {things}.")
    if alarm.phase is Phase.DRIFTED:
        doubts.append(
            "The workload's windows have been unusual for a while: what is usual has changed, and it has not been trained anew yet."
        )
    return doubts


def told(part: Part) -> str:
    """A feature's value, and the usual one, in a sentence."""
    usual = "" if part.usual is None else f" (usually {_value(part.feature, part.usual)})"
    return f"{part.feature} {_value(part.feature, part.value)}{usual}"


def _value(feature: str, value: float) -> str:
    """A feature's value with its unit; of a logarithm the number itself."""
    unit = BY_NAME[feature].unit
    if counted := _LOGARITHM.fullmatch(unit):
        return f"{2**value - 1:,.0f} {counted[1]}"
    return f"{value:.3g} {unit}" if unit.startswith("bits") else f"{value:.3g}"


def _p(p: float) -> str:
    return "unknown" if math.isnan(p) else f"{p:.1e}"


def times(weight: float) -> str:
    """How often something was seen, in a sentence."""
    return "never" if weight == 0 else "once" if round(weight) <= 1 else f"{number(weight)} times"


def number(weight: float) -> str:
    """A count, in a sentence."""
    return f"{round(weight):,}"
