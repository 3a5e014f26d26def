"""Analytics' metrics, out of what its parts count anyway.

Responsible for which counter is which metric; their names are declared in `daemoneye.metrics`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from daemoneye import metrics
from daemoneye.metrics import Sample
from daemoneye.subjects import SEVERITIES
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.behaviour.lives import Phase
from daemoneye_analytics.behaviour.shape import OUTCOMES as FITTED
from daemoneye_analytics.consumer import Consumer
from daemoneye_analytics.lease import Lease
from daemoneye_analytics.pipeline import OTHER
from daemoneye_analytics.vault.arming import Arming
from daemoneye_analytics.vault.door import OUTCOMES, Door


def samples(
    consumer: Consumer | None,
    detectors: Collection[str],
    arming: Arming | None = None,
    door: Door | None = None,
    leases: Sequence[Lease] = (),
) -> Iterator[Sample]:
    """Everything but the histograms; nothing is counted before there is a consumer, and who stands by has none.

    Without evidence `arming` and `door` are None; without replicas there are no `leases`.
    `detectors` are those that there are, for whom series exist from the start; findings that name another one count as `other`'s, for the name
    of a finding's detector is what its code says.
    """
    about = consumer or next(iter(leases), None)
    yield metrics.BROKER_CONNECTED(about is not None and about.connected, "analytics")
    for lease in leases:
        yield metrics.ANALYTICS_OWNED(consumer is not None and lease.holds(), str(lease.part))
    if not leases:
        yield metrics.ANALYTICS_OWNED(consumer is not None, "0")
    if consumer is None:
        return
    progress, pipeline = consumer.progress, consumer.pipeline
    counts = pipeline.counts
    yield metrics.ANALYTICS_EVENTS(counts.events)
    found = Counter({(name, severity): 0 for name in detectors for severity in SEVERITIES})
    for (name, severity), count in progress.stored.items():
        found[name if name in detectors else OTHER, severity] += count
    for (name, severity), count in found.items():
        yield metrics.ANALYTICS_FINDINGS(count, name, severity)
    yield metrics.ANALYTICS_UNWANTED(counts.unwanted)
    yield metrics.ANALYTICS_SUPPRESSED(pipeline.budget.total, "budget")
    yield metrics.ANALYTICS_SUPPRESSED(pipeline.cooled, "cooldown")
    yield metrics.ANALYTICS_REFUSED(consumer.store.refused)
    yield metrics.ANALYTICS_CORRUPT(progress.corrupt)
    yield metrics.ANALYTICS_IGNORED(pipeline.ignored)
    yield metrics.ANALYTICS_UNREAD(counts.unread)
    for stage, count in counts.lost.items():
        yield metrics.ANALYTICS_LOST(count, stage)
    yield metrics.ANALYTICS_LAG(progress.lag)
    yield metrics.ANALYTICS_BEHIND(progress.behind_s)
    for name in detectors:
        yield metrics.ANALYTICS_DETECTOR_SECONDS(counts.seconds[name], name)
        yield metrics.ANALYTICS_DETECTOR_ERRORS(counts.errors[name], name)
    yield from _behaviour(pipeline.status().get(BehavioralAnomaly.declaration.name, {}), time.time())
    for outcome in ("asked", "shared", "skipped"):
        yield metrics.ANALYTICS_EVIDENCE(getattr(arming, outcome, 0), outcome)
    for outcome in dict.fromkeys((*OUTCOMES.values(), "failed")):
        yield metrics.ANALYTICS_EVIDENCE_ANSWERS(door.answers[outcome] if door else 0, outcome)
    yield metrics.ANALYTICS_NODES(sum(map(pipeline.share.node, pipeline.watermarks.nodes)))
    yield metrics.ANALYTICS_CHECKPOINT(progress.unsaved_s)
    configuration = consumer.follower.configuration if consumer.follower else None
    yield metrics.ANALYTICS_PROBLEMS(len(configuration.problems) if configuration else 0)


def _behaviour(status: Mapping[str, Any], now: float) -> Iterator[Sample]:
    """Of the behavioural analyser's status; all 0, and no model, where it does not run."""
    counted = status.get("counted", {})
    yield metrics.ANALYTICS_EXECUTIONS(counted.get("executions", 0))
    yield metrics.ANALYTICS_WINDOWS(counted.get("judged", 0), "sufficient")
    yield metrics.ANALYTICS_WINDOWS(counted.get("insufficient", 0), "insufficient")
    yield metrics.ANALYTICS_ALARMS(counted.get("alarms", 0))
    yield metrics.ANALYTICS_NOMINAL(counted.get("nominal", 0))
    for phase in Phase:
        yield metrics.ANALYTICS_WORKLOADS(status.get("phases", {}).get(phase, 0), phase)
    references = status.get("references", {}).values()
    yield metrics.ANALYTICS_REFERENCES(sum(r["calibrated"] for r in references), "sufficient")
    yield metrics.ANALYTICS_REFERENCES(sum(r["insufficient"] for r in references), "insufficient")
    for table in ("items", "contexts"):
        yield metrics.ANALYTICS_ITEMS(status.get(table, 0), table)
    for name, model in status.get("models", {}).items():
        yield metrics.ANALYTICS_MODEL(model["model"], name)
        yield metrics.ANALYTICS_MODEL_AGE(max(0.0, now - model["trained_ns"] / 1e9) if model["trained_ns"] else 0, name)
        for outcome in FITTED:
            yield metrics.ANALYTICS_MODEL_OUTCOMES(model["counted"][outcome], name, outcome)
