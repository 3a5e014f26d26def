"""What analytics answers about itself: its status message, /healthz and /readyz.

Responsible for the words; what is so is known by the consumer and its parts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from daemoneye import usage

if TYPE_CHECKING:
    from daemoneye_analytics.consumer import Consumer
    from daemoneye_analytics.lease import Lease

VERSION: Final = version("daemoneye-analytics")
STUCK_S: Final = 120.0
"""A turn takes a second without messages, and whatever waits for the broker tries again after seconds."""


def alive(consumer: Consumer | None) -> dict[str, Any]:
    """Whether something goes on, as it must while there is a connection: the answer of /healthz."""
    still = consumer.progress.still_s if consumer and consumer.connected else 0.0
    stuck = still > STUCK_S
    return {"ok": not stuck, "reason": f"nothing has gone on for {still:.0f} s" if stuck else ""}


def ready(consumer: Consumer | None, leases: Sequence[Lease] = ()) -> dict[str, Any]:
    """Whether it can do its work, and why not: the answer of /readyz. A replica that stands by for others is ready for that."""
    if consumer is None:
        return _stands_by(leases)
    reason = ""
    if not consumer.connected:
        reason = "it has no connection to the broker"
    elif missing := [reader.stream for reader in consumer.readers if not reader.placed]:
        reason = f"it has no consumer on stream {missing[0]} yet"
    # Classes of references and the like are for who looks here; a heartbeat goes to everybody, every few seconds.
    return {"ok": not reason, "reason": reason, **_about(consumer), "details": consumer.pipeline.details()}


def describe(consumer: Consumer) -> dict[str, Any]:
    """The status message."""
    pipeline, progress = consumer.pipeline, consumer.progress
    return {
        **_about(consumer),
        "part": consumer.pipeline.share.part,
        "parts": consumer.pipeline.share.parts,
        "state": "waiting" if consumer.follower and not consumer.follower.configuration else consumer.state,
        "watermarks": consumer.told,
        "findings": pipeline.findings,
        "events": pipeline.events,
        "lag": progress.lag,
        "corrupt": progress.corrupt,
        "ignored": pipeline.ignored,
        "unread": pipeline.counts.unread,
        "newer_schemas": consumer.schemas.status(),
        "refused": consumer.store.refused,
        "detectors": pipeline.status(),
        "suppressed": pipeline.budget.status(),
        "time": time.time_ns(),
        "pid": os.getpid(),
        "self": asdict(usage.now()),
    }


def _stands_by(leases: Sequence[Lease]) -> dict[str, Any]:
    if not leases:
        return {"ok": False, "reason": "it has not reached the broker yet"}
    if not leases[0].connected:
        return {"ok": False, "reason": "it has no connection to the broker"}
    if free := [lease.key for lease in leases if not lease.other]:
        return {"ok": False, "reason": f"it has not got the lease {free[0]} yet, which nobody has"}
    taken = ", ".join(f"{lease.other} has the lease {lease.key}" for lease in leases)
    return {"ok": True, "reason": f"it stands by: {taken}", "version": VERSION}


def _about(consumer: Consumer) -> dict[str, Any]:
    """Its version, and in a cluster the configuration that it runs."""
    about: dict[str, Any] = {"version": VERSION}
    if consumer.follower:
        now = consumer.follower.configuration
        about |= {
            "config": now.hash if now else "",
            "config_error": consumer.follower.error,
            "problems": dict(now.problems) if now else {},
            "unwanted": consumer.pipeline.unwanted,
        }
    return about
