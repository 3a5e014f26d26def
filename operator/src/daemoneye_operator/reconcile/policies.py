"""DaemonEyePolicy objects as the operator holds them.

Responsible for reading one from the API's form and for saying in one message all that is wrong with it; not for what a setting means
(``daemoneye.api.v1alpha1.policy``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pydantic import ValidationError

from daemoneye.api.explain import explain
from daemoneye.api.v1alpha1.common import API_VERSION
from daemoneye.api.v1alpha1.policy import PolicySpec
from daemoneye.api.yamltree import Problem, Unreadable, read
from daemoneye.errors import ConfigError

_MAX_PROBLEMS: Final = 8


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy.

    Attributes:
        name: Name of the object.
        uid: Its UID.
        generation: Generation of the spec.
        created: When it was made, RFC 3339; the older one has precedence.
        spec: What it asks for.
    """

    name: str
    uid: str
    generation: int = 0
    created: str = ""
    spec: PolicySpec = field(default_factory=PolicySpec)

    @property
    def age(self) -> tuple[str, str]:
        """Sorts the oldest first; the name decides between those of one second."""
        return self.created, self.name

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Self:
        """The policy of an object that the API server gave.

        Raises:
            ConfigError: Its version is unknown or its spec is wrong; the message names each key, at most eight.
        """
        version = obj.get("apiVersion", API_VERSION)
        if version != API_VERSION:
            raise ConfigError(f"apiVersion is {version!r}: this operator reads {API_VERSION}")
        spec = obj.get("spec") or {}
        try:
            parsed = PolicySpec.model_validate(spec, by_alias=True, by_name=False)
        except ValidationError as error:
            raise ConfigError(_message(error, spec)) from None
        meta = obj["metadata"]
        return cls(
            meta["name"], meta.get("uid", ""), meta.get("generation", 0), meta.get("creationTimestamp") or "", parsed
        )


@dataclass(frozen=True, slots=True)
class Policies:
    """What a list of objects comes to: those that can be read, oldest first, and by name what is wrong with the others."""

    valid: tuple[Policy, ...] = ()
    invalid: Mapping[str, str] = field(default_factory=dict)


def read_all(objects: Iterable[Mapping[str, Any]]) -> Policies:
    """Read every object; one that is wrong keeps none of the others from working. Those being deleted are left out."""
    valid: list[Policy] = []
    invalid: dict[str, str] = {}
    for obj in objects:
        if obj["metadata"].get("deletionTimestamp"):
            continue
        try:
            valid.append(Policy.of(obj))
        except ConfigError as error:
            invalid[obj["metadata"]["name"]] = str(error)
    return Policies(tuple(sorted(valid, key=lambda policy: policy.age)), invalid)


def _message(error: ValidationError, spec: object) -> str:
    try:
        # JSON is YAML: the words that `daemoneye run --policy` has for a file serve an object, too.
        tree, _ = read(json.dumps(spec).encode())
        problems = explain(error, PolicySpec, tree, "camel", ("spec",))
    except Unreadable as unreadable:
        problems = [unreadable.problem]
    more = len(problems) - _MAX_PROBLEMS
    return "; ".join(map(_line, problems[:_MAX_PROBLEMS])) + (f"; and {more} more" if more > 0 else "")


def _line(problem: Problem) -> str:
    return f"{problem.path} {problem.text}"
