"""How many findings of detectors that score are told a day, and what became of the others.

Responsible for that decision alone, a policy and day of the events' own time: it follows from the findings and their order, so that a replay decides alike.
What is beyond a budget is counted and the newest of it kept for whoever asks (the status message), beside what a detector itself did not tell, for it had.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from daemoneye.findings import Finding

MACHINE: Final = ""
"""Whose budget it is where there are no policies."""
DEFAULT: Final = 50
KEPT: Final = 100
_DAY: Final = len("2026-01-01")
_MAX_DAYS: Final = 10_000
_MAX_POLICIES: Final = 1000
_SHOWN: Final = 64
"""Policies in a status message, those that missed most."""
_MAX_TEXT: Final = 256
_MAX_BYTES: Final = 24 * 1024
"""Of each list in a status message: readers take 256 KiB in all."""


class Budget:
    """Counts what was told a policy and day.

    Attributes:
        limits: Policy → findings a day; 0 means no limit, and so does none.
        total: Findings that nobody was told.
        policies: Policy → findings that it was not told of.
        repeats: Findings that repeated what was told.
    """

    def __init__(self) -> None:
        self.limits: Mapping[str, int] = {}
        self.total = self.repeats = 0
        self.policies: dict[str, int] = {}
        self._spent: dict[tuple[str, str], int] = {}
        # Apart from each other: what repeats itself pushes nothing out that was beyond a budget.
        self._newest: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._repeated: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def admit(self, finding: Finding, policies: Sequence[str]) -> tuple[str, ...]:
        """Those of the policies that are told of a finding; it is counted and kept here if there are none."""
        day = finding.time[:_DAY]
        told = tuple(name for name in policies if self._spend(name, day))
        if not told:
            self.total += 1
            self._newest.append(_short(finding, policies))
        return told

    def note(self, finding: Finding, policies: Sequence[str]) -> None:
        """Count and keep a finding that repeats what these policies were told."""
        self.repeats += 1
        self._repeated.append(_short(finding, policies))

    def status(self) -> dict[str, Any]:
        """For the status message: how many, of which policies, and the newest with the reason, the newest first."""
        kept = (("budget", self._newest), ("repeat", self._repeated))
        newest = [{**entry, "reason": reason} for reason, entries in kept for entry in _fitting(entries)]
        newest.sort(key=lambda entry: str(entry["time"]), reverse=True)
        most = sorted(self.policies.items(), key=lambda item: -item[1])[:_SHOWN]
        return {"total": self.total, "policies": dict(most), "repeats": self.repeats, "newest": newest}

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint; the limits are the configuration's."""
        spent = [[name, day, count] for (name, day), count in self._spent.items()]
        return {
            "total": self.total, "policies": self.policies, "spent": spent, "newest": list(self._newest), "repeats": self.repeats,
            "repeated": list(self._repeated),
        }  # fmt: skip

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of `state`; without limits.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is of another form.
        """
        budget = cls()
        budget.total = int(state["total"])
        budget.policies = {str(name): int(count) for name, count in state["policies"].items()}
        budget._spent = {(str(name), str(day)): int(count) for name, day, count in state["spent"]}
        budget._newest.extend(_entries(state["newest"]))
        # A release before kept none.
        budget.repeats = int(state.get("repeats", 0))
        budget._repeated.extend(_entries(state.get("repeated", ())))
        return budget

    def _spend(self, policy: str, day: str) -> bool:
        limit = self.limits.get(policy, 0)
        spent = self._spent.get((policy, day), 0)
        if limit and spent >= limit:
            self.policies[policy] = self.policies.get(policy, 0) + 1
            _bound(self.policies, _MAX_POLICIES)
            return False
        self._spent[policy, day] = spent + 1
        _bound(self._spent, _MAX_DAYS)
        return True


def _short(finding: Finding, policies: Sequence[str]) -> dict[str, Any]:
    return {
        "time": finding.time, "detector": finding.detector, "score": finding.score, "title": finding.title[:_MAX_TEXT],
        "workload": finding.subject.workload[:_MAX_TEXT], "key": finding.key[:_MAX_TEXT], "policies": [name for name in policies if name][:8],
    }  # fmt: skip


def _fitting(entries: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The newest that there is room for, the newest first."""
    room = _MAX_BYTES
    for entry in reversed(entries):
        room -= len(json.dumps(entry))
        if room < 0:
            return
        yield entry


def _entries(values: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for value in values:
        yield {str(name): each for name, each in value.items()}


def _bound(table: dict[Any, int], most: int) -> None:
    """Forget what came first."""
    while len(table) > most:
        del table[next(iter(table))]
