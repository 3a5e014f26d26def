"""The status of a DaemonEyePolicy: conditions, counts, the newest few findings. No rates, nothing that grows.

Responsible for its form; the operator writes it (``daemoneye_operator.reconcile.status``).
"""

from __future__ import annotations

from pydantic import Field

from daemoneye.api.v1alpha1.common import Condition, Model, crd
from daemoneye.api.v1alpha1.policy import DaemonEyePolicy


class SensorTally(Model):
    """How many nodes run the policy."""

    desired: int = Field(default=0, ge=0, description="Nodes that the policy selects.")
    ready: int = Field(default=0, ge=0, description="Nodes whose sensor runs the policy as it is now.")
    display: str = Field(default="", description="Ready of desired, for people.", max_length=32)
    refused: int = Field(default=0, ge=0, description="Nodes that refuse the policy.")
    first_refused_node: str = Field(default="", description="First of them, by name.", max_length=253)
    refused_reason: str = Field(default="", description="Its reason, one word.", max_length=64)
    refused_message: str = Field(default="", description="Its reason, one sentence.", max_length=1024)


class FindingReference(Model):
    """A Finding, in short."""

    name: str = Field(description="Name of the Finding.", max_length=253)
    namespace: str = Field(description="Its namespace.", max_length=63)
    severity: str = Field(description="Its severity.", max_length=16)
    title: str = Field(description="Its title.", max_length=256)
    time: str = Field(description="When it was seen last, RFC 3339.", json_schema_extra=crd(format="date-time"))


class FindingTally(Model):
    """Findings of the policy."""

    total: int = Field(
        default=0, ge=0, description="Findings so far, repetitions included.", json_schema_extra=crd(format="int64")
    )
    last: str | None = Field(
        default=None, description="When the last one happened, RFC 3339.", json_schema_extra=crd(format="date-time")
    )
    newest: tuple[FindingReference, ...] = Field(
        default=(), description="The newest few.", max_length=5, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip


class WorkloadTally(Model):
    """Workloads that the behavioural analyser knows, those of all policies together: it learns each once, whoever asks."""

    workloads: int = Field(default=0, ge=0, description="How many; 0 where no policy has windows scored.")
    learning: int = Field(
        default=0, ge=0, description="In phase Learning: seen too little to be judged by their own past."
    )
    calibrating: int = Field(
        default=0, ge=0, description="In phase Calibrating: learned, and too few like windows to judge by."
    )
    active: int = Field(default=0, ge=0, description="In phase Active: judged.")
    drifted: int = Field(default=0, ge=0, description="In phase Drifted: judged, and unlike before for a while.")


class InactiveSetting(Model):
    """A setting that is asked for and not served."""

    path: str = Field(description="Key path of the setting.", max_length=256)
    reason: str = Field(description="Why it has no effect.", max_length=512)


class PolicyStatus(Model):
    """What became of the policy."""

    observed_generation: int = Field(
        default=0,
        ge=0,
        description="Generation of the spec that this status is about.",
        json_schema_extra=crd(format="int64"),
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="Ready sums up the others.", max_length=16, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["type"]),
    )  # fmt: skip
    sensors: SensorTally = Field(default=SensorTally(), description="How many nodes run the policy.")
    findings: FindingTally = Field(default=FindingTally(), description="Findings of the policy.")
    analytics: WorkloadTally = Field(
        default=WorkloadTally(), description="Phases of the behavioural analyser's workloads."
    )
    inactive_settings: tuple[InactiveSetting, ...] = Field(
        default=(), description="Settings that are asked for and not served.", max_length=16, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip


class PolicyObject(DaemonEyePolicy):
    """A DaemonEyePolicy as the API server keeps it."""

    status: PolicyStatus | None = Field(default=None, description="What became of it, kept by the operator.")
