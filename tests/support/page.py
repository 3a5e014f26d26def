"""A component's port as a scraper and a kubelet see it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from daemoneye import metrics


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def probe(port: int, path: str) -> tuple[int, str]:
    """Status and reason of /healthz or /readyz."""
    status, body = fetch(port, path)
    return status, json.loads(body)["reason"] if body else ""


class Page:
    """One look at /metrics."""

    def __init__(self, port: int) -> None:
        status, body = fetch(port, "/metrics")
        assert status == 200, body
        self.families = {family.name: family for family in text_string_to_metric_families(body.decode())}
        self.series = sum(not line.startswith(b"#") for line in body.splitlines())

    def of(self, metric: metrics.Metric, *labels: str, part: str = "") -> float:
        """A value; of a histogram its `part` `count` or `sum`."""
        name = metric.name + (f"_{part}" if part else "")
        wanted = dict(zip(metric.labels, labels, strict=True))
        family = self.families[metric.name.removesuffix("_total")]
        (value,) = (sample.value for sample in family.samples if sample.name == name and sample.labels == wanted)
        return value

    def by(self, metric: metrics.Metric) -> dict[str, Any]:
        """Values by the metric's only label."""
        (label,) = metric.labels
        family = self.families[metric.name.removesuffix("_total")]
        return {sample.labels[label]: sample.value for sample in family.samples}

    def shows_all_of(self, component: str) -> None:
        """It holds what is declared for the component and for all of them, each of its kind, and nothing else."""
        declared: Iterable[metrics.Metric] = metrics.ALL.values()
        wanted = {m.name.removesuffix("_total"): m.kind for m in declared if m.component in ("", component)}
        assert {name: family.type for name, family in self.families.items()} == wanted
        common = [m for m in metrics.ALL.values() if not m.component and "component" in m.labels]
        for metric in common:
            (sample,) = self.families[metric.name.removesuffix("_total")].samples
            assert sample.labels["component"] == component
