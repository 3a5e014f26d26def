"""`/metrics`: what a component's samples look like to Prometheus.

Responsible for turning declared metrics and their values into the text exposition format, by prometheus-client; not for what they count nor for HTTP
(:mod:`daemoneye.health`). Values are asked for when somebody scrapes: between two scrapes nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from daemoneye import metrics, usage
from daemoneye.metrics import Metric, Sample

_FAMILIES: Final = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_STARTED: Final = time.time()

# Half as many series again for histograms, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


def histogram(metric: Metric) -> Histogram:
    """Something to `observe` with; it is shown by the `Exposition` that is given it."""
    return Histogram(metric.name, metric.help, buckets=metric.buckets, registry=None)


class Exposition:
    """One component's page."""

    def __init__(
        self,
        component: str,
        version: str,
        samples: Callable[[], Iterable[Sample]],
        histograms: Iterable[Histogram] = (),
    ) -> None:
        """`samples` is called in the thread that asks for the page, at each scrape."""
        self._component = component
        self._version = version
        self._samples = samples
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self._all))
        for each in histograms:
            self._registry.register(each)

    def page(self) -> bytes:
        """The page in the text format (version 0.0.4)."""
        return generate_latest(self._registry)

    def _all(self) -> Iterator[Sample]:
        yield metrics.BUILD_INFO(1, self._component, self._version)
        now = usage.now()
        yield metrics.PROCESS_START(_STARTED, self._component)
        yield metrics.PROCESS_CPU(now.cpu_s, self._component)
        yield metrics.PROCESS_RSS(now.rss_bytes, self._component)
        yield metrics.PROCESS_PEAK(now.peak_bytes, self._component)
        yield metrics.PROCESS_WAKEUPS(now.wakeups, self._component)
        yield from self._samples()


class _Collector(Collector):
    """Samples as families: prometheus-client wants all samples of one metric together."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Family]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._samples():
            metric = sample.metric
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
            family.add_metric(sample.labels, sample.value)
        return families.values()
