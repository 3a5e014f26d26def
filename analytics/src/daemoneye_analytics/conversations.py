"""One row of the network, told to a person: between whom, whose process it was where that is known, and how far it can be trusted.

Responsible for turning such a row into a `Finding`; used for the few rows that a detector chose. What `daemoneye_analytics.evidence` is for
executions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daemoneye.events.addresses import protocol_name, text
from daemoneye.events.flags import Flag
from daemoneye.events.jsonform import rfc3339
from daemoneye.findings import EventReference, Finding, Subject, finding_id
from daemoneye_analytics.detectors.base import Declaration
from daemoneye_analytics.evidence import SCORES, Verdict, ancestry
from daemoneye_analytics.frame import Frame


def halves(addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of n addresses of 16 bytes as numbers, u64, shape (n,)."""
    both = np.ascontiguousarray(addresses).view(">u8").reshape(-1, 2).astype(np.uint64)
    return both[:, 0], both[:, 1]


def endpoint(address: bytes, port: int | None = None) -> str:
    """An address, with a port if there is one, in a sentence."""
    shown = text(address)
    if port is None:
        return shown
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def finding(frame: Frame, record: str, index: int, declaration: Declaration, verdict: Verdict) -> Finding:
    """The finding about row `index` of `frame.rows(record)`."""
    row = frame.row(record, index)
    fixed = frame.rows(record)[index]
    wall = int(frame.batch.wall_ns(np.array([fixed["time"]]))[0])
    start = int(frame.batch.wall_ns(np.array([fixed["start_time"]]))[0]) if row["pid"] else 0
    src, dst = bytes(row["src_ip"]), bytes(row["dst_ip"])
    proto = protocol_name(int(row["proto"]))
    image = int(row["image"])
    exe = frame.exe.values[frame.exe.codes[image]] if image >= 0 else ""
    pod = frame.pods.of(row["cgroup_id"], row["cgroup_v1_id"])
    ends = f"{endpoint(src, row['src_port'])} {endpoint(dst, row['dst_port'])} {proto}"
    reasons = list(verdict.confidence_reasons)
    confidence = verdict.confidence
    if row["flags"] & Flag.MID_STREAM:
        confidence -= 0.1
        reasons.append("The conversation was there before it was watched: who opened it is a guess by the ports.")
    return Finding(
        id=finding_id(
            detector=declaration.name, version=declaration.version, node=frame.envelope.node, pid=row["pid"], start_ns=start, event_ns=wall,
            key=f"{verdict.key} {ends}",
        ),
        time=rfc3339(np.array([wall]))[0],
        severity=verdict.severity,
        score=SCORES[verdict.severity],
        detector=declaration.name,
        title=verdict.title,
        subject=Subject(
            node=frame.envelope.node, workload=row["workload"], container_id=row["container_id"], pod_uid=row["pod_uid"], pid=row["pid"],
            start_time=rfc3339(np.array([start]))[0] if row["pid"] else "", exe=exe,
            process_uid=f"{row['process_uid']:016x}" if row["pid"] else "", namespace=pod.namespace, pod=pod.name, container=pod.container,
            image=pod.image, labels=dict(pod.labels), owner_kind=pod.owner_kind, owner_name=pod.owner_name,
            src_ip=text(src), src_port=row["src_port"], dst_ip=text(dst), dst_port=row["dst_port"], proto=proto,
        ),
        key=verdict.key,
        techniques=verdict.techniques,
        explanation=tuple(verdict.explanation),
        confidence=round(max(confidence, 0.1), 3),
        confidence_reasons=tuple(reasons),
        events=(EventReference(frame.envelope.node, frame.envelope.epoch, frame.envelope.lane, row["sequence"], record),),
        process_tree=ancestry(frame, image) if image >= 0 else (),
        policies=pod.policies,
    )  # fmt: skip


def who(row: dict[str, Any]) -> str:
    """Who opened a conversation, in a sentence: the workload where it is known, and the address."""
    address = endpoint(bytes(row["src_ip"]))
    return f"{row['workload']} ({address})" if row["workload"] else address
