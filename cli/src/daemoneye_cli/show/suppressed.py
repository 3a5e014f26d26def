"""What analytics kept to itself, as a table for people and as JSON objects.

Responsible for form and escaping: titles and workloads are watched processes'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from daemoneye.escape import escape
from daemoneye_cli.show.cluster import table
from daemoneye_cli.show.text import shorten
from daemoneye_cli.suppressed import Suppressed

_HEADING: Final = ("TIME", "REASON", "DETECTOR", "SCORE", "WORKLOAD", "TITLE")
_TIME: Final = len("2026-01-01T00:00:00")
_WIDTH: Final = 60
_SHOWN_POLICIES: Final = 20


def suppressed_lines(found: Suppressed, last: int) -> Iterator[str]:
    """Give the newest so many, the newest last, and the sum."""
    shown = found.newest[-last:] if last else ()
    if shown:
        yield table((_HEADING, *map(_row, shown)))
    if not found.total and not found.repeats:
        yield "Suppressed: nothing; no policy's alertBudgetPerDay was spent, and nothing repeated what was told"
        return
    counts = sorted(found.policies.items(), key=lambda each: (-each[1], each[0]))
    named = [f"{escape(name) or 'without a policy'} {count:,}" for name, count in counts[:_SHOWN_POLICIES]]
    more = [f"and {len(counts) - _SHOWN_POLICIES} more"] if len(counts) > _SHOWN_POLICIES else []
    by = f" ({', '.join(named + more)})" if named else ""
    yield (
        f"Suppressed: {found.total:,} beyond a budget{by}, {found.repeats:,} that repeat what was told; "
        f"{len(shown)} shown of the newest {len(found.newest)} that analytics keeps"
    )


def suppressed_objects(found: Suppressed, last: int) -> Iterator[dict[str, Any]]:
    """Give the sum, then the newest so many, the newest last."""
    yield {"kind": "suppressed", "total": found.total, "policies": dict(found.policies), "repeats": found.repeats}
    for entry in found.newest[-last:] if last else ():
        yield {"kind": "suppressed_finding", **entry}


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    score = f"{entry['score']:.2f}"
    reason, detector, workload, title = (
        shorten(entry[name], _WIDTH) for name in ("reason", "detector", "workload", "title")
    )
    return entry["time"][:_TIME], reason, detector, score, workload, title
