"""Batches for tests: executions described by keyword, joined with their parents, cgroups and context as a sensor would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events.base import derive
from daemoneye.events.codec import Section, section_of
from daemoneye.events.registry import BY_NAME

OFFSET = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Exec:
    """One execution; times in seconds of the boot clock."""

    exe: bytes = b"/usr/bin/true"
    pid: int = 100
    start: float = 1.0
    time: float = 10.0
    ppid: int = 1
    pstart: float = 0.5
    argv: Sequence[bytes] = ()
    flags: int = 0
    uid: int = 0
    euid: int | None = None
    cgroup: int = 1
    more: dict[str, Any] = field(default_factory=dict)


def execs(rows: Sequence[Exec], *, context: bool = False) -> Section:
    heap = {
        "exe": [r.exe for r in rows],
        "argv": [b"".join(a + b"\0" for a in (r.argv or (r.exe,))) for r in rows],
        "filename": [r.more.get("filename", r.exe) for r in rows],
    }
    section = section_of(
        BY_NAME["process_exec"],
        {
            "time": [int(r.time * SECOND) for r in rows], "event": 1, "flags": [int(r.flags) for r in rows],
            "pid": [r.pid for r in rows], "tid": [r.pid for r in rows], "start_time": [int(r.start * SECOND) for r in rows],
            "ppid": [r.ppid for r in rows], "parent_start_time": [int(r.pstart * SECOND) for r in rows],
            "uid": [r.uid for r in rows], "euid": [r.uid if r.euid is None else r.euid for r in rows],
            "cgroup_id": [r.cgroup for r in rows],
            **{name: [r.more.get(name, 0) for r in rows] for name in ("tty", "exe_uid", "gid", "egid", "cap_permitted")},
            **heap,
        },
        len(rows), context=context,
    )  # fmt: skip
    derive(section.record, section.rows)
    return section


def cgroups(workloads: dict[int, bytes], containers: dict[int, bytes] | None = None) -> Section:
    ids = list(workloads)
    return section_of(
        BY_NAME["cgroup_identity"],
        {
            "cgroup_id": ids, "state": [2] * len(ids), "workload": [workloads[i] for i in ids],
            "container_id": [(containers or {}).get(i, b"") for i in ids],
        },
        len(ids), context=True,
    )  # fmt: skip


def pods(known: dict[int, dict[str, Any]]) -> Section:
    """pod_identity by cgroup: texts, `policies` as names and `labels` as a table."""
    texts = ("image", "namespace", "pod", "container", "owner_kind", "owner_name", "service_account")
    return section_of(
        BY_NAME["pod_identity"],
        {
            "cgroup_id": list(known),
            "policies": [b"".join(p.encode() + b"\0" for p in about.get("policies", ())) for about in known.values()],
            "labels": [
                b"".join(f"{k}={v}".encode() + b"\0" for k, v in about.get("labels", {}).items()) for about in known.values()
            ],
            **{name: [about.get(name, "").encode() for about in known.values()] for name in texts},
        },
        len(known), context=True,
    )  # fmt: skip


CHECKOUT: dict[str, Any] = {
    "namespace": "shop", "pod": "checkout-7d9f", "container": "app", "image": "shop/checkout:1.2", "owner_kind": "Deployment",
    "owner_name": "checkout", "labels": {"app": "checkout", "tier": ""}, "policies": ("everywhere", "shop"),
}  # fmt: skip
WORKLOAD = b"shop/Deployment/checkout/app"
INIT = Exec(exe=b"/usr/lib/systemd/systemd", pid=1, start=0.5, time=0.6, ppid=0, pstart=0, argv=(b"/sbin/init",))


def batch(
    rows: Sequence[Exec],
    *,
    context: Sequence[Exec] = (INIT,),
    first: int = 0,
    workloads: dict[int, bytes] | None = None,
    containers: dict[int, bytes] | None = None,
    sections: Iterable[Section] = (),
    **about: Any,
) -> Batch:
    """A batch that went over the wire once."""
    return envelope.decode(
        message(
            rows, context=context, first=first, workloads=workloads, containers=containers, sections=sections, **about
        )
    )


def message(
    rows: Sequence[Exec],
    *,
    context: Sequence[Exec] = (INIT,),
    first: int = 0,
    workloads: dict[int, bytes] | None = None,
    containers: dict[int, bytes] | None = None,
    sections: Iterable[Section] = (),
    **about: Any,
) -> bytes:
    """The same as bytes."""
    fields: dict[str, Any] = {
        "node": "n1", "boot_id": "b", "epoch": 7, "lane": "urgent", "clock_offset_ns": OFFSET,
        "first_time": int(min((r.time for r in rows), default=0) * SECOND),
        "last_time": int(max((r.time for r in rows), default=0) * SECOND),
    } | about  # fmt: skip
    made = [execs(rows)] if rows else []
    if context:
        made.append(execs(context, context=True))
    made.append(cgroups(workloads if workloads is not None else {1: b"host/systemd/web.service"}, containers))
    return envelope.encode(Envelope(first_sequence=first, rows=0, **fields), [*made, *sections])


def losses(
    *, first: int, count: int, lane: bytes = b"urgent", epoch: int = 7, stage: bytes = b"spool", time: float = 5.0
) -> Section:
    return section_of(
        BY_NAME["loss"],
        {
            "time": [int(time * SECOND)], "since": [int(time * SECOND)], "count": [count], "first_sequence": np.array([first], np.uint64),
            "epoch": [epoch], "stage": [stage], "lane": [lane],
        },
        1,
    )  # fmt: skip
