"""How figures are printed: medians with their range, aligned columns, and what was aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Target:
    """A figure that was promised: met if the measured one is on the right side of the bound."""

    name: str
    measured: float | None
    bound: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it was kept; what was not measured was not kept."""
        return self.measured is not None and (
            self.measured >= self.bound if self.at_least else self.measured <= self.bound
        )

    def line(self) -> str:
        """In words."""
        if self.measured is None:
            return f"  ?       {self.name}: not measured"
        word = "at least" if self.at_least else "at most"
        return f"  {'met   ' if self.met else 'MISSED'}  {self.name}: {short(self.measured)}{self.unit} ({word} {short(self.bound)}{self.unit})"


@dataclass(slots=True)
class Outcome:
    """What one bench found.

    Attributes:
        name: The bench.
        columns: Headings of the table.
        rows: Its rows; a value is a list of repeated measurements, a number, or text.
        data: The figures by name, for the JSON file.
        notes: Sentences below the table.
        targets: What was aimed at.
        more: Tables that follow from it.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    more: list[Outcome] = field(default_factory=list)

    def text(self) -> str:
        """The table as Markdown, with notes and targets."""
        cells = [list(self.columns), *([cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
            for row in cells
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(
            [
                f"## {self.name}",
                "",
                *lines,
                "",
                *(f"* {note}" for note in self.notes),
                *(target.line() for target in self.targets),
                "",
                *(table.text() for table in self.more),
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        targets = [
            {"name": t.name, "measured": t.measured, "bound": t.bound, "at_least": t.at_least, "met": t.met}
            for t in self.targets
        ]
        table = {"columns": self.columns, "rows": [[cell(value) for value in row] for row in self.rows]}
        more = [table.as_json() for table in self.more]
        return {
            "bench": self.name,
            "data": self.data,
            "notes": self.notes,
            "targets": targets,
            "table": table,
            "more": more,
        }


def cell(value: Any) -> str:
    """One value as text."""
    if isinstance(value, list):
        return spread(value)
    return short(value) if isinstance(value, (int, float)) else str(value)


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    if not values:
        return "–"
    middle = short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{short(min(values))}–{short(max(values))}]"


def median(values: Sequence[float]) -> float | None:
    """The median, if there is any value."""
    return statistics.median(values) if values else None


def short(value: float) -> str:
    """Three significant digits, and thousands parted."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 0.1
        else f"{value:.3f}"
        if size >= 0.01
        else f"{value:.4f}"
    )
