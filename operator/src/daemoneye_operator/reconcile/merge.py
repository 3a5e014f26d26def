"""Policies that meet on a node become one configuration.

Responsible for the meaning of each field's declared merge rule (``daemoneye.api.v1alpha1.common.MergeRule``) and for who is refused; not
for which policies meet (:mod:`daemoneye_operator.reconcile.selection`).

The older policy has precedence. A setting that a switch governs counts only where that policy has the switch on: a policy that captures
nothing does not widen what others capture. For a ``singleton`` the field's default is no opinion, because the API server writes defaults
into every object, and what nobody chose must not contradict what somebody did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from daemoneye.api.v1alpha1.common import MERGE_KEY, LabelSelector
from daemoneye.nodeconfig import MAX_BYTES, MAX_POLICIES, NodeConfig, NodePolicy
from daemoneye_operator.reconcile.policies import Policy

CONFLICT: Final = "Conflict"
TOO_MANY: Final = "TooManyPolicies"

# The merged sections repeat what policies say, once at most.
_ROOM: Final = MAX_BYTES // 2
_NODE: Final = ("kernel_monitoring", "network_monitoring")
_CLUSTER: Final = ("federation", "stix_taxii", "analytics")
# A section's settings without an entry of their own are governed by the section's switch, if it has one; other switches are not.
_SWITCHES: Final = {
    "etw_session_name": "enable_etw",
    "es_client_name": "enable_endpoint_security",
    "enable_socket_events": "enable_ebpf",
    "enable_flow_events": "enable_packet_capture",
    "enable_dns_events": "enable_packet_capture",
    "kernel_monitoring": "enable_ebpf",
    "network_monitoring": "enable_packet_capture",
    "federation": "enable_federation",
    "stix_taxii": "enable_integration",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a policy is not effective: a reason in one word, a sentence, and for a conflict the setting and the policy that it is with."""

    reason: str
    message: str
    setting: str = ""
    other: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """The configuration of the policies that are effective, and by UID who is not."""

    config: NodeConfig = field(default_factory=NodeConfig)
    refused: Mapping[str, Refusal] = field(default_factory=dict)


def merge(policies: Sequence[Policy]) -> Merged:
    """What nodes run on which these policies meet; their order does not matter, for their age decides.

    In the merged sections a field of rule ``or``, ``max`` or ``singleton`` keeps its name and type; one of rule ``union`` becomes a sorted list
    under its plural (``capture_filters``), in which an empty text stands for what the field's default means. ``scoped`` fields stay with each policy.
    """
    admitted, refused = _admit(policies, _NODE, MAX_POLICIES)
    effective = _fitting(admitted, refused)
    config = NodeConfig(
        policies=tuple(map(_node_policy, effective)),
        kernel=merge_section("kernel_monitoring", effective),
        network=merge_section("network_monitoring", effective),
    )
    return Merged(config, refused)


def cluster_conflicts(policies: Sequence[Policy]) -> dict[str, Refusal]:
    """By UID, the policies that contradict an older one in what a cluster has once (federation, intelligence, analytics)."""
    return _admit(policies, _CLUSTER, len(policies))[1]


def merge_section(section: str, policies: Sequence[Policy]) -> dict[str, Any]:
    """One section's settings merged by their rules, for policies that do not contradict each other."""
    sections = [getattr(policy.spec, section) for policy in policies]
    if not sections:
        return {}
    merged: dict[str, Any] = {}
    for name, rule in _rules(type(sections[0])).items():
        asking = [getattr(one, name) for one in sections if _counts(one, section, name)]
        default = type(sections[0]).model_fields[name].default
        if rule == "or":
            merged[name] = any(asking)
        elif rule == "max":
            merged[name] = max(asking, default=default)
        elif rule == "union":
            merged[f"{name.removesuffix('s')}s"] = sorted({item for value in asking for item in _items(value)})
        elif rule == "singleton":
            merged[name] = next((value for value in asking if value != default), default)
    return merged


def _admit(policies: Sequence[Policy], sections: Iterable[str], limit: int) -> tuple[list[Policy], dict[str, Refusal]]:
    """Let in the oldest first, each unless it contradicts one that is in, and no more than `limit`."""
    held: dict[tuple[str, str], tuple[Any, str]] = {}
    effective: list[Policy] = []
    refused: dict[str, Refusal] = {}
    for policy in sorted(policies, key=lambda policy: policy.age):
        opinions = {
            (section, name): value
            for section in sections
            for name, value in _opinions(getattr(policy.spec, section), section)
        }
        clash = next((place for place, value in opinions.items() if place in held and held[place][0] != value), None)
        if clash is not None:
            refused[policy.uid] = _conflict(policy, clash, opinions[clash], *held[clash])
        elif len(effective) >= limit:
            refused[policy.uid] = Refusal(
                TOO_MANY,
                f"{limit} older policies are effective on the same node, which is the most: delete one, or let nodeSelector part them",
            )
        else:
            effective.append(policy)
            for place, value in opinions.items():
                held.setdefault(place, (value, policy.name))
    return effective, refused


def _fitting(admitted: list[Policy], refused: dict[str, Refusal]) -> list[Policy]:
    """Those that one document holds, oldest first; filters and selectors of 64 policies may be longer than it."""
    room = _ROOM
    effective = []
    for policy in admitted:
        size = len(NodeConfig((_node_policy(policy),)).encode())
        if size > room:
            message = "its selectors and filters and those of older policies on the same node are too long together: shorten them"
            refused[policy.uid] = Refusal(TOO_MANY, message)
            continue
        room -= size
        effective.append(policy)
    return effective


def _opinions(section_value: BaseModel, section: str) -> Iterable[tuple[str, Any]]:
    for name, rule in _rules(type(section_value)).items():
        value = getattr(section_value, name)
        if (
            rule == "singleton"
            and value != type(section_value).model_fields[name].default
            and _counts(section_value, section, name)
        ):
            yield name, value


def _counts(section_value: BaseModel, section: str, name: str) -> bool:
    switch = _SWITCHES.get(name) or (None if name.startswith("enable_") else _SWITCHES.get(section))
    return switch is None or bool(getattr(section_value, switch))


def _rules(model: type[BaseModel]) -> dict[str, str]:
    extras = {name: info.json_schema_extra for name, info in model.model_fields.items()}
    return {
        name: str(extra[MERGE_KEY]) for name, extra in extras.items() if isinstance(extra, dict) and MERGE_KEY in extra
    }


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, list | tuple):
        return value
    return ("" if value is None else value,)


def _conflict(policy: Policy, place: tuple[str, str], mine: Any, theirs: Any, other: str) -> Refusal:
    section, name = place
    spec = type(policy.spec)
    inner = type(getattr(policy.spec, section))
    path = f"spec.{spec.model_fields[section].alias or section}.{inner.model_fields[name].alias or name}"
    message = (
        f"{path} is {_shown(mine)}, but the older policy {other} says {_shown(theirs)} and there can be only one: "
        "make them equal, remove one of the two, or let nodeSelector part the policies"
    )
    if section in _CLUSTER:
        message = message.removesuffix(", or let nodeSelector part the policies").replace(
            "equal, remove", "equal or remove"
        )
    return Refusal(CONFLICT, message, path, other)


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 80 else f"{text[:79]}…") if isinstance(value, str) else text


def _node_policy(policy: Policy) -> NodePolicy:
    selector = policy.spec.selector
    return NodePolicy(
        name=policy.name,
        uid=policy.uid,
        generation=policy.generation,
        host=selector.namespace_selector is None and selector.pod_selector is None,
        namespace_selector=_selector(selector.namespace_selector),
        pod_selector=_selector(selector.pod_selector),
        kernel=policy.spec.kernel_monitoring.model_dump(mode="json"),
        network=policy.spec.network_monitoring.model_dump(mode="json"),
    )


def _selector(value: LabelSelector | None) -> dict[str, Any] | None:
    return None if value is None else value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
