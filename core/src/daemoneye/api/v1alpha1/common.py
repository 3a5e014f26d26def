"""What all kinds of the API share: names, the base model, the metadata and the merge rules.

Responsible for the habits of every model (frozen, strict, camelCase outside and snake_case inside, unknown keys
refused); not for any one kind.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

GROUP: Final = "daemoneye.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "daemoneye.io/v1alpha1"

MERGE_KEY: Final = "x-daemoneye-merge"
CRD_KEY: Final = "x-daemoneye-crd"
"""Keywords of a field's or model's structural schema that pydantic does not know: Kubernetes' own, or a replacement for what it would say."""

MergeRule = Literal["or", "max", "union", "scoped", "singleton"]
"""How the policies that meet on one node become one configuration.

* ``or``: on as soon as one policy asks for it; cost follows the union, belonging follows each policy.
* ``max``: the largest value wins.
* ``union``: lists are joined, filters are OR-ed.
* ``scoped``: each policy keeps its own value for the workloads that it selects.
* ``singleton``: a node has one; policies that disagree are refused but for the oldest.
"""


def merge(rule: MergeRule) -> JsonDict:
    """Give the ``json_schema_extra`` that says how a field merges."""
    return {MERGE_KEY: rule}


def crd(**keywords: JsonValue) -> JsonDict:
    """Give the ``json_schema_extra`` with keywords for the CRD; names with dashes are written with underscores (``x_kubernetes_…``)."""
    return {CRD_KEY: {key.replace("_", "-") if key.startswith("x_") else key: value for key, value in keywords.items()}}


def rules(*pairs: tuple[str, str]) -> JsonDict:
    """Give the ``json_schema_extra`` with CEL rules that the API server checks: (rule, what it says when the rule does not hold)."""
    return crd(x_kubernetes_validations=[{"rule": rule, "message": message} for rule, message in pairs])


def misfit(setting: str, text: str) -> PydanticCustomError:
    """Make the error of settings that are right one by one but do not fit together; ``setting`` is the one to blame."""
    # The text goes in as a value, not as a template: names from the user's file may hold braces.
    return PydanticCustomError("misfit", "{text}", {"text": text, "setting": setting})


class Model(BaseModel):
    """Base of every model of the API.

    Values are checked as an API server checks them against the CRD: no text for a number, no number for a switch.
    A known key without a value counts as left out, which is what the API server makes of null, too.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        strict=True,
        validate_by_alias=True,
        validate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values())}
        return {key: value for key, value in data.items() if value is not None or key not in known}


class ObjectMeta(Model):
    """The part of Kubernetes' ObjectMeta that DaemonEye reads; the rest is the API server's and is let through."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(
        description="Name of the object, unique in the cluster.",
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        examples=["one-machine"],
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, for selecting the object.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations; DaemonEye leaves them alone.")
    generation: int = Field(default=0, ge=0, description="Count of changes to the spec, kept by the API server.")
    uid: str = Field(
        default="", description="The object's identity: one that is made again under its name has another."
    )
    creation_timestamp: str = Field(default="", description="When the object was made, RFC 3339.")


class Condition(Model):
    """One condition of a status, as Kubernetes' API conventions have it."""

    type: str = Field(description="Name of the condition.", max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int = Field(
        default=0,
        ge=0,
        description="Generation of the spec that this was found for.",
        json_schema_extra=crd(format="int64"),
    )
    last_transition_time: str = Field(
        description="When the status changed last, RFC 3339.", json_schema_extra=crd(format="date-time")
    )
    reason: str = Field(
        description="Why, as one word for programs and columns.", min_length=1, max_length=1024,
        pattern=r"^[A-Za-z][A-Za-z0-9_,:]*$",
    )  # fmt: skip
    message: str = Field(default="", description="Why, as a sentence for people, with what to do.", max_length=4096)


class LabelRequirement(Model):
    """One requirement on a label."""

    key: str = Field(description="The label's key.", min_length=1, max_length=317)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label's value relates to the values: In, NotIn, Exists or DoesNotExist."
    )
    values: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = Field(
        default=(), description="Values for In and NotIn; empty for the others.", max_length=64, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.operator in ['In', 'NotIn'] ? size(self.values) > 0 : size(self.values) == 0",
                "In and NotIn need values, Exists and DoesNotExist take none",
            )
        )
    )

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if bool(self.values) is not (self.operator in {"In", "NotIn"}):
            raise misfit("values", "In and NotIn need values, Exists and DoesNotExist take none")
        return self


class LabelSelector(Model):
    """Kubernetes' LabelSelector: all of its requirements together; an empty one selects everything."""

    match_labels: dict[str, str] = Field(
        default_factory=dict, description="Labels with the values that they must have.", max_length=32
    )
    match_expressions: tuple[LabelRequirement, ...] = Field(
        default=(), description="Further requirements on labels.", max_length=32, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip


class SecretReference(Model):
    """A Secret in the release's namespace."""

    name: str = Field(description="Name of the Secret.", min_length=1, max_length=253)
