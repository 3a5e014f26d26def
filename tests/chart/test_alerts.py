"""Alerts: their form, their runbooks, and by promtool that each fires when it should and is silent when it should not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.chart import CHART, ROOT
from tests.chart.promql import promtool, used, wrong

RULES = CHART / "rules" / "daemoneye.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = sorted((Path(__file__).parent / "rules").glob("*_test.yaml"))
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDS = {rule["record"]: rule for group in GROUPS for rule in group["rules"] if "record" in rule}
EACH = pytest.mark.parametrize("name", ALERTS)
HEADINGS = ["Meaning", "Impact", "How to look", "How to mend", "When to silence"]


def test_promtool_takes_the_rules():
    done = subprocess.run([promtool(), "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent(path: Path):
    done = subprocess.run([promtool(), "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@EACH
def test_it_is_seen_firing_and_silent(name):
    cases = [
        case["exp_alerts"]
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert any(cases), "no test sees it fire"
    assert [] in cases, "no test sees it silent"


@EACH
def test_it_says_what_where_and_what_to_do(name):
    rule = ALERTS[name]
    assert re.fullmatch(r"DaemonEye[A-Z][A-Za-z]+", name)
    assert (
        rule["labels"]["severity"] in {"info", "warning", "critical"}
        or "critical{{ else }}warning" in rule["labels"]["severity"]
    )
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(rule["annotations"]["summary"]) <= 80
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"


@EACH
def test_its_labels_survive_its_aggregations(name):
    """What its sentences name is grouped by, or set by the rule itself."""
    rule = ALERTS[name]
    text = " ".join((*rule["annotations"].values(), *rule["labels"].values()))
    grouped = {
        label.strip()
        for inside in re.findall(r"\bby \(([^)]*)\)", spelled_out(rule["expr"]))
        for label in inside.split(",")
    }
    grouped |= set(re.findall(r'label_replace\(.*?, "(\w+)"', rule["expr"]))
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= grouped


def spelled_out(expr):
    """With the recorded series as their own expressions."""
    for record, rule in RECORDS.items():
        expr = expr.replace(record, f"({rule['expr']})")
    return spelled_out(expr) if any(record in expr for record in RECORDS) else expr


@pytest.mark.parametrize("rule", [*ALERTS.values(), *RECORDS.values()], ids=[*ALERTS, *RECORDS])
def test_rules_ask_for_declared_metrics_and_labels(rule):
    expr = spelled_out(rule["expr"])
    # An alert's own state, by which one stays until its rate is far below the threshold.
    assert set(re.findall(r'ALERTS\{alertname="(\w+)"', expr)) <= {rule.get("alert")}
    assert wrong(expr) == []
    assert used(expr)


def test_every_recorded_series_is_used():
    text = " ".join(rule["expr"] for group in GROUPS for rule in group["rules"])
    assert all(record in text for record in RECORDS)


# ── runbooks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_alert_has_its_page_and_each_page_its_alert():
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}


@EACH
def test_a_page_has_its_sections_and_is_short(name):
    lines = (RUNBOOKS / f"{name}.md").read_text().splitlines()
    assert lines[0] == f"# {name}"
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS
    assert len(lines) <= 60
    assert "```" in "\n".join(lines), "commands to paste"


@EACH
def test_its_queries_and_links_are_right(name, tmp_path):
    text = (RUNBOOKS / f"{name}.md").read_text()
    blocks = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    for expr in (line for block in blocks for line in block.splitlines() if line):
        assert wrong(expr) == [], expr
        path = tmp_path / "rules.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": "x", "expr": expr}]}]}))
        assert subprocess.run([promtool(), "check", "rules", path], capture_output=True).returncode == 0, expr
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert (RUNBOOKS / target).exists(), target


@pytest.mark.parametrize("page", [RUNBOOKS / "README.md", ROOT / "docs" / "monitoring.md"], ids=lambda path: path.stem)
def test_the_tables_of_alerts_are_whole(page: Path):
    prefix = "" if page.name == "README.md" else "runbooks/"
    rows = dict(
        re.findall(rf"^\| \[(DaemonEye\w+)\]\({prefix}\1\.md\) \| (\w+(?: or \w+)?) \|", page.read_text(), re.MULTILINE)
    )
    assert rows == {
        name: severity if "{{" not in (severity := rule["labels"]["severity"]) else "warning or critical"
        for name, rule in ALERTS.items()
    }
