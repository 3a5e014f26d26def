"""What the processes cost, as a table for people, in fewer than 100 columns, and as JSON objects.

Responsible for form and escaping: heartbeats are written by nodes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from daemoneye.escape import escape
from daemoneye_cli.heartbeats import Cost
from daemoneye_cli.show.text import shorten, workloads

ORDERS: Final[dict[str, Callable[[Cost], float | None]]] = {
    "cpu": lambda cost: cost.cpu_percent,
    "rss": lambda cost: cost.rss_bytes,
    "wakeups": lambda cost: cost.wakeups_per_second,
    "events": lambda cost: cost.events_per_second,
    "lost": lambda cost: cost.lost_total,
    "unsent": lambda cost: cost.unsent_bytes,
    "age": lambda cost: cost.age_s,
}
"""What a table can be sorted by beside the name, the greatest first."""

_NOTHING: Final = "-"
_NAME: Final = 26
_VERSION: Final = 10
_HEADING: Final = ("NAME", "CPU%", "RSS", "WAKE/S", "EVENTS/S", "LOST", "UNSENT", "VERSION", "AGE")
_LEFT: Final = frozenset({0, 7})
_SHOWN_LOSSES: Final = 20


def ordered(costs: Sequence[Cost], by: str) -> list[Cost]:
    """Give them in order; who did not say comes last."""
    named = sorted(costs, key=_key)
    if by not in ORDERS:
        return named
    value = ORDERS[by]
    return sorted(named, key=lambda cost: -_or(value(cost), -1.0))


def top_lines(costs: Sequence[Cost]) -> Iterator[str]:
    """Give the table, where records were lost, and the sum."""
    clashing = {cost.name for cost in costs if cost.component != "sensor"}
    rows = [_HEADING, *(_row(cost, clashing) for cost in costs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if index in _LEFT else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
    losing = [cost for cost in costs if cost.lost]
    for cost in losing[:_SHOWN_LOSSES]:
        stages = ", ".join(f"{escape(stage)} {count:,}" for stage, count in (cost.lost or {}).items())
        yield shorten(f"  {_name(cost, clashing)} lost: {stages}", 98)
    if len(losing) > _SHOWN_LOSSES:
        yield f"  … and {len(losing) - _SHOWN_LOSSES} more lost something (-o json has all)"
    for cost in costs:
        if cost.phases and any(cost.phases.values()):
            yield shorten(f"{_name(cost, clashing)}: {workloads(cost.phases)}", 98)
    yield _sum([cost for cost in costs if cost.component == "sensor"])


def top_object(cost: Cost) -> dict[str, Any]:
    """Give one process as an object for programs; what is not known is null."""
    content = {
        key: round(value, 3) if isinstance(value, float) else value for key, value in dataclasses.asdict(cost).items()
    }
    return {"kind": "process", **content, "lost_total": cost.lost_total}


def _row(cost: Cost, clashing: set[str]) -> tuple[str, ...]:
    return (
        _name(cost, clashing),
        _number(cost.cpu_percent),
        _size(cost.rss_bytes),
        _number(cost.wakeups_per_second),
        _number(cost.events_per_second),
        _count(cost.lost_total),
        _count(cost.unsent),
        shorten(escape(cost.version), _VERSION) if cost.version else _NOTHING,
        _age(cost.age_s),
    )


def _name(cost: Cost, clashing: set[str]) -> str:
    # As in a run's status: a node that bears a component's name is node/<name>.
    name = f"node/{cost.name}" if cost.component == "sensor" and cost.name in clashing else cost.name
    return shorten(escape(name), _NAME)


def _sum(sensors: Sequence[Cost]) -> str:
    heard = [cost for cost in sensors if cost.age_s is not None]
    if not heard:
        return f"Sensors: none of {len(sensors)} heard"
    cpu = sum(cost.cpu_percent or 0.0 for cost in heard)
    memory = sum(cost.rss_bytes or 0 for cost in heard)
    events = sum(cost.events_per_second or 0.0 for cost in heard)
    lost: Counter[str] = Counter()
    for cost in heard:
        lost.update(cost.lost or {})
    told = f"lost {_count(lost.total())}" if lost else "nothing lost"
    known = any(cost.cpu_percent is not None for cost in heard)
    rates = f"{_number(cpu)} % of a core, {_size(memory)}, {_count(round(events))} events/s" if known else _size(memory)
    return f"Sensors: {len(heard)} of {len(sensors)} heard; together {rates}, {told}"


def _number(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.1f}" if value < 1000 else _count(int(value))


def _count(value: int | None) -> str:
    if value is None:
        return _NOTHING
    for limit, unit in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}" if value < 1000 * limit else ">999P"
    return f"{value:,}"


def _size(value: int | None) -> str:
    if value is None:
        return _NOTHING
    if value < 10 << 30:
        return f"{value / (1 << 20):.0f}Mi"
    return f"{value >> 30:,}Gi" if value < 1 << 40 else ">1Ti"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    return f"{seconds:.0f}s" if seconds < 600 else f"{seconds / 60:.0f}m"


def _key(cost: Cost) -> tuple[bool, str]:
    return cost.component != "sensor", cost.name


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)
