"""Dashboards as pictures, drawn from what a real Prometheus answers: for the docs, for there is no Grafana here.

Responsible for a likeness (place, title, kind, unit, values), not for Grafana's looks.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.dates as mdates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LinearLocator

from tests.cluster.prometheus import Prometheus

_COLUMNS: Final = 24
_ROW_INCHES: Final = 0.42
_WIDTH_INCHES: Final = 17.0
_BACKGROUND: Final = "#111217"
_PANEL: Final = "#181b1f"
_TEXT: Final = "#ccccdc"
_MUTED: Final = "#8e8e9e"
_COLORS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#c4162a")
_SHOWN: Final = 8


def expressions(panel: Mapping[str, Any], variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """A panel's queries with Grafana's variables filled in: (expression, legend)."""
    out = []
    for target in panel.get("targets", ()):
        text = target["expr"]
        for name, value in sorted(variables.items(), key=lambda item: -len(item[0])):
            text = text.replace("${" + name + "}", value).replace("$" + name, value)
        out.append((text, target.get("legendFormat", "")))
    return out


def picture(
    dashboard: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str], seconds: float, path: Path
) -> None:
    """One dashboard over the last `seconds`, as a PNG."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    height = rows * _ROW_INCHES + 0.6
    figure = Figure(figsize=(_WIDTH_INCHES, height), facecolor=_BACKGROUND)
    figure.text(0.008, 1 - 0.32 / height, dashboard["title"], color=_TEXT, fontsize=15, weight="bold", va="center")
    for row in (panel for panel in dashboard["panels"] if panel["type"] == "row"):
        y = 1 - (row["gridPos"]["y"] + 0.6) * _ROW_INCHES / height - 0.6 / height
        figure.text(0.008, y, row["title"], color=_TEXT, fontsize=11, va="center")
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / _COLUMNS, place["w"] / _COLUMNS
        bottom = 1 - (0.6 + (place["y"] + place["h"]) * _ROW_INCHES) / height
        axes = figure.add_axes(
            (
                left + 0.003,
                bottom + 0.05 / height,
                width - 0.006,
                place["h"] * _ROW_INCHES / height - 0.1 / height,
            ),
            facecolor=_PANEL,
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_color("#2c3235")
        axes.text(0.012, 0.96, panel["title"], transform=axes.transAxes, color=_TEXT, fontsize=9, va="top")
        _DRAW.get(panel["type"], _lines)(axes, panel, prometheus, variables, seconds)
    figure.savefig(path, dpi=72, facecolor=_BACKGROUND)


def _lines(
    axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str], seconds: float
) -> None:
    inner = axes.inset_axes((0.07, 0.2, 0.91, 0.62), facecolor=_PANEL)
    drawn = 0
    for expression, legend in expressions(panel, variables):
        for series in prometheus.query_range(expression, seconds, max(seconds / 200, 2)):
            points = [(float(t), float(v)) for t, v in series["values"] if math.isfinite(float(v))]
            if not points:
                continue
            times = [mdates.date2num(_moment(t)) for t, _ in points]
            values, color = [v for _, v in points], _COLORS[drawn % len(_COLORS)]
            inner.plot(
                times, values, color=color, linewidth=1.3, label=_name(legend, series["metric"]) if drawn < _SHOWN else None
            )  # fmt: skip
            inner.fill_between(times, values, color=color, alpha=0.08)
            drawn += 1
    inner.tick_params(colors=_MUTED, labelsize=7)
    inner.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M:%S"))
    inner.set_xlim(*(mdates.date2num(_moment(time.time() - back)) for back in (seconds, 0)))
    inner.xaxis.set_major_locator(LinearLocator(4))
    inner.yaxis.set_major_formatter(lambda value, _: _shown(value, _unit(panel)))
    inner.grid(color="#2c3235", linewidth=0.5)
    for side in inner.spines.values():
        side.set_visible(False)
    if drawn:
        low, high = inner.get_ylim()
        inner.set_ylim(min(low, 0), high if high > 0 else 1)
        inner.legend(
            loc="upper left", bbox_to_anchor=(-0.03, -0.13), ncols=4, fontsize=7, frameon=False, labelcolor=_MUTED
        )
    else:
        _nothing(axes)


def _now(panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str]) -> list[tuple[str, float]]:
    return [
        (_name(legend, series["metric"]), float(series["value"][1]))
        for expression, legend in expressions(panel, variables)
        for series in prometheus.query(expression)
    ]


def _stat(axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str], _: float) -> None:
    found = _now(panel, prometheus, variables)
    if not found:
        _nothing(axes)
        return
    for number, (name, value) in enumerate(found[:_SHOWN]):
        x = (number + 0.5) / min(len(found), _SHOWN)
        text, color = _shown(value, _unit(panel)), _threshold(panel, value)
        axes.text(
            x, 0.45, text, transform=axes.transAxes, color=color, fontsize=16, ha="center", va="center", weight="bold"
        )
        if len(found) > 1:
            axes.text(x, 0.14, name, transform=axes.transAxes, color=_MUTED, fontsize=8, ha="center", va="center")


def _bars(axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str], _: float) -> None:
    found = _now(panel, prometheus, variables)
    if not found:
        _nothing(axes)
        return
    found = sorted(found, key=lambda item: item[1])[-_SHOWN:]
    inner = axes.inset_axes((0.3, 0.06, 0.55, 0.76), facecolor=_PANEL)
    inner.barh(range(len(found)), [v for _, v in found], color=[_threshold(panel, v) for _, v in found], height=0.6)
    inner.set_yticks(range(len(found)), [name for name, _ in found])
    inner.tick_params(colors=_MUTED, labelsize=7)
    inner.set_xticks([])
    top = panel.get("fieldConfig", {}).get("defaults", {}).get("max")
    inner.set_xlim(0, top or max(1e-9, *(v for _, v in found)) * 1.05)
    for number, length in enumerate([v for _, v in found]):
        inner.text(
            inner.get_xlim()[1] * 1.01, number, _shown(length, _unit(panel)), color=_TEXT, fontsize=8, va="center"
        )
    for side in inner.spines.values():
        side.set_visible(False)


def _table(
    axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str], _: float
) -> None:
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns: list[str] = []
    for number, (expression, legend) in enumerate(expressions(panel, variables)):
        column = legend if legend and "{{" not in legend else panel["targets"][number].get("refId", "value")
        columns.append(column)
        for series in prometheus.query(expression):
            labels = tuple(value for key, value in sorted(series["metric"].items()) if key != "__name__")
            rows.setdefault(labels, {})[column] = _shown(float(series["value"][1]), "short")
    if not rows:
        _nothing(axes)
        return
    lines = [[" · ".join(labels), *(row.get(column, "–") for column in columns)] for labels, row in rows.items()]
    for number, line in enumerate([["", *columns], *lines[:_SHOWN]]):
        y = 0.82 - number * 0.8 / (min(len(lines), _SHOWN) + 1.5)
        for place, cell in enumerate(line):
            x = 0.02 if place == 0 else 0.35 + 0.63 * (place - 0.3) / len(columns)
            axes.text(x, y, cell, transform=axes.transAxes, color=_MUTED if number == 0 else _TEXT, fontsize=8)


def _heatmap(
    axes: Axes, panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str], seconds: float
) -> None:
    ((expression, _),) = expressions(panel, variables)
    step = max(seconds / 60, 2)
    cumulative = {
        float(series["metric"]["le"]): {float(t): float(v) for t, v in series["values"]}
        for series in prometheus.query_range(expression, seconds, step)
    }
    bounds, times = sorted(cumulative), sorted({t for values in cumulative.values() for t in values})
    if not times:
        _nothing(axes)
        return
    rows = [[cumulative[bound].get(t, 0.0) for t in times] for bound in bounds]
    single = [rows[0], *([high - low for low, high in zip(a, b, strict=True)] for a, b in itertools.pairwise(rows))]
    inner = axes.inset_axes((0.09, 0.12, 0.89, 0.7), facecolor=_PANEL)
    inner.imshow(single, aspect="auto", origin="lower", cmap="inferno", interpolation="nearest")
    inner.set_yticks(range(len(bounds)), [_shown(bound, "s") if math.isfinite(bound) else "∞" for bound in bounds])
    marks = range(0, len(times), max(len(times) // 4, 1))
    inner.set_xticks(list(marks), [f"{_moment(times[mark]):%H:%M:%S}" for mark in marks])
    inner.tick_params(colors=_MUTED, labelsize=7)


_DRAW: Final[dict[str, Callable[..., None]]] = {
    "stat": _stat,
    "gauge": _stat,
    "bargauge": _bars,
    "table": _table,
    "timeseries": _lines,
    "heatmap": _heatmap,
}


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.45, "No data", transform=axes.transAxes, color=_MUTED, fontsize=10, ha="center", va="center")


def _name(legend: str, labels: Mapping[str, str]) -> str:
    if not legend or legend == "__auto":
        legend = " ".join(f"{k}={v}" for k, v in labels.items() if k not in ("__name__", "job", "instance")) or "value"
    for key, value in labels.items():
        legend = legend.replace("{{" + key + "}}", value).replace("{{ " + key + " }}", value)
    return textwrap.shorten(legend, 32, placeholder="…")


def _unit(panel: Mapping[str, Any]) -> str:
    return str(panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short"))


def _shown(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "decbytes", "Bps", "binBps"):
        for size, sign in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {sign}" + ("/s" if unit.endswith("Bps") else "")
        return f"{value:.3g} B"
    if unit in ("s", "dtdurations"):
        for size, sign in ((86400, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= 2 * size:
                return f"{value / size:.3g} {sign}"
        return f"{value * 1000:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    suffix = {"cps": "/s", "ops": "/s", "reqps": "/s", "eps": "/s", "wps": "/s"}.get(unit, "")
    if unit == "d":
        return f"{value:.0f} d"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M{suffix}"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g} k{suffix}"
    return f"{value:.3g}{suffix}"


def _threshold(panel: Mapping[str, Any], value: float) -> str:
    named = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "yellow": "#f2cc0c", "blue": "#5794f2"}
    color = "#73bf69"
    for step in panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", ()):
        if step.get("value") is None or value >= step["value"]:
            color = named.get(step["color"], step["color"] if step["color"].startswith("#") else _TEXT)
    return color


def _moment(seconds: float) -> Any:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def load(path: Path) -> dict[str, Any]:
    """A dashboard's JSON."""
    return dict(json.loads(path.read_text()))
