"""Finding: what a detector found, as an object of the Kubernetes API in its subject's namespace.

Responsible for the object's form. The finding that travels from analytics is :class:`daemoneye.findings.Finding`; the operator gathers
those of one detector, workload, image and key into one object, so that a flood is a count.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from daemoneye.api.v1alpha1.common import Condition, Model, ObjectMeta, crd, rules

KIND: Final = "Finding"

Text = Annotated[str, StringConstraints(max_length=1100)]


class FindingTechnique(Model):
    """A technique of MITRE ATT&CK."""

    id: str = Field(description="Its id, such as T1059.004.", max_length=16)
    name: str = Field(description="Its name.", max_length=128)


class FindingProcess(Model):
    """A process, in short."""

    pid: int = Field(ge=0, description="Process id on the node.", json_schema_extra=crd(format="int64"))
    exe: str = Field(default="", description="Path of the executable.", max_length=4200)
    argv: tuple[Annotated[str, StringConstraints(max_length=4200)], ...] = Field(
        default=(), description="Arguments, cut if they are long.", max_length=2100, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip


class FindingSubject(FindingProcess):
    """Who did it: the first process that was seen."""

    node: str = Field(description="Node that it ran on.", max_length=253)
    namespace: str = Field(default="", description="Namespace of the pod; empty outside of pods.", max_length=63)
    pod: str = Field(default="", description="Name of the pod.", max_length=253)
    pod_uid: str = Field(default="", alias="podUID", description="UID of the pod.", max_length=64)
    container: str = Field(default="", description="Name of the container in the pod.", max_length=253)
    container_id: str = Field(default="", alias="containerID", description="Id of the container.", max_length=128)
    image: str = Field(default="", description="Image of the container.", max_length=1024)
    workload: str = Field(
        default="",
        description="namespace/ownerKind/ownerName/container, or host/systemd/unit outside of pods.",
        max_length=1100,
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the pod.", max_length=128)
    start_time: str = Field(default="", description="When the process started, RFC 3339.", max_length=40)
    src_ip: str = Field(
        default="", alias="srcIP", description="Who opened the conversation that it is about.", max_length=64
    )
    src_port: int = Field(
        default=0, ge=0, le=65_535, description="Its port there.", json_schema_extra=crd(format="int32")
    )
    dst_ip: str = Field(default="", alias="dstIP", description="The other side of the conversation.", max_length=64)
    dst_port: int = Field(
        default=0, ge=0, le=65_535, description="The port of the other side.", json_schema_extra=crd(format="int32")
    )
    proto: str = Field(default="", description="Protocol of the conversation, such as tcp.", max_length=16)


class FindingSpec(Model):
    """The facts. They do not change."""

    detector: str = Field(description="Detector that found it.", min_length=1, max_length=63)
    severity: Literal["informational", "low", "medium", "high", "critical"] = Field(description="How bad it is.")
    score: float = Field(ge=0, le=1, description="How bad or unlikely, from 0 to 1.")
    title: str = Field(description="One line for people.", max_length=1100)
    key: str = Field(
        default="", description="What it is about: findings with the same key repeat each other.", max_length=1100
    )
    subject: FindingSubject = Field(description="Who did it: the first process that was seen.")
    techniques: tuple[FindingTechnique, ...] = Field(
        default=(), description="Techniques of MITRE ATT&CK, the most telling first.", max_length=32, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip
    attack_version: str = Field(default="", description="Release of ATT&CK that they are from.", max_length=16)
    explanation: tuple[Text, ...] = Field(
        default=(), description="Sentences that say why.", max_length=32, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip
    confidence: float = Field(
        default=1.0, ge=0, le=1, description="How sure the detector is of its facts, from 0 to 1."
    )
    confidence_reasons: tuple[Text, ...] = Field(
        default=(), description="Sentences that say what lowers it.", max_length=32, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip
    policies: tuple[Annotated[str, StringConstraints(max_length=253)], ...] = Field(
        default=(), description="Policies that the subject belongs to.", max_length=64, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip
    process_tree: tuple[FindingProcess, ...] = Field(
        default=(), description="From the oldest known ancestor to the subject.", max_length=17, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="atomic"),
    )  # fmt: skip


class FindingStatus(Model):
    """How often, and when."""

    count: int = Field(default=0, ge=0, description="How often it was found.", json_schema_extra=crd(format="int64"))
    first_seen: str | None = Field(
        default=None, description="When it was first seen, RFC 3339.", json_schema_extra=crd(format="date-time")
    )
    last_seen: str | None = Field(
        default=None, description="When it was last seen, RFC 3339.", json_schema_extra=crd(format="date-time")
    )
    last_finding_id: str = Field(
        default="", alias="lastFindingID", description="Id of the last one in the stream of findings.", max_length=64
    )
    observed_generation: int = Field(
        default=0,
        ge=0,
        description="Generation of the spec that this status is about.",
        json_schema_extra=crd(format="int64"),
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="None so far.", max_length=16, strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["type"]),
    )  # fmt: skip


class Finding(Model):
    """A Finding object."""

    api_version: Literal["daemoneye.io/v1alpha1"] = Field(
        description="Version of the API that the object is written in."
    )
    kind: Literal["Finding"] = Field(description="Kind of the object.")
    metadata: ObjectMeta = Field(description="The object's name and labels.")
    spec: FindingSpec = Field(
        description="The facts. They do not change.",
        json_schema_extra=rules(
            ("self == oldSelf", "a finding's facts are immutable; verdicts are DetectionException objects")
        ),
    )
    status: FindingStatus | None = Field(default=None, description="How often and when, kept by the operator.")
