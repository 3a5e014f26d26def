"""The sensor's heartbeat: what it says of itself, every few seconds and at once when something changed.

Responsible for what stands in it; when it is sent is its callers' affair.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from dataclasses import asdict
from functools import cache
from typing import Any

from daemoneye import usage
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.pipeline import Pipeline, spool_status
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.spool import Spool


def compose(
    state: str,
    settings: Settings,
    publisher: Publisher,
    pipeline: Pipeline | None,
    *,
    losses: Losses,
    spool: Spool | None = None,
    error: str = "",
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One heartbeat; `spool` counts where there is no pipeline (yet), `config` is the answer to the broker's configuration, if that is followed."""
    stats = publisher.stats
    return {
        "state": state, "component": "sensor", "version": version(), "time": time.time_ns(), "pid": os.getpid(),
        **(_idle(settings, spool) if pipeline is None else pipeline.status()), "lost": dict(losses.counts), "error": error,
        "published": {"batches": stats.published, "refused": stats.refused, "retries": stats.retries, "bytes": stats.bytes},
        "broker": {"connected": publisher.connected, "last_error": publisher.last_error},
        "self": asdict(usage.now()),
        **({} if config is None else {"config": config}),
    }  # fmt: skip


@cache
def version() -> str:
    """Version of the sensor."""
    try:
        return importlib.metadata.version("daemoneye-sensor")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _idle(settings: Settings, spool: Spool | None) -> dict[str, Any]:
    """What a pipeline would say that reads nothing."""
    return {
        "node": settings.node, "events": 0, "sequences": {}, "epoch": 0, "boot_id": "", "source": {"name": settings.source},
        "spool": spool_status(spool, 0),
    }  # fmt: skip
