"""The settings of a policy one by one: what each asks, how it merges, and what becomes of it beside other policies.

Responsible for reading a policy as a list of settings; not for form (:mod:`daemoneye_cli.show.policy`), nor for what a
node runs in the end, which the operator decides and the policy's status tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from daemoneye.api.explain import Spelling, keys
from daemoneye.api.v1alpha1.common import MERGE_KEY
from daemoneye.api.v1alpha1.policy import PolicySpec
from daemoneye.selectors import Selector

RULES: Final = {
    "or": "on as soon as one policy asks for it",
    "max": "the largest value of all policies wins",
    "union": "what all policies ask for is joined",
    "scoped": "each policy keeps its own",
    "singleton": "a node has one; who contradicts an older policy is refused",
}
# What a policy says below a switch that it has off does not count.
_SWITCHES: Final = {
    "networkMonitoring": "enablePacketCapture",
    "federation": "enableFederation",
    "stixTaxii": "enableIntegration",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``given`` is whether it differs from its default; ``effects`` say what other policies make of it."""

    path: str
    value: Any
    default: Any
    merge: str
    description: str
    given: bool
    effects: tuple[str, ...] = ()
    inactive: str = ""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Another policy that meets this one: on how many nodes, and by name on the first."""

    policy: str
    nodes: int
    first: str


def settings(
    spec: Mapping[str, Any],
    *,
    inactive: Mapping[str, str] | None = None,
    others: Sequence[tuple[str, Mapping[str, Any]]] = (),
    spelling: Spelling = "camel",
) -> list[Setting]:
    """Give every setting of a spec in JSON form (keys as in the CRD), in the order of the reference.

    Args:
        spec: The policy's.
        inactive: Settings without effect by path, with the reason.
        others: Policies that meet this one, by name, the oldest first.
        spelling: How paths are written.
    """
    gaps = inactive or {}
    return [
        Setting(
            path,
            value,
            default,
            rule,
            field.description or "",
            value != default,
            tuple(_effects(section, key, value, default, rule, others)),
            gaps.get(path, ""),
        )
        for section, key, path, field, value in _walk(spec, spelling)
        for default, rule in [(_default(field), _rule(field))]
    ]


def unknown(spec: Mapping[str, Any]) -> list[str]:
    """Give the paths that this version does not know: a newer installation may."""
    found = []
    known = keys(PolicySpec, "camel")
    for section, content in spec.items():
        inner = _model(known[section]) if section in known else None
        if inner is None:
            found.append(f"spec.{section}")
        elif isinstance(content, Mapping):
            found += [f"spec.{section}.{key}" for key in content if key not in keys(inner, "camel")]
    return found


def overlaps(
    spec: Mapping[str, Any], others: Iterable[tuple[str, Mapping[str, Any]]], nodes: Mapping[str, Mapping[str, str]]
) -> list[Overlap]:
    """Give the policies that select some of the same nodes; ``nodes`` are the labels of those that have a sensor, by name."""
    own = _selected(spec, nodes)
    found = []
    for name, other in others:
        if common := sorted(own & _selected(other, nodes)):
            found.append(Overlap(name, len(common), common[0]))
    return found


def shown(value: Any) -> str:
    """Give a value in a few words."""
    if value in (None, "", [], {}):
        return "none"
    match value:
        case bool():
            return "on" if value else "off"
        case list():
            return ", ".join(map(shown, value))
        case dict() if set(value) <= {"matchLabels", "matchExpressions"}:
            labels = [f"{key}={text}" for key, text in sorted((value.get("matchLabels") or {}).items())]
            return ", ".join([*labels, *map(_requirement, value.get("matchExpressions") or ())]) or "everything"
        case {"enabled": False} if "name" not in value:
            return "off"  # whatever else it says
        case dict():
            return " ".join(f"{key}={shown(item)}" for key, item in value.items() if item not in (None, "", {}))
    return str(value)


def _walk(spec: Mapping[str, Any], spelling: Spelling) -> Iterator[tuple[str, str, str, FieldInfo, Any]]:
    root = "spec" if spelling == "camel" else "enterprise"
    sections = zip(keys(PolicySpec, "camel").items(), keys(PolicySpec, spelling), strict=True)
    for (section, outer), spelled in sections:
        model = _model(outer)
        if model is None:
            continue
        content = spec.get(section) or {}
        for (key, field), name in zip(keys(model, "camel").items(), keys(model, spelling), strict=True):
            value, default = content.get(key), _default(field)
            if isinstance(default, dict) and isinstance(value, Mapping):
                value = {**default, **value}  # what it leaves out is as by default
            yield section, key, f"{root}.{spelled}.{name}", field, default if value is None else value


def _model(field: FieldInfo) -> type[BaseModel] | None:
    candidates = (field.annotation, *get_args(field.annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json", by_alias=True)
    return list(default) if isinstance(default, tuple) else default


def _rule(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get(MERGE_KEY, "")) if isinstance(extra, Mapping) else ""


def _effects(
    section: str, key: str, value: Any, default: Any, rule: str, others: Sequence[tuple[str, Mapping[str, Any]]]
) -> Iterator[str]:
    for name, other in others:
        content = other.get(section) or {}
        switch = _SWITCHES.get(section)
        if switch and not content.get(switch):
            continue
        theirs = content.get(key)
        theirs = default if theirs is None else theirs
        if theirs == value:
            continue
        if rule == "or" and theirs:
            yield f"on all the same where {name} meets it"
        elif rule == "max" and theirs > value:
            yield f"{shown(theirs)} where {name} meets it"
        elif rule == "union" and theirs != default:
            yield f"joined with {shown(theirs)} of {name}"
        elif rule == "singleton" and default not in (theirs, value):
            yield f"{name} asks for {shown(theirs)}: the younger of the two is refused"
        elif rule == "singleton" and theirs != default:
            yield f"{shown(theirs)} where {name} meets it, which asks for that"


def _selected(spec: Mapping[str, Any], nodes: Mapping[str, Mapping[str, str]]) -> set[str]:
    selector = Selector.parse({"matchLabels": (spec.get("selector") or {}).get("nodeSelector") or {}})
    return {name for name, labels in nodes.items() if selector.matches(labels)}


def _requirement(one: Mapping[str, Any]) -> str:
    values = f" ({', '.join(one.get('values') or ())})" if one.get("values") else ""
    return f"{one.get('key')} {one.get('operator')}{values}"
