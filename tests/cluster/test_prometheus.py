"""The distribution's Prometheus scrapes the installed chart: every target is up, every panel's and alert's query is answered, and with data where
something happened.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import panels
from tests.cluster.harness import binaries
from tests.cluster.harness.cluster import NODE
from tests.cluster.prometheus import Discovery, Prometheus, running
from tests.cluster.release import CHART, Release, wait

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
PICTURE_S = 120.0
MONITORING = tuple(f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"))
VARIABLES = {
    "__rate_interval": "20s", "__range": "5m", "__interval": "5s", "datasource": "", "namespace": "daemoneye", "node": ".*",
    "component": ".*",
}  # fmt: skip


def rendered(release: Release) -> list[dict[str, Any]]:
    """The chart's objects as a cluster with the Prometheus operator gets them."""
    sets = [word for value in release.values() for word in ("--set", value)]
    apis = [word for api in MONITORING for word in ("--api-versions", api)]
    helm = binaries.tool("helm")
    done = subprocess.run(
        [helm, "template", release.name, CHART, "--namespace", release.namespace, "--kube-version", "1.34.4", *sets, *apis],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [obj for obj in yaml.safe_load_all(done.stdout) if obj]


@pytest.fixture(scope="module")
def monitored(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the chart's monitors and rules, after something happened."""
    objects = rendered(release)
    (rule,) = (obj for obj in objects if obj["kind"] == "PrometheusRule")
    rules = {"daemoneye.yaml": yaml.safe_dump({"groups": rule["spec"]["groups"]})}
    release.policy("default", networkMonitoring={"enablePacketCapture": True, "captureInterface": "auto"})
    release.wait_ready("default")
    directory = tmp_path_factory.mktemp("prometheus")
    discovery = Discovery(release, objects, directory)
    with (
        running(directory, discovery, rules) as prometheus,
        release.namespace_of_tests("metered") as namespace,
    ):

        def all_up() -> bool:
            """Whether every target is: pods of the values before may have been about to go at the first look."""
            discovery.refresh()
            return _all_up(prometheus)

        wait("every target", all_up)
        wait("the sensor at work", lambda: prometheus.query("daemoneye_sensor_programs_loaded == 1"))
        with release.pod("noisy", namespace, "fileless"), release.pod("busy", namespace, "spawn", "500"):
            wait("Finding", lambda: release.findings(namespace, pod="noisy"))
            wait(
                "the finding in the metrics",
                lambda: prometheus.query(
                    'increase(daemoneye_operator_findings_total{severity=~"high|critical"}[1m]) > 0'
                ),
            )
            if "DAEMONEYE_PICTURES" in os.environ:
                _live(release, namespace, PICTURE_S)
            yield prometheus


def _all_up(prometheus: Prometheus) -> bool:
    """Whether there are targets, and all of them are up."""
    targets = prometheus.targets()
    return bool(targets) and all(health == "up" for health in targets.values())


def _live(release: Release, namespace: str, seconds: float) -> None:
    """Something to see in the docs' pictures: pods that come, do something and go."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        what = ("fileless",) if number % 3 == 0 else ("spawn", str(200 * (1 + number % 5)))
        with release.pod(f"busy-{number}", namespace, *what):
            pass


def test_every_target_is_up_and_nothing_is_missing(monitored: Prometheus):
    wait("all targets up", lambda: _all_up(monitored))
    shown = {series["metric"]["component"] for series in monitored.query("daemoneye_build_info")}
    assert shown == {"sensor", "operator", "identity", "analytics", "callout"}
    (sensor,) = monitored.query('daemoneye_build_info{component="sensor"}')
    assert sensor["metric"]["node"] == NODE


def test_a_sensor_shows_at_most_150_series(monitored: Prometheus):
    (count,) = monitored.query('count by (pod) ({__name__=~"daemoneye_.*", node!=""})')
    assert 40 < int(count["value"][1]) <= 150


def test_what_happened_is_counted(monitored: Prometheus):
    # Each target is asked at its own time.
    for told in (
        'daemoneye_operator_sensors{state="desired"} == 1',
        'daemoneye_operator_sensors{state="ready"} == 1',
        'daemoneye_operator_policies{ready="True"} == 1',
        'sum(daemoneye_sensor_events_total{lane="urgent"}) > 500',
        "sum(daemoneye_analytics_events_total) > 500",
        'sum(daemoneye_analytics_findings_total{severity=~"high|critical"}) >= 1',
        "sum(daemoneye_analytics_finding_delay_seconds_count) >= 1",
    ):
        wait(told, partial(monitored.query, told))
    assert monitored.query("daemoneye_process_broker_connected == 0") == []
    assert monitored.query("sum(daemoneye_sensor_lost_total) == 0")
    days = monitored.query("(daemoneye_operator_certificate_expiry_timestamp_seconds - time()) / 86400 > 14")
    assert {series["metric"]["certificate"] for series in days} == {"ca", "server"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_is_answered(monitored: Prometheus, path: Path):
    """With data, but for panels that say themselves that nothing is no fault (`noValue` none)."""
    empty = []
    for panel in panels.load(path)["panels"]:
        silent = panel.get("fieldConfig", {}).get("defaults", {}).get("noValue") == "none"
        for expression, _ in panels.expressions(panel, VARIABLES):
            assert not re.search(r"\$\{?\w", expression), f"{panel['title']}: a variable is left: {expression}"
            if not wait_for_data(monitored, expression, 0 if silent else 120) and not silent:
                empty.append((panel["title"], expression))
    assert not empty


def wait_for_data(prometheus: Prometheus, expression: str, seconds: float) -> bool:
    """Rates need two scrapes, and the operator looks at the broker every half a minute."""

    def found() -> bool:
        return bool(prometheus.query(expression) or prometheus.query_range(expression, 120, 2))

    try:
        return wait(expression, found, seconds, every=1.0)
    except AssertionError:
        return found()


def test_every_rule_evaluates_and_the_finding_alerts(monitored: Prometheus):
    def rules() -> dict[str, Any]:
        groups = monitored.ask("rules")["data"]["groups"]
        found = {rule["name"]: rule for group in groups for rule in group["rules"]}
        return found if all(rule["health"] != "unknown" for rule in found.values()) else {}

    evaluated = wait("every rule evaluated", rules)
    assert {name: rule["lastError"] for name, rule in evaluated.items() if rule["health"] != "ok"} == {}
    fired = wait(
        "the finding's alert",
        lambda: [
            alert
            for alert in monitored.ask("alerts")["data"]["alerts"]
            if alert["labels"]["alertname"] == "DaemonEyeHighSeverityFinding" and alert["state"] == "firing"
        ],
    )
    assert fired[0]["annotations"]["summary"]
    assert fired[0]["annotations"]["runbook_url"].endswith("DaemonEyeHighSeverityFinding.md")
    firing = {
        alert["labels"]["alertname"]
        for alert in monitored.ask("alerts")["data"]["alerts"]
        if alert["state"] == "firing"
    }
    assert firing == {"DaemonEyeHighSeverityFinding"}, "nothing else is wrong"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_picture_can_be_drawn(monitored: Prometheus, path: Path, tmp_path: Path):
    """DAEMONEYE_PICTURES names a directory that keeps them, for the docs."""
    picture = tmp_path / f"dashboard-{path.stem}.png"
    panels.picture(panels.load(path), monitored, VARIABLES, PICTURE_S, picture)
    assert picture.stat().st_size > 10_000
    if keep := os.environ.get("DAEMONEYE_PICTURES"):
        shutil.copy(picture, keep)


def test_without_prometheus_nothing_is_amiss(release: Release):
    """Nobody scrapes by now, and the chart was installed on a cluster that knows no monitor: that is no trouble to anybody."""
    release.wait_ready("default")
    for component in ("operator", "identity", "analytics", "sensor"):
        for pod in release.items("pods", release.namespace, f"app.kubernetes.io/component={component}"):
            assert all(c["ready"] and c["restartCount"] == 0 for c in pod["status"]["containerStatuses"]), component
