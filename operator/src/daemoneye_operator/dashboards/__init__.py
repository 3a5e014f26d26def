"""Grafana's dashboards, declared here and written by `make generate` to charts/daemoneye/dashboards.

Responsible for what they show. They name metrics by the objects of `daemoneye.metrics`, so that a name that does not exist cannot be written. Not read at
run time.
"""

from __future__ import annotations

from typing import Final

from daemoneye_operator.dashboards import analytics, findings, network, nodes, overview
from daemoneye_operator.dashboards.dashboard import Dashboard

DASHBOARDS: Final[tuple[Dashboard, ...]] = (
    overview.DASHBOARD,
    nodes.DASHBOARD,
    network.DASHBOARD,
    findings.DASHBOARD,
    analytics.DASHBOARD,
)


def queries() -> list[tuple[str, str, str]]:
    """Every query: the dashboard's name, the panel's title, PromQL with Grafana's variables."""
    return [
        (dashboard.name, panel.title, query.expr)
        for dashboard in DASHBOARDS
        for row in dashboard.rows
        for panel in row.panels
        for query in panel.queries
    ]
