"""Analytics' metrics, out of what its parts count anyway.

Responsible for which counter is which metric; their names are declared in `daemoneye.metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from daemoneye import metrics
from daemoneye.metrics import Sample
from daemoneye.subjects import SEVERITIES
from daemoneye_analytics.consumer import Consumer
from daemoneye_analytics.pipeline import OTHER


def samples(consumer: Consumer | None, detectors: Collection[str]) -> Iterator[Sample]:
    """Everything but the histograms; nothing is counted before there is a consumer.

    `detectors` are those that there are, for whom series exist from the start; findings that name another one count as `other`'s, for the name
    of a finding's detector is what its code says.
    """
    yield metrics.BROKER_CONNECTED(consumer is not None and consumer.connected, "analytics")
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
    yield metrics.ANALYTICS_REFUSED(consumer.store.refused)
    yield metrics.ANALYTICS_CORRUPT(progress.corrupt)
    yield metrics.ANALYTICS_IGNORED(pipeline.ignored)
    for stage, count in counts.lost.items():
        yield metrics.ANALYTICS_LOST(count, stage)
    yield metrics.ANALYTICS_LAG(progress.lag)
    yield metrics.ANALYTICS_BEHIND(progress.behind_s)
    for name in detectors:
        yield metrics.ANALYTICS_DETECTOR_SECONDS(counts.seconds[name], name)
        yield metrics.ANALYTICS_DETECTOR_ERRORS(counts.errors[name], name)
    yield metrics.ANALYTICS_NODES(pipeline.watermarks.nodes)
    yield metrics.ANALYTICS_CHECKPOINT(progress.unsaved_s)
    configuration = consumer.follower.configuration if consumer.follower else None
    yield metrics.ANALYTICS_PROBLEMS(len(configuration.problems) if configuration else 0)
