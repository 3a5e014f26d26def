"""Dashboards as Grafana gets them: their form, and that every query asks for what is declared."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from daemoneye import metrics
from daemoneye_operator.dashboards import DASHBOARDS, queries
from daemoneye_operator.dashboards.queries import gauge, quantile, rate, series
from tests.chart.chart import CHART
from tests.chart.promql import promtool, selected, used, wrong

FILES = sorted((CHART / "dashboards").glob("*.json"))
EACH = pytest.mark.parametrize(
    "dashboard", [json.loads(path.read_text()) for path in FILES], ids=[p.stem for p in FILES]
)
UNITS = {"none", "short", "s", "d", "bytes", "binBps", "percentunit", "eps", "ops", "reqps", "wps", "dtdurations"}


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard):
    return [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]


def test_files_are_those_that_are_declared():
    assert (
        {path.stem for path in FILES}
        == {dashboard.name for dashboard in DASHBOARDS}
        == {"overview", "nodes", "network", "findings", "analytics"}
    )
    assert {(name, expr) for name, _, expr in queries()} == {
        (path.stem, expr) for path in FILES for expr in expressions(json.loads(path.read_text()))
    }


def test_uids_and_titles_are_unique_and_stable():
    found = {json.loads(path.read_text())["uid"]: json.loads(path.read_text())["title"] for path in FILES}
    # Links and bookmarks go by them: never change one.
    assert found == {
        "daemoneye-overview": "DaemonEye / Overview",
        "daemoneye-nodes": "DaemonEye / Nodes",
        "daemoneye-network": "DaemonEye / Network",
        "daemoneye-findings": "DaemonEye / Findings",
        "daemoneye-analytics": "DaemonEye / Analytics",
    }


@EACH
def test_it_is_a_dashboard_of_grafana_11(dashboard):
    assert dashboard["schemaVersion"] >= 39
    assert "id" not in dashboard, "an id would overwrite another dashboard of that Grafana"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert next(iter(variables)) == "datasource"
    assert variables["datasource"]["type"] == "datasource"
    mentioned = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    assert mentioned - {"__rate_interval", "__range", "__all"} == set(variables)
    for panel in panels(dashboard):
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}


@EACH
def test_panels_do_not_overlap_and_fill_the_grid(dashboard):
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


@EACH
def test_a_panel_says_what_it_is_and_what_to_do(dashboard):
    for panel in panels(dashboard):
        assert panel["type"] in {"stat", "timeseries", "table", "bargauge", "heatmap"}
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) == len(panel["targets"])
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        if panel["type"] != "heatmap":
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
        for override in panel["fieldConfig"]["overrides"]:
            names = {target["legendFormat"] for target in panel["targets"]}
            # A series' name comes from a label where the legend is one.
            assert override["matcher"]["options"] in names or any("{{" in name for name in names), panel["title"]


@EACH
def test_runbooks_that_are_named_exist(dashboard):
    alerts = {
        rule["alert"]
        for group in yaml.safe_load((CHART / "rules" / "daemoneye.yaml").read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert set(re.findall(r"DaemonEye[A-Z]\w+", json.dumps(dashboard))) <= alerts


@EACH
def test_queries_ask_for_declared_metrics_and_labels_of_this_release(dashboard):
    for expr in expressions(dashboard):
        assert wrong(expr) == [], expr
        assert used(expr), expr
        assert all("namespace" in labels for _, labels in selected(expr)), expr


@EACH
def test_legends_name_labels_that_the_query_keeps(dashboard):
    for panel in panels(dashboard):
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), f"{panel['title']}: {label}"


def test_promtool_takes_every_query(tmp_path):
    filled = {"$__rate_interval": "5m", "$__range": "1h", "$namespace": "security", "$node": ".*"}
    rules = []
    for number, (_, _, expr) in enumerate(queries()):
        text = expr
        for variable, value in filled.items():
            text = text.replace(variable, value)
        rules.append({"record": f"query:{number}", "expr": text})
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run([promtool(), "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_every_declared_metric_is_of_use():
    alerts = yaml.safe_load((CHART / "rules" / "daemoneye.yaml").read_text())["groups"]
    asked = [*(expr for _, _, expr in queries()), *(rule["expr"] for group in alerts for rule in group["rules"])]
    assert {*metrics.ALL} - {name for expr in asked for name in used(expr)} == set()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: series(metrics.SENSOR_EVENTS, 'stage="ring"'), "daemoneye_sensor_events_total has the labels"),
        (lambda: series(metrics.SENSOR_DELAY), "is a histogram: suffix ''"),
        (lambda: series(metrics.SENSOR_PODS, suffix="bucket"), "is a gauge: suffix 'bucket'"),
        (lambda: rate(metrics.SENSOR_EVENTS, by="node, stage"), r"not \['stage'\]"),
        (lambda: gauge(metrics.SENSOR_PODS, by="le"), r"not \['le'\]"),
        (lambda: quantile(0.5, metrics.SENSOR_DELAY, by="lane"), r"not \['lane'\]"),
        (lambda: series(metrics.SENSOR_EVENTS, "lane=urgent"), "lane=urgent"),
    ],
)
def test_a_query_that_would_find_nothing_cannot_be_written(write, words):
    with pytest.raises(ValueError, match=words):
        write()
