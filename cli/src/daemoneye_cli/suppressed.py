"""What analytics kept to itself because a policy's budget of the day was spent, or because it repeats what was told, as its heartbeat has it.

Responsible for reading that, and for bounding what a heartbeat can put in; not for form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

_GREATEST: Final = 10**15
_KEPT: Final = 1000
_TEXT: Final = 300
_FIELDS: Final = ("time", "detector", "title", "workload", "key", "reason")


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Findings that nobody was told.

    Attributes:
        total: How many were beyond a budget since analytics began to learn.
        policies: Policy → such findings that it was not told of; of several, one finding counts for each.
        repeats: How many repeated what was told.
        newest: Time, detector, title, workload, key, reason (`budget`, `repeat`), score and policies of the newest, the newest last.
    """

    total: int
    policies: Mapping[str, int]
    repeats: int
    newest: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, heartbeat: Mapping[str, Any]) -> Self | None:
        """What a heartbeat of analytics says; None if it says nothing of it."""
        told = heartbeat.get("suppressed")
        if not isinstance(told, Mapping):
            return None
        policies, newest = told.get("policies"), told.get("newest")
        counts = list(policies.items())[:_KEPT] if isinstance(policies, Mapping) else []
        entries = [each for each in newest[:_KEPT] if isinstance(each, Mapping)] if isinstance(newest, list) else []
        return cls(
            _count(told.get("total")),
            {_text(name): _count(count) for name, count in counts},
            _count(told.get("repeats")),
            tuple(map(_entry, reversed(entries))),
        )


def together(parts: Sequence[Suppressed]) -> Suppressed:
    """What several parts of analytics kept to themselves, as one."""
    policies = Counter[str]()
    for part in parts:
        policies.update(part.policies)
    newest = sorted((entry for part in parts for entry in part.newest), key=lambda entry: str(entry["time"]))
    return Suppressed(sum(part.total for part in parts), policies, sum(part.repeats for part in parts), tuple(newest))


def _entry(told: Mapping[str, Any]) -> dict[str, Any]:
    score, policies = told.get("score"), told.get("policies")
    return {
        **{name: _text(told.get(name)) for name in _FIELDS},
        "score": float(score) if isinstance(score, int | float) and 0 <= score <= 1 else 0.0,
        "policies": list(map(_text, policies[:_KEPT])) if isinstance(policies, list) else [],
    }


def _text(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _count(value: object) -> int:
    return min(max(value, 0), _GREATEST) if isinstance(value, int) else 0
