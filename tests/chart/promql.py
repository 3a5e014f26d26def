"""What a PromQL expression names.

Responsible for finding metrics and labels in it; whether it is PromQL at all, promtool says.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Final

from daemoneye import metrics
from daemoneye.metrics import Metric

TARGET_LABELS: Final = {"namespace", "instance", "node"}
"""Labels of every target, and of sensors' (PodMonitor)."""
_SERIES: Final = re.compile(r"(?<![\w:])(daemoneye_\w+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPED: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAMES: Final = {
    f"{metric.name}{suffix}": metric
    for metric in metrics.ALL.values()
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def promtool() -> str:
    """Path of Debian's promtool."""
    path = shutil.which("promtool")
    assert path, "promtool is missing: scripts/setup.sh tests installs it (package prometheus)"
    return path


def selected(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Names of series and labels that are matched."""
    for name, matchers in _SERIES.findall(expr):
        yield name, set(_MATCHER.findall(matchers))


def used(expr: str) -> set[str]:
    """Names of declared metrics in it."""
    return {_NAMES[name].name for name, _ in selected(expr) if name in _NAMES}


def wrong(expr: str) -> list[str]:
    """What is declared nowhere: series, and labels that are matched or grouped by."""
    found = []
    known: set[str] = set(TARGET_LABELS)
    for name, labels in selected(expr):
        metric: Metric | None = _NAMES.get(name)
        if metric is None:
            found.append(name)
            continue
        own = {*metric.labels, *TARGET_LABELS} | ({"le"} if metric.kind == "histogram" else set())
        found += [f"{name}: {label}" for label in sorted(labels - own)]
        known |= own
    grouped = {label.strip() for inside in _GROUPED.findall(expr) for label in inside.split(",") if label.strip()}
    return [*found, *sorted(grouped - known)]
