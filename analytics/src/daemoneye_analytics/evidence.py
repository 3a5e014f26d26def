"""One row of a frame, told to a person: subject, ancestors, reference, and how far it can be trusted.

Responsible for turning a row into a `Finding`; used for the few rows that a detector chose, so plain Python is right here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from daemoneye.events.flags import Flag
from daemoneye.events.jsonform import rfc3339, split_argv
from daemoneye.findings import EventReference, Finding, Process, Subject, Technique, finding_id
from daemoneye_analytics.detectors.base import Declaration
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pods import Pod

SCORES: Final = {"informational": 0.1, "low": 0.3, "medium": 0.5, "high": 0.8, "critical": 0.95}
"""Score of a deterministic finding by its severity."""
_AROUND_NS: Final = 10_000_000_000
_FLOOR: Final = 0.1
_DOUBTS: Final = (
    (Flag.STRINGS_TRUNCATED, 0.2, "Parts of the process's paths or arguments were lost on their way."),
    (Flag.PATH_TRUNCATED, 0.1, "The beginning of a path is missing."),
    (Flag.ARGV_TRUNCATED, 0.05, "The arguments are longer than what was kept of them."),
    (Flag.ARGV_UNREADABLE, 0.05, "The arguments could not be read."),
    (Flag.SNAPSHOT, 0.05, "The process was already running when the sensor started; its start was not seen."),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a detector says about one row; see `Finding` for the words."""

    key: str
    severity: str
    title: str
    techniques: tuple[Technique, ...]
    explanation: Sequence[str]
    confidence: float
    confidence_reasons: Sequence[str] = ()


def finding(frame: Frame, row: int, declaration: Declaration, verdict: Verdict) -> Finding:
    """The finding about new execution `row`."""
    event = frame.exec_row(row)
    wall = int(frame.exec_time[row])
    start = int(frame.batch.wall_ns(frame.exec_rows["start_time"][row : row + 1])[0])
    # What was read at the sensor's start is dated by its process: the next start reads the same process again.
    dated = start if event["flags"] & Flag.SNAPSHOT else wall
    confidence, reasons = _confidence(frame, event, wall, verdict.confidence)
    pod = frame.pods.of(event["cgroup_id"], event["cgroup_v1_id"])
    return Finding(
        id=finding_id(
            detector=declaration.name, version=declaration.version, node=frame.envelope.node, pid=event["pid"], start_ns=start,
            event_ns=dated, key=verdict.key,
        ),
        time=_rfc3339(wall),
        severity=verdict.severity,
        score=SCORES[verdict.severity],
        detector=declaration.name,
        title=f"{verdict.title}, {place(frame, event)}" if pod.name else verdict.title,
        subject=subject(frame, event, start, pod, exe=event["exe"], argv=tuple(event["argv"])),
        key=verdict.key,
        techniques=verdict.techniques,
        explanation=tuple(verdict.explanation),
        confidence=round(confidence, 3),
        confidence_reasons=(*verdict.confidence_reasons, *reasons),
        events=(
            EventReference(
                frame.envelope.node, frame.envelope.epoch, frame.envelope.lane, event["sequence"], "process_exec"
            ),
        ),
        process_tree=(*ancestry(frame, event["image"]), Process(event["pid"], event["exe"], tuple(event["argv"]))),
        # All that the cgroup belongs to; which of them want this detector is decided where the configuration is known.
        policies=pod.policies,
    )  # fmt: skip


def subject(frame: Frame, event: dict[str, Any], start: int, pod: Pod, **more: Any) -> Subject:
    """Whom a finding about a row is about; `start` is when its process, if it has one, began (ns since 1970), `more` what only some rows know."""
    return Subject(
        node=frame.envelope.node, workload=event["workload"], container_id=event["container_id"], pod_uid=event["pod_uid"], pid=event["pid"],
        start_time=_rfc3339(start) if event["pid"] else "", process_uid=f"{event['process_uid']:016x}" if event["pid"] else "",
        namespace=pod.namespace, pod=pod.name, container=pod.container, image=pod.image, labels=dict(pod.labels), owner_kind=pod.owner_kind,
        owner_name=pod.owner_name, **more,
    )  # fmt: skip


def ancestry(frame: Frame, image: int) -> tuple[Process, ...]:
    """The known ancestors of an image, oldest first."""
    return tuple(process(frame, i) for i in reversed(frame.ancestors[image].tolist()) if i >= 0)


def process(frame: Frame, image: int) -> Process:
    """The process of an image, with what it was called with."""
    section = frame.images.section
    argv_at, argv_length = section.column("argv")
    return Process(
        int(section.rows["pid"][image]),
        frame.exe.values[frame.exe.codes[image]],
        tuple(split_argv(section.heap[argv_at[image] : argv_at[image] + argv_length[image]].tobytes())),
    )


def shown(process: Process) -> str:
    """A process in a sentence: `/usr/sbin/nginx (pid 812)`."""
    return f"{process.exe or 'a program whose name was lost'} (pid {process.pid})"


def workload(event: dict[str, Any]) -> str:
    """The workload in a sentence."""
    return event["workload"] or "an unknown workload"


def place(frame: Frame, event: dict[str, Any]) -> str:
    """Where it happened, in a sentence: `in container app of pod shop/checkout-7d9f (Deployment checkout)`, else the workload."""
    pod = frame.pods.of(event["cgroup_id"], event["cgroup_v1_id"])
    if not pod.name:
        return f"in {workload(event)}"
    container = f"container {pod.container} of " if pod.container else ""
    owner = f" ({pod.owner_kind} {pod.owner_name})" if pod.owner_name and pod.owner_kind not in ("", "Pod") else ""
    return f"in {container}pod {pod.namespace}/{pod.name}{owner}"


def _confidence(frame: Frame, event: dict[str, Any], wall: int, confidence: float) -> tuple[float, list[str]]:
    reasons = []
    for flag, weight, reason in _DOUBTS:
        if event["flags"] & flag:
            confidence -= weight
            reasons.append(reason)
    if event["parent_image"] < 0 and event["ppid"]:
        confidence -= 0.1
        reasons.append("The parent process is not known.")
    if event["identity"] < 2:
        confidence -= 0.1 if event["identity"] == 0 else 0.05
        reasons.append(
            "The workload is not known." if event["identity"] == 0 else "The workload is known only in part."
        )
    spans = frame.loss_spans
    if len(spans) and bool(((spans[:, 0] - _AROUND_NS <= wall) & (wall <= spans[:, 1] + _AROUND_NS)).any()):
        confidence -= 0.1
        reasons.append("Records of this node were lost around that time.")
    return max(_FLOOR, min(1.0, confidence)), reasons


def _rfc3339(wall_ns: int) -> str:
    return rfc3339(np.array([wall_ns]))[0]
