"""first_seen: what a workload never did before.

Responsible for the learned allow-list of each workload. It says "new", not "bad": severities are low, and how unlikely something is is
for the models of the behavioural analyser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.events.flags import Flag
from daemoneye.events.jsonform import rfc3339
from daemoneye.findings import Finding, Technique
from daemoneye_analytics import evidence
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.detectors.tally import Tally
from daemoneye_analytics.frame import Frame, combine

_FORMAT: Final = 1
_SECOND: Final = 1_000_000_000
_INTERPRETER: Final = Technique("T1059", "Command and Scripting Interpreter")
_ELEVATION: Final = Technique("T1548", "Abuse Elevation Control Mechanism")


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of item: number in the keys (append-only), name in the findings' key, severity, title, technique."""

    number: int
    name: str
    severity: str
    title: str
    technique: Technique


_UID: Final = _Kind(3, "uid", "medium", "A workload changed user in a way it never did before", _ELEVATION)
_EXE: Final = _Kind(1, "exe", "low", "A workload ran a program for the first time", _INTERPRETER)
_PAIR: Final = _Kind(
    2, "parent-exe", "informational", "A program was started by a parent that never did so", _INTERPRETER
)
_KINDS: Final = (_UID, _EXE, _PAIR)
"""The most severe first: it names a finding that has several."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """Rows to learn, in order of time, ancestors first; arrays of shape (k,).

    Attributes:
        image: Row of each in the frame's images.
        row: Row in the frame's new executions, -1 for ancestors.
        time: Wall time, ns.
        silent: It is learned without being counted or told.
    """

    image: np.ndarray
    row: np.ndarray
    time: np.ndarray
    silent: np.ndarray


@detector(
    name="first_seen",
    version=1,
    title="A workload does something for the first time",
    severity="low",
    techniques=(_INTERPRETER, _ELEVATION),
    behavioral=True,
    parameters=(
        Parameter(
            "learning_events", 200, "executions that a workload must show before its new items are told", minimum=0
        ),
        Parameter("learning_seconds", 3600, "seconds that it must have been watched as well", minimum=0),
        Parameter(
            "quiet_seconds",
            86_400,
            "seconds after which a workload that executes little has been learned, too",
            minimum=0,
        ),
        Parameter("max_items", 200_000, "items kept in all, 40 bytes each", minimum=100),
        Parameter("max_items_per_workload", 5_000, "items kept for one workload", minimum=10),
        Parameter("max_workloads", 20_000, "workloads kept", minimum=10),
        Parameter("exclude_workloads", ("host/systemd/daemoneye*",), "workloads left out; * stands for any characters"),
    ),
)
class FirstSeen:
    """Learns, for each workload, its executables, its parent→child pairs and its changes of user; tells what is new afterwards.

    An item is told once and is known from then on. Several new items of one execution make one finding. Learning ends by events and
    time, both counted by the events' own clock. Processes that ran before the sensor are learned and never told. A workload whose
    entries were dropped for want of room tells them again.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._p = parameters
        self._items = Tally(parameters["max_items"], parameters["max_items_per_workload"])
        self._workloads = Tally(parameters["max_workloads"])
        self._newest = 0

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        seen = self._rows(frame)
        if not len(seen.image):
            return []
        workload = frame.workload_hashes[frame.identity[seen.image]]
        before, since, told = self._phase(workload, seen)
        new: dict[int, list[_Kind]] = {}
        for kind in _KINDS:
            for at in self._unknown(frame, kind, seen, workload):
                if told[at]:
                    new.setdefault(int(at), []).append(kind)
        return [self._finding(frame, int(seen.row[at]), new[at], int(before[at]), int(since[at])) for at in sorted(new)]

    def state(self) -> State:
        """See `Detector`."""
        return {
            "format": _FORMAT,
            "newest": self._newest,
            **{f"item_{name}": value for name, value in self._items.state().items()},
            **{f"workload_{name}": value for name, value in self._workloads.state().items()},
        }

    def restore(self, state: State) -> None:
        """See `Detector`."""
        if state.get("format") != _FORMAT:
            msg = f"state of first_seen has format {state.get('format')}, this version reads {_FORMAT}"
            raise ValueError(msg)
        items = Tally(self._items.capacity, self._items.group_capacity)
        workloads = Tally(self._workloads.capacity)
        for tally, prefix in ((items, "item_"), (workloads, "workload_")):
            tally.restore(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )
        self._items, self._workloads, self._newest = items, workloads, int(state["newest"])

    def status(self) -> dict[str, Any]:
        """See `Detector`: `learning` as long as every workload is."""
        every = np.arange(len(self._workloads))
        watched = self._newest - self._workloads.column("first", every)
        learned = int(self._learned(self._workloads.column("count", every).astype(np.int64), watched).sum())
        return {
            "phase": "active" if learned else "learning",
            "workloads": len(every),
            "workloads_learned": learned,
            "items": len(self._items),
            "dropped": self._items.dropped + self._workloads.dropped,
        }

    def _rows(self, frame: Frame) -> _Seen:
        old = np.arange(frame.context)
        image = np.concatenate([old, frame.exec_image])
        row = np.concatenate([np.full(len(old), -1, np.int64), np.arange(len(frame.exec_image))])
        rows = frame.images.section.rows[image]
        silent = (row < 0) | ((rows["flags"] & np.uint32(Flag.SNAPSHOT)) != 0)
        keep = ~frame.fitting(self._p["exclude_workloads"])[frame.identity[image]]
        time = frame.batch.wall_ns(rows["time"])
        return _Seen(image[keep], row[keep], time[keep], silent[keep])

    def _phase(self, workload: np.ndarray, seen: _Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each row: executions of its workload before it, beginning of watching (ns), and whether new items are told; counts them."""
        names, code = np.unique(workload, return_inverse=True)
        counted = ~seen.silent
        order = np.argsort(code, kind="stable")
        running = np.cumsum(counted[order]) - counted[order]
        group = np.searchsorted(code[order], np.arange(len(names)))
        rank = np.empty(len(code), np.int64)
        rank[order] = running - running[group][code[order]]
        known = self._workloads.find(names)
        before = self._workloads.column("count", known).astype(np.int64)[code] + rank
        # Watching begins with the first execution that was seen; ancestors and snapshots may be years old.
        start = np.full(len(names), np.iinfo(np.int64).max)
        np.minimum.at(start, code[counted], seen.time[counted])
        last = np.full(len(names), np.iinfo(np.int64).min)
        np.maximum.at(last, code[counted], seen.time[counted])
        since = np.where(known >= 0, self._workloads.column("first", known), start)
        counts = np.bincount(code[counted], minlength=len(names))
        some = counts > 0
        self._workloads.add(names[some], names[some], counts[some], since[some], last[some])
        if counted.any():
            self._newest = max(self._newest, int(seen.time[counted].max()))
        told = counted & self._learned(before, seen.time - since[code])
        return before, since[code], told

    def _learned(self, events: np.ndarray, watched_ns: np.ndarray) -> np.ndarray:
        enough = (events >= self._p["learning_events"]) & (watched_ns >= self._p["learning_seconds"] * _SECOND)
        return enough | (watched_ns >= self._p["quiet_seconds"] * _SECOND)

    def _unknown(self, frame: Frame, kind: _Kind, seen: _Seen, workload: np.ndarray) -> np.ndarray:
        """Positions in `seen` of the first row of every item of a kind that was not known; all items are known afterwards."""
        hashes = frame.exe.hashes()
        exe = hashes[seen.image]
        valid = exe != 0
        if kind is _EXE:
            key = combine(workload, kind.number, exe)
        else:
            parent = frame.ancestors[seen.image, 0]
            parent_exe = hashes[parent]
            valid &= (parent >= 0) & (parent_exe != 0)
            if kind is _PAIR:
                key = combine(workload, kind.number, parent_exe, exe)
            else:
                now, then = _users(frame, seen.image), _users(frame, parent)
                valid &= now != then
                key = combine(workload, kind.number, exe, then, now)
        at = np.flatnonzero(valid)
        keys, first, inverse = np.unique(key[at], return_index=True, return_inverse=True)
        if not len(keys):
            return at
        unknown = at[first[self._items.find(keys) < 0]]
        counts = np.bincount(inverse, weights=~seen.silent[at])
        last = np.full(len(keys), np.iinfo(np.int64).min)
        np.maximum.at(last, inverse, seen.time[at])
        self._items.add(keys, workload[at][first], counts, seen.time[at][first], last)
        return unknown

    def _finding(self, frame: Frame, row: int, kinds: list[_Kind], before: int, since: int) -> Finding:
        event = frame.exec_row(row)
        where, exe = evidence.workload(event), event["exe"]
        ancestors = evidence.ancestry(frame, event["image"])
        parent = evidence.shown(ancestors[-1]) if ancestors else "an unknown parent"
        basis = f"in {before:,} executions since {rfc3339(np.array([since]))[0][:19]}Z"
        user = ""
        sentences = []
        for kind in kinds:
            if kind is _EXE:
                sentences.append(f"{exe} never ran in {where} {basis}.")
            elif kind is _PAIR and _EXE not in kinds:
                sentences.append(f"In {where}, {parent} never started {exe} {basis}.")
            elif kind is _UID:
                was = frame.images.section.rows[event["parent_image"]]
                user = f"{was['uid']}/{was['euid']}→{event['uid']}/{event['euid']}"
                sentences.append(
                    f"In {where}, {exe} never ran as user {event['uid']} (effective {event['euid']}) below a parent with user "
                    f"{was['uid']} (effective {was['euid']}) {basis}; the parent is {parent}."
                )
        place = evidence.place(frame, event)
        if place != f"in {where}":  # what is new is new for the workload; in a cluster it happened in one of its pods
            sentences.append(f"It ran {place}.")
        main = kinds[0]
        texts = {_EXE: exe, _PAIR: f"{ancestors[-1].exe if ancestors else ''}→{exe}", _UID: f"{exe} {user}"}
        confidence = min(0.9, max(0.3, 0.5 + 0.15 * (log10(max(before, 1)) - 2)))
        few = [f"The workload has been watched for only {before:,} executions."] if before < 2000 else []
        verdict = evidence.Verdict(
            key=f"{main.name}:{event['workload']}:{texts[main]}", severity=main.severity, title=f"{main.title}: {texts[main]}",
            techniques=tuple(dict.fromkeys(k.technique for k in kinds)), explanation=sentences, confidence=confidence,
            confidence_reasons=few,
        )  # fmt: skip
        return evidence.finding(frame, row, self.declaration, verdict)


def _users(frame: Frame, image: np.ndarray) -> np.ndarray:
    """Real and effective user of images as one number, u64."""
    rows = frame.images.section.rows
    return (rows["uid"][image].astype(np.uint64) << np.uint64(32)) | rows["euid"][image].astype(np.uint64)
