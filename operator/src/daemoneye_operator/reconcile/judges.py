"""What the pods of analytics last said of themselves, each for its part of the workloads.

Responsible for that alone; what a policy's status makes of it is :mod:`daemoneye_operator.reconcile.status`' affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PHASES: Final = ("Learning", "Calibrating", "Active", "Drifted")
"""Of the behavioural analyser's workloads, as analytics' heartbeat counts them."""
_MOST: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A part's newest.

    Attributes:
        received: Seconds since 1970.
        problems: Policy's name → what was left out of it.
        phases: Workloads by phase; empty where it does not say.
    """

    received: float
    problems: Mapping[str, str]
    phases: Mapping[str, int]


class Judges:
    """Who judges the parts."""

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts
        self._newest: dict[int, Heartbeat] = {}

    def hear(self, said: Any, now: float) -> bool:
        """Take a heartbeat; whether it says something new."""
        said = said if isinstance(said, dict) else {}
        # Releases before had one part, and did not say so.
        part = said.get("part", 0)
        if not isinstance(part, int) or not 0 <= part < self.parts:
            return False
        found = said.get("problems")
        problems = {str(k)[:253]: str(v)[:1024] for k, v in found.items()} if isinstance(found, dict) else {}
        before = self._newest.get(part)
        self._newest[part] = Heartbeat(now, problems, _phases(said))
        return before is None or before.problems != problems

    @property
    def silent(self) -> int:
        """The part that was not heard of, or else not for the longest time."""
        return min(range(self.parts), key=lambda part: (self._at(part) is not None, self._at(part)))

    @property
    def heard(self) -> float | None:
        """When that part was last heard of, seconds since 1970; None when never."""
        return self._at(self.silent)

    @property
    def named(self) -> str:
        """That part in a sentence."""
        return "Analytics" if self.parts == 1 else f"Part {self.silent} of analytics, of {self.parts} counted from 0,"

    @property
    def problems(self) -> dict[str, str]:
        """What any of them said that it left out of which policy."""
        return {name: text for newest in self._newest.values() for name, text in newest.problems.items()}

    @property
    def phases(self) -> dict[str, int]:
        """Workloads by phase, of all parts."""
        total = Counter[str]()
        for newest in self._newest.values():
            total.update(newest.phases)
        return dict(total)

    def _at(self, part: int) -> float | None:
        newest = self._newest.get(part)
        return newest.received if newest else None


def _phases(said: Any) -> dict[str, int]:
    for key in ("detectors", "behavioral_anomaly", "phases"):
        said = said.get(key) if isinstance(said, dict) else None
    counts = said if isinstance(said, dict) else {}
    return {phase: count for phase in PHASES if isinstance(count := counts.get(phase), int) and 0 <= count < _MOST}
