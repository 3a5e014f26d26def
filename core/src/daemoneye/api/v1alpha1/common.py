"""What all kinds of the API share: names, the base model, the metadata and the merge rules.

Responsible for the habits of every model (frozen, strict, camelCase outside and snake_case inside, unknown keys
refused); not for any one kind.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

GROUP: Final = "daemoneye.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "daemoneye.io/v1alpha1"

MERGE_KEY: Final = "x-daemoneye-merge"

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
