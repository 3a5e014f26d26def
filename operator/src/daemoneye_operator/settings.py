"""The operator's settings: the file ``operator.json`` that the chart writes.

Responsible for their form, bounds, defaults and for refusing a file by file and key; not for what users ask of DaemonEye, which are
policies. The chart's values schema is drawn from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from daemoneye.api.explain import explain
from daemoneye.api.yamltree import Mark, Problem, Unreadable, read
from daemoneye.errors import ConfigError
from daemoneye.streams import checkpoints_max_bytes

DEFAULT_PATH: Final = Path("/etc/daemoneye/operator.json")

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_DAY: Final = 86_400
# What schemas, checkpoints and KV buckets reserve beside events and findings (`daemoneye.streams`), with room to grow.
_OTHER_STREAMS: Final = 600 * _MIB
_NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
_HOST_PATH: Final = r"^/[^\x00:]*$"


class _Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        strict=True,
        validate_by_alias=True,
        validate_by_name=True,
    )


class SecretRef(_Model):
    """A Secret of the release's namespace."""

    name: str = Field(description="Name of the Secret.", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)


class Nats(_Model):
    """Where the broker is."""

    url: str = Field(
        description="Address of the broker.",
        pattern=r"^(tls|nats)://[^\s/]+$",
        examples=["tls://daemoneye-nats.daemoneye.svc:4222"],
    )
    external: bool = Field(
        default=False,
        description="Whether the broker is the user's own: then its users and certificates are not the operator's. Off by default.",
    )
    tls_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the key `ca.crt` of an external broker. None by default, which means the system's authorities.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the keys `<role>.user` and `<role>.password` for each role on an external broker. None by default.",
    )
    certificate_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with `tls.crt`, `tls.key`, `ca.crt` of the release's broker, kept by cert-manager. None by default: the operator makes them.",
    )
    replicas: Literal[1, 3, 5] = Field(
        default=1, description="Servers of the release's own broker: one, or a cluster. 1 by default."
    )
    store_max_bytes: int = Field(
        default=8 * _GIB,
        description="Bytes of disk that JetStream may use on each server; streams reserve theirs when they are made. 8 GiB by default.",
        ge=_OTHER_STREAMS,
    )


class Streams(_Model):
    """How much of what the broker keeps."""

    shards: int = Field(
        default=1,
        description="Streams that the nodes' events are spread over, for more than some 800 busy nodes (docs/capacity.md). 1 by default.",
        ge=1,
        le=16,
    )
    events_max_bytes: int = Field(
        default=4 * _GIB, description="Bytes of events kept in each shard. 4 GiB by default.", ge=16 * _MIB
    )
    events_max_age: int = Field(
        default=_DAY, description="Seconds that events are kept. 86400 by default, a day.", ge=60
    )
    findings_max_bytes: int = Field(default=_GIB, description="Bytes of findings kept. 1 GiB by default.", ge=_MIB)
    findings_max_age: int = Field(
        default=30 * _DAY, description="Seconds that findings are kept. 2592000 by default, 30 days.", ge=60
    )
    replicas: Literal[1, 3, 5] = Field(
        default=1, description="Copies of each stream, at most as many as the broker has servers. 1 by default."
    )


class Evidence(_Model):
    """Packets that are kept because of findings, where policies ask for it."""

    enabled: bool = Field(
        default=False,
        description=(
            "Keep packets for those who may get findings/evidence; analytics asks the API server who may. Off by default: they are sensitive."
        ),
    )
    max_bytes: int = Field(
        default=256 * _MIB,
        description="Bytes of evidence kept; the oldest goes first. 256 MiB by default.",
        ge=16 * _MIB,
    )
    max_age: int = Field(
        default=7 * _DAY, description="Seconds that evidence is kept. 604800 by default, a week.", ge=60
    )


class HostPaths(_Model):
    """Paths of the node that the sensor sees."""

    bpffs: str = Field(
        default="/sys/fs/bpf",
        description="The BPF file system, which must be mounted. /sys/fs/bpf by default.",
        pattern=_HOST_PATH,
    )
    spool: str = Field(
        default="/var/lib/daemoneye",
        description="Where the sensor keeps its spool; made if missing. /var/lib/daemoneye by default.",
        pattern=_HOST_PATH,
    )
    runtime_tasks: str = Field(
        default="/run/containerd/io.containerd.runtime.v2.task",
        description="The container runtime's task directory, mounted read-only. containerd's by default.",
        pattern=_HOST_PATH,
    )


class Resources(_Model):
    """Requests and limits of the sensor's container, by resource; both are always set."""

    requests: dict[str, str] = Field(
        default={"cpu": "100m", "memory": "256Mi"}, description="What is reserved. 100m and 256Mi by default."
    )
    limits: dict[str, str] = Field(
        default={"cpu": "2", "memory": "1Gi"},
        description="What is never exceeded. 2 CPUs, which compiling the programs needs, and 1Gi by default.",
    )


class Rings(_Model):
    """Sizes of the kernel's rings, in bytes; rounded up to a power of two."""

    exec_bytes: int = Field(
        default=4 * _MIB, description="Ring of process starts. 4 MiB by default.", ge=65_536, le=_GIB
    )
    process_bytes: int = Field(
        default=2 * _MIB, description="Ring of forks, exits and signals. 2 MiB by default.", ge=65_536, le=_GIB
    )
    blob_bytes: int = Field(default=4 * _MIB, description="Ring of long strings. 4 MiB by default.", ge=65_536, le=_GIB)
    socket_bytes: int = Field(
        default=4 * _MIB,
        description="Ring of connections and their ends, 184 bytes each. 4 MiB by default.",
        ge=65_536,
        le=_GIB,
    )


class Sensor(_Model):
    """The sensors' DaemonSet."""

    image: str = Field(
        description="Image of the sensor with its tag or digest.",
        min_length=1,
        max_length=1024,
        examples=["daemoneye/sensor:0.1.0"],
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the image is pulled. IfNotPresent by default."
    )
    image_pull_secrets: list[SecretRef] = Field(
        default=[], description="Secrets for pulling the image. None by default.", max_length=16
    )
    resources: Resources = Field(default=Resources(), description="Requests and limits.")
    tolerations: list[dict[str, Any]] = Field(
        default=[], description="Tolerations beside those that policies ask for. None by default.", max_length=64
    )
    node_selector: dict[str, str] = Field(
        default={"kubernetes.io/os": "linux"},
        description="Labels of the nodes that a sensor may run on. Linux by default.",
    )
    priority_class_name: str = Field(
        default="system-node-critical",
        description="Priority class: a node under pressure keeps its sensor. system-node-critical by default.",
        max_length=253,
    )
    privileged: bool = Field(
        default=False,
        description="Run the sensor privileged instead of with its list of capabilities, for kernels that refuse those. Off by default.",
    )
    packet_capture: bool = Field(
        default=True,
        description=(
            "Let sensors capture packets where a policy asks for it, which takes the capabilities NET_RAW and SYS_ADMIN. On by default."
        ),
    )
    spool_max_bytes: int = Field(
        default=_GIB, description="Bytes of disk for the spool on each node. 1 GiB by default.", ge=16 * _MIB
    )
    host_paths: HostPaths = Field(default=HostPaths(), description="Host paths.")
    update_max_unavailable: int | str = Field(
        default="10%",
        description="Nodes whose sensor is replaced at once, a number or a percentage. 10% by default.",
        union_mode="left_to_right",
    )
    termination_grace_period_seconds: int = Field(
        default=30,
        description="Seconds that a sensor has to send what its spool holds before it ends. 30 by default.",
        ge=1,
        le=600,
    )
    status_interval_seconds: int = Field(
        default=10,
        description="Seconds between two heartbeats of a sensor; analytics has one at least every ten. 10 by default.",
        ge=1,
        le=300,
    )
    rings: Rings = Field(default=Rings(), description="The rings.")
    pod_annotations: dict[str, str] = Field(
        default={}, description="Annotations of the sensor's pods. None by default."
    )
    pod_labels: dict[str, str] = Field(
        default={}, description="Labels of the sensor's pods beside DaemonEye's own. None by default."
    )


class Findings(_Model):
    """Bounds of Finding objects."""

    max_objects: int = Field(
        default=1000,
        description="Finding objects kept; the one seen longest ago goes first. 1000 by default.",
        ge=1,
        le=20_000,
    )
    max_age: int = Field(
        default=7 * _DAY,
        description="Seconds after it was last seen that a Finding is kept. 604800 by default, a week.",
        ge=60,
    )
    creations_per_minute: int = Field(
        default=60,
        description="New Finding objects a minute; what is beyond is counted as suppressed. 60 by default.",
        ge=1,
        le=6000,
    )


class OperatorSettings(_Model):
    """Everything that the operator and the identity publisher are told."""

    release: str = Field(description="Name of the Helm release.", pattern=_NAME, max_length=53)
    namespace: str = Field(description="Namespace of the release.", pattern=_NAME, max_length=63)
    fullname: str = Field(description="Beginning of every object's name.", pattern=_NAME, max_length=40)
    version: str = Field(default="", description="Version of DaemonEye, for labels. Empty by default.", max_length=63)
    cluster_name: str = Field(
        default="", description="Name of the cluster, for display only. Empty by default.", max_length=253
    )
    nats: Nats = Field(description="Where the broker is.")
    analytics_parts: int = Field(
        default=1,
        description="Parts that the workloads are divided into, each judged by one pod of analytics. 1 by default.",
        ge=1,
        le=8,
    )
    streams: Streams = Field(default=Streams(), description="How much of what the broker keeps.")
    sensor: Sensor = Field(description="The sensors' DaemonSet.")
    findings: Findings = Field(default=Findings(), description="Bounds of Finding objects.")
    evidence: Evidence = Field(
        default=Evidence(), description="Packets that are kept because of findings, where policies ask for it."
    )
    resync_seconds: int = Field(
        default=60, description="Seconds after which everything is looked at again. 60 by default.", ge=5, le=3600
    )
    health_port: int = Field(
        default=8080, description="Port of /healthz and /readyz. 8080 by default.", ge=1024, le=65_535
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level of log lines. info by default."
    )


def load(path: Path) -> OperatorSettings:
    """Settings from a JSON file.

    Raises:
        ConfigError: It cannot be read or is wrong; the message names file, key path and what is wanted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        tree, problems = read(data)
    except Unreadable as unreadable:
        raise ConfigError(f"{path}: {_line(unreadable.problem)}") from None
    content = tree.plain()
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: this is no JSON object: begin with {{")
    try:
        settings = OperatorSettings.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        problems += explain(error, OperatorSettings, tree, "camel")
    else:
        problems += _beyond_types(settings)
        if not problems:
            return settings
    raise ConfigError("; ".join(f"{path}: {_line(problem)}" for problem in problems[:8]))


def _line(problem: Problem) -> str:
    return f"{problem.path} {problem.text}".strip()


def _beyond_types(settings: OperatorSettings) -> list[Problem]:
    """What a type cannot say: quantities, percentages, both sides of resources, and whether the streams fit."""
    sensor = settings.sensor
    problems = []
    for side in ("requests", "limits"):
        quantities = getattr(sensor.resources, side)
        place = f"sensor.resources.{side}"
        problems += [
            Problem(Mark(), f"{place}.{name}", f"is {value!r}: write a quantity such as 100m or 256Mi")
            for name, value in quantities.items()
            if not re.fullmatch(QUANTITY, value)
        ]
        problems += [
            Problem(Mark(), f"{place}.{name}", "is missing: it is always set")
            for name in ("cpu", "memory")
            if name not in quantities
        ]
    reserved = (
        settings.streams.shards * settings.streams.events_max_bytes
        + settings.streams.findings_max_bytes
        + settings.evidence.enabled * settings.evidence.max_bytes
        + _OTHER_STREAMS
        + checkpoints_max_bytes(settings.analytics_parts)
        - checkpoints_max_bytes(1)
    )
    if not settings.nats.external and settings.nats.store_max_bytes < reserved:
        problems.append(
            Problem(
                Mark(),
                "nats.storeMaxBytes",
                f"is {settings.nats.store_max_bytes}: write at least {reserved}, which the streams reserve (streams.eventsMaxBytes for "
                "each of streams.shards, streams.findingsMaxBytes, evidence.maxBytes where that is enabled, and 600 MiB, with several "
                "analytics.parts 128 MiB more for each), or lower those",
            )
        )
    unavailable = sensor.update_max_unavailable
    if not re.fullmatch(r"[1-9]\d{0,4}|([1-9]\d?|100)%", str(unavailable)):
        problems.append(
            Problem(
                Mark(),
                "sensor.updateMaxUnavailable",
                f"is {unavailable!r}: write a number from 1 on, or a percentage such as 10%",
            )
        )
    return problems
