"""DetectionException: findings that somebody answers for, for some time.

Responsible for the object's form; what it suppresses is decided by ``daemoneye_operator.reconcile``.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from daemoneye.api.v1alpha1.common import Condition, Model, ObjectMeta, crd, misfit, rules

KIND: Final = "DetectionException"

_FIELDS: Final = ("detector", "workload", "image", "key")


class ExceptionScope(Model):
    """Which findings: all of what is named together, and at least one thing; in the exception's own namespace."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                " || ".join(f"has(self.{name})" for name in _FIELDS),
                "scope must name at least one of detector, workload, image, key: an exception for everything is no exception",
            )
        )
    )

    detector: str | None = Field(
        default=None, description="Name of the detector. Any by default.", min_length=1, max_length=63
    )
    workload: str | None = Field(
        default=None, description="Workload, with * and ? as wildcards. Any of the namespace by default.", min_length=1, max_length=1100,
        examples=["shop/Deployment/till/*"],
    )  # fmt: skip
    image: str | None = Field(
        default=None, description="Image, with * and ? as wildcards. Any by default.", min_length=1, max_length=1024
    )
    key: str | None = Field(
        default=None,
        description="What the finding is about (spec.key of a Finding). Anything by default.",
        min_length=1,
        max_length=1100,
    )

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if all(getattr(self, name) is None for name in _FIELDS):
            raise misfit("detector", "scope must name at least one of detector, workload, image, key")
        return self


class DetectionExceptionSpec(Model):
    """The exception: which findings, who says so, until when."""

    scope: ExceptionScope = Field(description="Which findings it is for.")
    verdict: Literal["Benign", "Accepted", "FalsePositive"] = Field(
        description="What was decided: Benign (wanted behaviour), Accepted (a risk that is lived with), FalsePositive (wrong facts)."
    )
    owner: str = Field(description="Who answers for it: a person or a team.", min_length=1, max_length=253)
    reason: str = Field(default="", description="Why, in a sentence.", max_length=1024)
    expires_at: str = Field(
        description="When it ends, RFC 3339. There is no exception for ever.", max_length=40,
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", json_schema_extra=crd(format="date-time"),
    )  # fmt: skip


class DetectionExceptionStatus(Model):
    """What became of it."""

    observed_generation: int = Field(
        default=0,
        ge=0,
        description="Generation of the spec that this status is about.",
        json_schema_extra=crd(format="int64"),
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="Ready: whether it is in force.", max_length=16, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["type"]),
    )  # fmt: skip
    suppressed: int = Field(
        default=0,
        ge=0,
        description="Findings that it kept from becoming objects.",
        json_schema_extra=crd(format="int64"),
    )


class DetectionException(Model):
    """A DetectionException object."""

    api_version: Literal["daemoneye.io/v1alpha1"] = Field(
        description="Version of the API that the object is written in."
    )
    kind: Literal["DetectionException"] = Field(description="Kind of the object.")
    metadata: ObjectMeta = Field(description="The object's name and labels.")
    spec: DetectionExceptionSpec = Field(description="Which findings, who says so, until when.")
    status: DetectionExceptionStatus | None = Field(
        default=None, description="What became of it, kept by the operator."
    )
