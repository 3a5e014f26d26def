"""A policy explained: each setting with what it asks, how it merges and what becomes of it, in 80 columns.

Responsible for form and escaping; the facts are :mod:`daemoneye_cli.settings`' and the policy's status'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from daemoneye_cli.settings import RULES, Overlap, Setting, shown
from daemoneye_cli.show.cluster import policy_object, refusal, table, wrap
from daemoneye_cli.survey import PolicyState


def policy_lines(policy: PolicyState, overlaps: Sequence[Overlap], settings: Sequence[Setting]) -> Iterator[str]:
    """Give a policy of the cluster: its state, whom it meets, its settings."""
    yield wrap(f"DaemonEyePolicy {policy.name}", 0)
    yield wrap(f"Ready {policy.status}, {policy.reason}: {policy.message}", 2, 2)
    for condition in policy.conditions:
        # Ready is the sum: the condition that it is taken from says the same.
        same = (condition.get("reason"), condition.get("message")) == (policy.reason, policy.message)
        if condition.get("status") != "True" and not same:
            told = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
            yield wrap(f"{condition.get('type')} {condition.get('status')}, {told}", 2, 2)
    ready, desired = (int(policy.sensors.get(key) or 0) for key in ("ready", "desired"))
    yield wrap(f"Nodes: {ready} of {desired} {'runs' if ready == 1 else 'run'} it as it is now.", 2, 2)
    yield from refusal(policy.sensors)
    last = f", the last at {policy.last_finding}" if policy.last_finding else ""
    yield wrap(f"Findings: {policy.findings}{last}.", 2, 2)
    if overlaps:
        met = "; ".join(f"{one.policy} on {_nodes(one.nodes)} (first {one.first})" for one in overlaps)
        yield wrap(f"Meets other policies: {met}.", 2, 2)
    else:
        yield wrap("Meets no other policy.", 2, 2)
    yield ""
    yield from setting_lines(settings)


def setting_lines(settings: Sequence[Setting]) -> Iterator[str]:
    """Give the settings: first those that were chosen, in full, then the others by their default."""
    given = [one for one in settings if one.given or one.inactive or one.effects]
    yield "What it asks for:" if given else "It asks for nothing but the defaults."
    for setting in given:
        yield wrap(f"{setting.path}: {shown(setting.value)}", 2, 4)
        yield wrap(setting.description, 6)
        if setting.merge:
            yield wrap(f"Several policies: {RULES.get(setting.merge, setting.merge)}.", 6)
        for effect in setting.effects:
            yield wrap(f"Here: {effect}.", 6, 2)
        if setting.inactive:
            yield wrap(f"INACTIVE: {setting.inactive}.", 6, 2)
    rest = [one for one in settings if one not in given]
    if rest:
        yield ""
        yield "Left at the default:"
        yield table(
            [("  SETTING", "VALUE", "MERGE"), *((f"  {one.path}", shown(one.value), one.merge) for one in rest)]
        )
        used = dict.fromkeys(one.merge for one in rest if one.merge)
        yield from (wrap(f"{rule}: {RULES[rule]}", 2, 2) for rule in used if rule in RULES)


def policy_objects(
    policy: PolicyState | None, name: str, overlaps: Sequence[Overlap], settings: Sequence[Setting]
) -> Iterator[dict[str, Any]]:
    """Give the same as objects for programs; a file has no state."""
    if policy is not None:
        yield {**policy_object(policy), "meets": [dataclasses.asdict(one) for one in overlaps]}
    for setting in settings:
        yield {"kind": "setting", "policy": name, **dataclasses.asdict(setting)}


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"
