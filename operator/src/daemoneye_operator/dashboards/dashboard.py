"""A dashboard: rows of panels, variables, and the JSON file that Grafana imports.

Responsible for what is around panels: ids, places, variables, links; not for the panels (`panels`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from daemoneye import metrics
from daemoneye_operator.dashboards.panels import DATASOURCE, Panel

COLUMNS: Final = 24
SCHEMA_VERSION: Final = 39
TAG: Final = "daemoneye"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a title. They stand beside one another as long as they fit the width, then below."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard.

    Attributes:
        name: Of its file and, after ``daemoneye-``, its uid: never changed, for links go by it.
        title: What people read.
        description: What it answers.
        rows: Its panels.
        chooses_nodes: Whether it has the variable ``node``.
    """

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    chooses_nodes: bool = False

    def text(self) -> str:
        """The JSON file."""
        return json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n"

    def json(self) -> dict[str, Any]:
        """What Grafana imports."""
        return {
            "uid": f"daemoneye-{self.name}",
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [
                {
                    "type": "dashboards", "title": "DaemonEye", "tags": [TAG], "asDropdown": True, "includeVars": True,
                    "keepTime": True, "targetBlank": False,
                }
            ],
            "templating": {"list": list(self._variables())},
            "panels": list(self._placed()),
        }  # fmt: skip

    def _placed(self) -> Iterator[dict[str, Any]]:
        number, y = 1, 0
        for row in self.rows:
            yield {
                "id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }  # fmt: skip
            number, x, y, height = number + 1, 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                yield panel.json(number, x, y)
                number, x, height = number + 1, x + panel.width, max(height, panel.height)
            y += height

    def _variables(self) -> Iterator[dict[str, Any]]:
        yield {
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "",
            "hide": 0, "multi": False, "includeAll": False, "refresh": 1, "options": [], "current": {},
        }  # fmt: skip
        yield _values_of("namespace", "Namespace", f"label_values({metrics.BUILD_INFO.name}, namespace)")
        if self.chooses_nodes:
            of_sensors = f'{metrics.BUILD_INFO.name}{{namespace="$namespace", component="sensor"}}'
            yield _values_of("node", "Node", f"label_values({of_sensors}, node)", several=True)


def _values_of(name: str, label: str, query: str, *, several: bool = False) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": query,
        "query": {"qryType": 1, "query": query, "refId": f"variable-{name}"}, "regex": "", "hide": 0, "multi": several,
        "includeAll": several, "refresh": 2, "sort": 1, "options": [], "current": {},
    }  # fmt: skip
    if several:
        out |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return out
