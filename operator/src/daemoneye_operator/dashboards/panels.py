"""Panels of a Grafana dashboard.

Responsible for the JSON of each kind of panel that we use, as Grafana 11 writes it (schema version 39); not for queries (`queries`) nor for where a panel
stands (`dashboard`).
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the name of its series, with labels as ``{{node}}``; a column's name in a table."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; place and id come from the dashboard.

    Attributes:
        kind: Grafana's name of the panel type.
        title: Its title.
        description: What is shown, and what to do when it looks bad.
        queries: What is asked.
        width: Of 24 columns.
        height: Grafana's units, of some 30 pixels.
        field_config: Unit, thresholds and the like, and overrides.
        options: The panel type's own.
        instant: Ask for the newest value only.
        format: Grafana's name of the answer's form: time_series, table or heatmap.
        transformations: What Grafana does to the answers.
    """

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    height: int
    field_config: Mapping[str, Any]
    options: Mapping[str, Any]
    instant: bool = False
    format: str = "time_series"
    transformations: tuple[Mapping[str, Any], ...] = field(default=())

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """What Grafana reads."""
        out: dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": self.field_config,
            "options": self.options,
            "targets": [
                self._target(letter, query) for letter, query in zip(string.ascii_uppercase, self.queries, strict=False)
            ],
        }
        if self.transformations:
            out["transformations"] = list(self.transformations)
        return out

    def _target(self, letter: str, query: Query) -> dict[str, Any]:
        return {
            "refId": letter,
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
        }


def steps(first: str, *then: tuple[float, str]) -> dict[str, Any]:
    """Thresholds: a colour, and the values from which on it is another one."""
    rest = [{"color": color, "value": value} for value, color in then]
    return {"mode": "absolute", "steps": [{"color": first, "value": None}, *rest]}


def by_name(name: str, **properties: Any) -> dict[str, Any]:
    """What is different for the series or column of one name, such as ``unit="s"`` or ``thresholds=steps(…)``."""
    given = [{"id": key, "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": given}


def _fields(
    unit: str, custom: Mapping[str, Any] | None = None, overrides: Sequence[Mapping[str, Any]] = (), **rest: Any
) -> dict[str, Any]:
    defaults = {"unit": unit, **{key: value for key, value in rest.items() if value is not None}}
    if custom is not None:
        defaults["custom"] = custom
    return {"defaults": defaults, "overrides": list(overrides)}


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "none",
    width: int = 4,
    thresholds: Mapping[str, Any] | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
    none: str | None = None,
    decimals: int | None = None,
) -> Panel:
    """Large figures. `none` is what is shown where there is nothing to show, which is then no fault."""
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
        "wideLayout": True,
    }
    fields = _fields(
        unit, None, overrides, thresholds=thresholds or steps(BLUE), color={"mode": "thresholds"}, noValue=none,
        decimals=decimals,
    )  # fmt: skip
    return Panel("stat", title, description, queries, width, 4, fields, options, instant=True)


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    stacked: bool = False,
    thresholds: Mapping[str, Any] | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
    none: str | None = None,
) -> Panel:
    """Values over time; `thresholds` are drawn as lines."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    fields = _fields(
        unit, custom, overrides, min=0, thresholds=thresholds or steps(GREEN), color={"mode": "palette-classic"},
        noValue=none,
    )  # fmt: skip
    return Panel("timeseries", title, description, queries, width, 8, fields, options)


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "percentunit",
    width: int = 8,
    height: int = 8,
    thresholds: Mapping[str, Any] | None = None,
    none: str | None = None,
    top: float | None = 1,
) -> Panel:
    """One bar a series: how full something is."""
    options = {
        "displayMode": "lcd",
        "minVizHeight": 12,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    fields = _fields(
        unit,
        None,
        (),
        min=0,
        max=top,
        thresholds=thresholds or steps(GREEN),
        color={"mode": "thresholds"},
        noValue=none,
    )
    return Panel("bargauge", title, description, queries, width, height, fields, options, instant=True)


def table(
    title: str,
    description: str,
    *queries: Query,
    width: int = 24,
    height: int = 9,
    overrides: Sequence[Mapping[str, Any]] = (),
    none: str | None = None,
) -> Panel:
    """One row for each set of labels, one column a query: all queries keep the same labels."""
    names = {f"Value #{letter}": query.legend for letter, query in zip(string.ascii_uppercase, queries, strict=False)}
    if len(queries) == 1:
        names["Value"] = queries[0].legend
    transformations: tuple[Mapping[str, Any], ...] = (
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": names}},
    )
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "inspect": False}
    options = {"cellHeight": "sm", "footer": {"show": False}, "showHeader": True}
    fields = _fields("short", custom, overrides, thresholds=steps(GREEN), color={"mode": "thresholds"}, noValue=none)
    return Panel(
        "table", title, description, queries, width, height, fields, options, instant=True, format="table",
        transformations=transformations,
    )  # fmt: skip


def heatmap(title: str, description: str, buckets: str, *, unit: str = "s", width: int = 12, height: int = 8) -> Panel:
    """A histogram's buckets over time; `buckets` is summed by ``le``."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "scale": "exponential", "scheme": "Oranges", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }  # fmt: skip
    fields = {"defaults": {"custom": {"hideFrom": {"legend": False, "tooltip": False, "viz": False}}}, "overrides": []}
    query = Query(buckets, "{{le}}")
    return Panel("heatmap", title, description, (query,), width, height, fields, options, format="heatmap")
