"""PromQL over declared metrics.

Responsible for selectors: a name, a label or a histogram's suffix that `daemoneye.metrics` does not declare is an error when the dashboards are made, not
an empty panel. Not for what a query computes.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from daemoneye.metrics import Metric

TARGET_LABELS: Final = frozenset({"namespace", "node"})
"""Labels that the scrape adds and queries use; a sensor's series alone carry `node`."""
NODE: Final = 'node=~"$node"'
"""Matcher of the nodes that were chosen, in dashboards that let one choose."""
RATE: Final = "[$__rate_interval]"
RANGE: Final = "[$__range]"

_MATCHER: Final = re.compile(r'([a-z_]+)(?:=~|!~|!=|=)"[^"]*"')


def series(metric: Metric, *matchers: str, suffix: Literal["", "bucket", "sum", "count"] = "") -> str:
    """Selector of a metric's series in the chosen namespace.

    Args:
        metric: What is selected.
        matchers: Further ones, such as ``severity=~"high|critical"``.
        suffix: Which of a histogram's series; empty for counters and gauges.

    Raises:
        ValueError: A label or suffix is not the metric's.
    """
    if bool(suffix) != (metric.kind == "histogram"):
        raise ValueError(f"{metric.name} is a {metric.kind}: suffix {suffix!r}")
    for matcher in matchers:
        found = _MATCHER.fullmatch(matcher)
        if not found or found[1] not in {*metric.labels, *TARGET_LABELS}:
            raise ValueError(f"{metric.name} has the labels {metric.labels}: {matcher}")
    chosen = ", ".join(['namespace="$namespace"', *matchers])
    return f"{metric.name}{'_' if suffix else ''}{suffix}{{{chosen}}}"


def rate(metric: Metric, *matchers: str, by: str = "") -> str:
    """Sum of a counter's rates a second, by labels such as ``node, stage``."""
    return f"sum{_by(metric, by)} (rate({series(metric, *matchers)}{RATE}))"


def increase(metric: Metric, *matchers: str, by: str = "") -> str:
    """How much a counter rose in the dashboard's time range."""
    return f"sum{_by(metric, by)} (increase({series(metric, *matchers)}{RANGE}))"


def gauge(metric: Metric, *matchers: str, by: str = "", how: Literal["sum", "max", "min"] = "sum") -> str:
    """A gauge, joined over what is not in `by`."""
    return f"{how}{_by(metric, by)} ({series(metric, *matchers)})"


def buckets(metric: Metric, *matchers: str, by: str = "") -> str:
    """A histogram's buckets as rates, for quantiles and heatmaps."""
    grouped = _by(metric, f"le, {by}" if by else "le")
    return f"sum{grouped} (rate({series(metric, *matchers, suffix='bucket')}{RATE}))"


def quantile(share: float, metric: Metric, *matchers: str, by: str = "") -> str:
    """A histogram's quantile, such as 0.99."""
    return f"histogram_quantile({share}, {buckets(metric, *matchers, by=by)})"


def _by(metric: Metric, labels: str) -> str:
    wanted = [label.strip() for label in labels.split(",") if label.strip()]
    strangers = {*wanted} - {*metric.labels, *TARGET_LABELS} - ({"le"} if metric.kind == "histogram" else set())
    if strangers:
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {sorted(strangers)}")
    return f" by ({', '.join(wanted)})" if wanted else ""
