"""What nodes say to one policy.

Responsible for sorting the nodes that a policy selects by their answer to its present generation; not for the words that a status has for it
(:mod:`daemoneye_operator.reconcile.status`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemoneye.escape import escape
from daemoneye.nodeconfig import REFUSED, PolicyAnswer
from daemoneye_operator.reconcile.nodes import NodeReport
from daemoneye_operator.reconcile.policies import Policy
from daemoneye_operator.reconcile.selection import Plan

_REASON: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


@dataclass(frozen=True, slots=True, order=True)
class Trouble:
    """A node, its reason in one word and its sentence, safe to show."""

    node: str
    reason: str
    message: str


@dataclass(slots=True)
class Answers:
    """The nodes that a policy selects, in order of their names, each in exactly one of the first five lists.

    Attributes:
        selected: All of them.
        running: Run the policy as it is now.
        pending: Are heard of, but have not come so far.
        unheard: Were never heard of.
        silent: Are heard of no more, with when they last were, seconds since 1970.
        refused: Refuse the policy, or the plan does for them.
        no_programs: Those of `running` whose programs do not run.
        no_capture: Those of `running` that do not capture as asked.
        partly: Those of `running` that do as asked and see less than they might, for their kernel lacks something.
    """

    selected: Sequence[str]
    running: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    silent: list[tuple[str, float]] = field(default_factory=list)
    refused: list[Trouble] = field(default_factory=list)
    no_programs: list[Trouble] = field(default_factory=list)
    no_capture: list[Trouble] = field(default_factory=list)
    partly: list[Trouble] = field(default_factory=list)


def sort(policy: Policy, plan: Plan, reports: Mapping[str, NodeReport], heard_since: float) -> Answers:
    """Sort the nodes that the plan has for a policy; one that was last heard of before `heard_since` is silent."""
    answers = Answers(plan.selected.get(policy.uid, ()))
    planned = plan.refused.get(policy.uid)
    excluded = frozenset(planned.nodes) if planned else frozenset()
    places = {
        config_hash: index
        for config_hash, config in plan.configs.items()
        for index, one in enumerate(config.policies)
        if one.uid == policy.uid
    }
    for node in answers.selected:
        if planned and node in excluded:
            answers.refused.append(Trouble(node, planned.refusal.reason, planned.refusal.message))
            continue
        report = reports.get(node)
        if report is None:
            answers.unheard.append(node)
        elif report.received < heard_since:
            answers.silent.append((node, report.received))
        else:
            config_hash = plan.nodes.get(node, "")
            _place(answers, node, report, _answer(policy, report, config_hash, places.get(config_hash, 0)))
    return answers


def _answer(policy: Policy, report: NodeReport, config_hash: str, place: int) -> PolicyAnswer | None:
    """What a node says to a policy as it is now, which in its configuration has this place; None while it has not come so far."""
    if report.answer.hash != config_hash:
        return None
    said = report.answer.policies
    # Sensors answer in their configuration's order: to look for 64 policies in a thousand nodes' answers takes most of a pass.
    if place < len(said) and _is_to(said[place], policy):
        return said[place]
    return next((answer for answer in said if _is_to(answer, policy)), None)


def _is_to(answer: PolicyAnswer, policy: Policy) -> bool:
    return answer.uid == policy.uid and answer.generation == policy.generation and answer.name == policy.name


def _place(answers: Answers, node: str, report: NodeReport, answer: PolicyAnswer | None) -> None:
    if answer is None:
        answers.pending.append(node)
        return
    if answer.state == REFUSED:
        answers.refused.append(_trouble(node, answer.reason, "NodesRefuse", answer.message))
        return
    answers.running.append(node)
    reason, message = report.answer.problem
    if not report.answer.programs:
        answers.no_programs.append(_trouble(node, reason, "BadProgram", message or report.error))
    elif not report.answer.capture:
        answers.no_capture.append(_trouble(node, reason, "BadFilter", message))
    elif reason:
        answers.partly.append(_trouble(node, reason, "MissingKernelFeature", message))


def _trouble(node: str, reason: str, otherwise: str, message: str) -> Trouble:
    """A node may be hostile: a reason that is no word as conditions want it is replaced, and the sentence escaped."""
    return Trouble(node, reason if _REASON.fullmatch(reason) else otherwise, escape(message))
