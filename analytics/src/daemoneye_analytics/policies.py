"""What the cluster's policies ask of analytics: which detectors run, how, and whose findings count.

Responsible for reading the document that the operator makes of all policies, entry by entry: what is wrong in one is left out with a
sentence, and everything else runs. How the document comes is `daemoneye_analytics.follower`'s affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemoneye.errors import ConfigError, CorruptData
from daemoneye_analytics import budget, exemptions
from daemoneye_analytics.behaviour import models
from daemoneye_analytics.detectors.base import Detector
from daemoneye_analytics.registry import Chosen, scoring
from daemoneye_analytics.settings import declared
from daemoneye_analytics.vault.arming import Wanted, wanted

_MAX_PROBLEMS: Final = 64
_MAX_TEXT: Final = 1024


@dataclass(frozen=True, slots=True)
class Configuration:
    """One document, understood.

    Attributes:
        hash: Its name: the first 32 hex digits of the SHA-256 of its bytes.
        policies: Names of the policies in force.
        chosen: The detectors that at least one of them wants, made afresh.
        wants: Detector name → names of the policies that want it.
        problems: Policy name → sentences about what was left out.
        thresholds: Policy name → score from which on it wants findings of detectors that score.
        evidence: Policy name → what may be kept of packets because of its findings; others keep none.
        budgets: Policy name → findings of detectors that score that it is told a day; 0 for all.
        exemptions: Benign verdicts.
    """

    hash: str
    policies: frozenset[str]
    chosen: tuple[Chosen, ...]
    wants: Mapping[str, frozenset[str]]
    problems: Mapping[str, str]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Wanted] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    exemptions: tuple[exemptions.Exemption, ...] = ()


def read(data: bytes, known: Mapping[str, type[Detector]]) -> Configuration:
    """The document, with the detectors that there are.

    Raises:
        CorruptData: It is no such document at all.
    """
    try:
        entries = json.loads(data)["policies"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CorruptData(f"analytics' configuration is no JSON with a list of policies: {error!r}") from error
    if not isinstance(entries, list):
        raise CorruptData("analytics' configuration is no JSON with a list of policies: 'policies' is none")
    reader = _Reader(known)
    document = json.loads(data)
    interval = document.get("model_update_interval")
    if isinstance(interval, int) and interval > 0:
        reader.analysis["update_seconds"] = interval
    for number, entry in enumerate(entries, 1):
        reader.policy(entry, number)
    return Configuration(
        hash=hashlib.sha256(data).hexdigest()[:32],
        policies=frozenset(reader.policies),
        chosen=tuple(reader.chosen()),
        wants={name: frozenset(policies) for name, policies in reader.wants.items() if policies},
        problems={
            name: " ".join(sentences)[:_MAX_TEXT] for name, sentences in list(reader.problems.items())[:_MAX_PROBLEMS]
        },
        thresholds=reader.thresholds,
        evidence=wanted(entries),
        budgets=reader.budgets,
        exemptions=exemptions.read(document.get("exceptions")),
    )


@dataclass(slots=True)
class _Reader:
    known: Mapping[str, type[Detector]]
    policies: list[str] = field(default_factory=list)
    wants: dict[str, list[str]] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    budgets: dict[str, int] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)

    def policy(self, entry: Any, number: int) -> None:
        """Take in one policy; the oldest comes first, and its parameters hold for all."""
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            self._problem(f"policy {number}", "It has no name and is left out.")
            return
        self.policies.append(name)
        detectors = entry.get("detectors") or []
        if not isinstance(detectors, list):
            self._problem(name, f"Its detectors are {_shown(detectors)}, not a list: they run with their defaults.")
            detectors = []
        seen: set[str] = set()
        off = {each for setting in detectors for each in self._detector(name, setting, seen)}
        behavioral, learning = entry.get("behavioral") is True, entry.get("machine_learning") is True
        for each, cls in self.known.items():
            if each not in off and cls.declaration.runs(behavioral=behavioral, machine_learning=learning):
                self.wants.setdefault(each, []).append(name)
        if behavioral and learning:
            self._analysis(name, entry)

    def chosen(self) -> list[Chosen]:
        """Make the detectors that somebody wants; one that cannot be made is nobody's."""
        made = []
        for name, cls in self.known.items():
            if not self.wants.get(name):
                continue
            try:
                declaration = cls.declaration
                parameters = declaration.resolve(
                    {**scoring(declaration, self.analysis), **self.parameters.get(name, {})}
                )
                made.append(Chosen(cls(parameters), parameters))
            except Exception as error:  # noqa: BLE001 - somebody else's code
                for policy in self.wants.pop(name):
                    self._problem(policy, f"Detector {name} cannot be made and does not run: {error!r}.")
        return made

    def _detector(self, policy: str, setting: Any, seen: set[str]) -> list[str]:
        """Take in one detector's settings; its name if they switch it off."""
        name = setting.get("name") if isinstance(setting, dict) else None
        if not isinstance(name, str):
            self._problem(policy, f"An entry of its detectors is left out, for it has no name: {_shown(setting)}.")
            return []
        if name not in self.known:
            there = ", ".join(sorted(self.known))
            self._problem(policy, f"There is no detector {_shown(name)}, its entry is left out; there are {there}.")
            return []
        if name in seen:
            self._problem(policy, f"Detector {name} is named twice: its first entry counts.")
            return []
        seen.add(name)
        enabled = setting.get("enabled", True)
        if not isinstance(enabled, bool):
            self._problem(policy, f"Detector {name}: 'enabled' is {_shown(enabled)}, not true or false: it runs.")
            enabled = True
        given = setting.get("parameters") or {}
        try:
            if not isinstance(given, dict):
                raise ConfigError(f"detector {name}: its parameters are {_shown(given)}, no table")
            self.known[name].declaration.resolve(given)
        except ConfigError as error:
            self._problem(policy, f"{_sentence(str(error))}; its parameters are left out.")
        else:
            if given:
                self.parameters.setdefault(name, given)
        return [] if enabled else [name]

    def _analysis(self, policy: str, entry: dict[str, Any]) -> None:
        """Take in one policy's threshold, budget and models; the smallest threshold is judged by, the oldest policy's models hold for all."""
        threshold = entry.get("anomaly_threshold", 0.8)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            self._problem(policy, f"Its anomalyThreshold is {_shown(threshold)}, not a number from 0 to 1: 0.8 holds.")
            threshold = 0.8
        self.thresholds[policy] = float(threshold)
        self.analysis["threshold"] = min(self.thresholds.values())
        limit = entry.get("alert_budget_per_day", budget.DEFAULT)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            self._problem(
                policy, f"Its alertBudgetPerDay is {_shown(limit)}, not a count from 0 on: {budget.DEFAULT} holds."
            )
            limit = budget.DEFAULT
        self.budgets[policy] = limit
        given = entry.get("models") or []
        if not given or "models" in self.analysis:
            return
        try:
            if not isinstance(given, list):
                raise ConfigError(f"its models are {_shown(given)}, no list")
            models.parse(given)
        except ConfigError as error:
            self._problem(policy, f"{_sentence(str(error))}; the built-in models run.")
        else:
            self.analysis["models"] = declared(given)

    def _problem(self, policy: str, sentence: str) -> None:
        self.problems.setdefault(policy, []).append(sentence)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"
