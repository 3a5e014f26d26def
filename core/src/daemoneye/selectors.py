"""Kubernetes label selectors, compiled once and asked often.

Responsible for the meaning of ``matchLabels`` and ``matchExpressions`` (Kubernetes API conventions, LabelSelector); not for what is
selected by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from daemoneye.errors import ConfigError

OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label; ``values`` is empty for Exists and DoesNotExist."""

    key: str
    operator: str
    values: frozenset[str]

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it. As in Kubernetes, NotIn holds where the label is missing."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value is not None and value in self.values
        if self.operator == "NotIn":
            return value is None or value not in self.values
        return (value is not None) is (self.operator == "Exists")


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements together; without any it selects everything, as an empty LabelSelector does."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any] | None) -> Self:
        """Compile the JSON form of a LabelSelector; None is the empty one.

        Raises:
            ConfigError: An operator is unknown, or its values do not fit it.
        """
        value = value or {}
        labels: Mapping[str, str] = value.get("matchLabels") or {}
        expressions: Sequence[Mapping[str, Any]] = value.get("matchExpressions") or ()
        return cls(
            (
                *(Requirement(key, "In", frozenset((label,))) for key, label in sorted(labels.items())),
                *map(_requirement, expressions),
            )
        )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.holds(labels) for requirement in self.requirements)


def _requirement(expression: Mapping[str, Any]) -> Requirement:
    key, operator, values = str(expression["key"]), expression["operator"], expression.get("values") or ()
    if operator not in OPERATORS:
        raise ConfigError(f"matchExpressions: operator {operator!r} is none of {', '.join(OPERATORS)}")
    if bool(values) is not (operator in ("In", "NotIn")):
        wanted = "needs values" if not values else "takes no values"
        raise ConfigError(f"matchExpressions: {operator} of {key!r} {wanted}")
    return Requirement(key, operator, frozenset(map(str, values)))
