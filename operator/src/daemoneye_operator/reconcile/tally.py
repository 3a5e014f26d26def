"""Findings of each policy: how many, when the last, which are the newest.

Responsible for the counts that a policy's status shows, which go on from the status when the operator starts anew; not for the objects
(:mod:`daemoneye_operator.reconcile.findings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from daemoneye_operator.reconcile import clock
from daemoneye_operator.reconcile.findingobject import Ref
from daemoneye_operator.reconcile.findings import Outcome
from daemoneye_operator.reconcile.policies import Policy

NEWEST: Final = 5
_TITLE: Final = 256


@dataclass(frozen=True, slots=True)
class Newest:
    """One of the newest Findings; `time` in seconds since 1970."""

    ref: Ref
    severity: str
    title: str
    time: float

    def to_json(self) -> dict[str, Any]:
        """The form in a policy's status."""
        return {
            "name": self.ref.name, "namespace": self.ref.namespace, "severity": self.severity, "title": self.title, "time": clock.rfc3339(self.time),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tally:
    """Findings of one policy: how many so far, repetitions included; when the last happened; the newest, newest first."""

    uid: str = ""
    total: int = 0
    last: float | None = None
    newest: tuple[Newest, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The form in a policy's status."""
        value: dict[str, Any] = {"total": self.total, "newest": [one.to_json() for one in self.newest]}
        if self.last is not None:
            value["last"] = clock.rfc3339(self.last)
        return value


class Tallies:
    """The tally of each policy that there is, by name, for that is what findings carry."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def know(self, policies: Iterable[Policy], status: Callable[[str], Mapping[str, Any] | None]) -> None:
        """Take these policies for all that there are.

        Args:
            policies: Those that can be read.
            status: Gives the status that the API server has for a policy's name; asked once a policy, when it is first seen.
        """
        tallies = {}
        for policy in policies:
            known = self._tallies.get(policy.name)
            tallies[policy.name] = (
                known if known and known.uid == policy.uid else _from_status(policy.uid, status(policy.name) or {})
            )
        self._tallies = tallies

    def of(self, policy: Policy) -> Tally:
        """The tally of a policy."""
        return self._tallies.get(policy.name, Tally(policy.uid))

    def add(self, outcome: Outcome) -> None:
        """Count what became of a finding for each policy that its subject belongs to."""
        if not outcome.counted:
            return
        for name in outcome.spec["policies"]:
            if name in self._tallies:
                self._tallies[name] = _with(self._tallies[name], outcome)

    def drop(self, refs: Iterable[Ref]) -> None:
        """These objects are gone: they are no longer among the newest."""
        gone = set(refs)
        for name, tally in self._tallies.items():
            if any(one.ref in gone for one in tally.newest):
                self._tallies[name] = replace(tally, newest=tuple(one for one in tally.newest if one.ref not in gone))


def _with(tally: Tally, outcome: Outcome) -> Tally:
    newest = tally.newest
    if outcome.ref is not None:
        before = next((one for one in newest if one.ref == outcome.ref), None)
        one = Newest(
            outcome.ref,
            outcome.spec["severity"],
            outcome.spec["title"][:_TITLE],
            max(outcome.time, before.time if before else 0.0),
        )
        others = [other for other in newest if other.ref != outcome.ref]
        newest = tuple(sorted((one, *others), key=lambda each: (-each.time, each.ref))[:NEWEST])
    return replace(tally, total=tally.total + 1, last=max(outcome.time, tally.last or 0.0), newest=newest)


def _from_status(uid: str, status: Mapping[str, Any]) -> Tally:
    found = status.get("findings") or {}
    newest = [
        Newest(Ref(one["namespace"], one["name"]), one["severity"], one["title"], clock.seconds(one["time"]))
        for one in found.get("newest") or ()
    ]
    last = found.get("last")
    return Tally(uid, found.get("total", 0), clock.seconds(last) if last else None, tuple(newest[:NEWEST]))
