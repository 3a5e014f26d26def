"""What a policy is for: nodes, namespaces, pods.

Responsible for the settings; what they select is decided by :mod:`daemoneye.selectors`, nodes by the operator and pods on the node.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from daemoneye.api.v1alpha1.common import LabelSelector, Model, crd, merge


class Toleration(Model):
    """Kubernetes' Toleration."""

    key: str = Field(
        default="", description="Key of the taint; empty matches every key with operator Exists.", max_length=317
    )
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="How value relates to the taint's: Exists or Equal. Equal by default."
    )
    value: str = Field(default="", description="Value of the taint for Equal.", max_length=63)
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="", description="Effect of the taint; empty matches every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, description="Seconds that a NoExecute taint is tolerated. For ever by default.",
        json_schema_extra=crd(format="int64"),
    )  # fmt: skip


class Selector(Model):
    """What a policy is for."""

    node_selector: dict[str, str] = Field(
        default_factory=dict,
        description="Labels of the nodes that the policy is for. Empty by default, which means every node with a sensor.",
        max_length=32,
        json_schema_extra=merge("scoped"),
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        description=(
            "Taints that the sensors tolerate in addition to what the installation says, on all nodes: there is one "
            "DaemonSet. A change restarts the sensors, which take over where they were. Empty by default."
        ),
        max_length=32,
        strict=False,
        json_schema_extra=merge("union") | crd(x_kubernetes_list_type="atomic"),
    )
    namespace_selector: LabelSelector | None = Field(
        default=None,
        description=(
            "Labels of the namespaces whose pods the policy is for. None by default, which means every namespace. "
            "With it, processes outside of pods do not belong to the policy."
        ),
        json_schema_extra=merge("scoped"),
    )
    pod_selector: LabelSelector | None = Field(
        default=None,
        description=(
            "Labels of the pods that the policy is for. None by default, which means every pod. "
            "With it, processes outside of pods do not belong to the policy."
        ),
        json_schema_extra=merge("scoped"),
    )
