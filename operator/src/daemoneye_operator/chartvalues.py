"""The Helm chart's values.

Responsible for their names, defaults, bounds and descriptions, from which `daemoneye_operator.codegen` draws values.yaml, the chart's schema and
the reference; what reaches operator.json is declared in `daemoneye_operator.settings` and taken from there. Not read at run time.
"""

from __future__ import annotations

from copy import copy
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model

from daemoneye_operator.monitoringvalues import Grafana, Metrics
from daemoneye_operator.settings import (
    QUANTITY,
    Evidence,
    Findings,
    HostPaths,
    Nats,
    OperatorSettings,
    Resources,
    Rings,
    SecretRef,
    Sensor,
    Streams,
)

_BOTH: Final[dict[str, JsonValue]] = {"required": ["cpu", "memory"]}
_NAME: Final = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

Quantity = Annotated[str, Field(pattern=QUANTITY)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Values(BaseModel):
    """A group of values."""

    model_config = ConfigDict(**OperatorSettings.model_config)


def _declared(base: type[BaseModel], name: str) -> Any:
    """A setting's default, bounds and description: they stand in the settings, and there alone."""
    return copy(base.model_fields[name])


def _taken(base: type[BaseModel], *names: str) -> dict[str, Any]:
    """Settings with their types, too, for `create_model`."""
    return {name: (base.model_fields[name].annotation, _declared(base, name)) for name in names}


def _or_empty(base: type[BaseModel], name: str) -> str:
    """Pattern of a setting that is a text here, empty where the setting is absent."""
    return f"^$|{base.model_json_schema(by_alias=False)['properties'][name]['pattern']}"


# ── what every pod has ──────────────────────────────────────────────────────────────────────────────────────────────


class ContainerResources(Values):
    """Requests and limits of a container; CPU and memory are always set."""

    requests: dict[str, Quantity] = Field(description="What is reserved.", json_schema_extra=_BOTH)
    limits: dict[str, Quantity] = Field(description="What is never exceeded.", json_schema_extra=_BOTH)


def _resources(requests: tuple[str, str], limits: tuple[str, str]) -> Any:
    both = ContainerResources(
        requests=dict(zip(("cpu", "memory"), requests, strict=True)),
        limits=dict(zip(("cpu", "memory"), limits, strict=True)),
    )
    return Field(default=both, description="Requests and limits.")


class Image(Values):
    """Where an image is found."""

    repository: str = Field(description="Name of the image.", pattern=r"^[^\s:@]+(:[0-9]+/[^\s:@]+)?$", max_length=512)
    tag: str = Field(
        default="",
        description="Tag, or tag@digest. Empty by default: image.tag.",
        pattern=r"^\S*$",
        max_length=256,
    )


def _image(name: str) -> Any:
    return Field(
        default=Image(repository=f"daemoneye/{name}"),
        description="Name of the image, and its tag or tag@digest; empty by default: image.tag.",
    )


class Pod(Values):
    """Where pods run, and what is written on them."""

    node_selector: dict[str, str] = Field(
        default={"kubernetes.io/os": "linux"}, description="Labels of the nodes to run on. Linux by default."
    )
    tolerations: list[dict[str, Any]] = Field(default=[], description="Tolerations. None by default.", max_length=64)
    affinity: dict[str, Any] = Field(default={}, description="Affinity. None by default.")
    priority_class_name: str = Field(
        default="", description="Priority class. Empty by default: the cluster's.", max_length=253
    )
    pod_annotations: dict[str, str] = Field(default={}, description="Annotations of the pods. None by default.")
    pod_labels: dict[str, str] = Field(
        default={}, description="Labels of the pods beside DaemonEye's own. None by default."
    )


# ── sections ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Images(Values):
    """All images. `<registry>/<repository>:<tag>`."""

    registry: str = Field(
        default="",
        description="Put in front of every repository, such as registry.example.com/mirror. Empty by default: the nodes' own default.",
        pattern=r"^\S*[^/\s]$|^$",
        max_length=512,
    )
    tag: str = Field(
        default="",
        description="Tag of every image that has none of its own. Empty by default: the chart's appVersion.",
        pattern=r"^\S*$",
        max_length=256,
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When images are pulled. IfNotPresent by default."
    )
    pull_secrets: list[SecretRef] = Field(
        default=[],
        description="Secrets of the release's namespace for pulling images, such as [{name: mirror}]. None by default.",
        max_length=16,
    )


class Crds(Values):
    """CustomResourceDefinitions."""

    enabled: bool = Field(default=True, description="Install and upgrade them with the release. On by default.")
    keep: bool = Field(
        default=True,
        description="Keep them, and with them all policies and findings, when the release is uninstalled. On by default.",
    )


class Rbac(Values):
    """Rights of people."""

    aggregate: bool = Field(
        default=True,
        description="Add rights on DaemonEye's kinds to the cluster's roles view, edit and admin. On by default.",
    )


class _Operator(Pod):
    """The operator: reads policies, runs the sensors, writes findings."""

    image: Image = _image("operator")
    resources: ContainerResources = _resources(("50m", "128Mi"), ("1", "512Mi"))


Operator = create_model(
    "Operator", __base__=_Operator, __doc__=_Operator.__doc__, **_taken(OperatorSettings, "log_level", "resync_seconds")
)


class Identity(Pod):
    """The identity publisher: tells each node who its pods are. Runs the operator's image."""

    resources: ContainerResources = _resources(("50m", "128Mi"), ("500m", "512Mi"))


class Callout(Pod):
    """The callout: tells the release's own broker which node a sensor is of. Runs the operator's image; absent with a broker of your own."""

    replicas: Literal[1, 2] = Field(
        default=1,
        description="Pods. Without any, sensors that are connected go on and others wait; 2 do without one of them. 1 by default.",
    )
    resources: ContainerResources = _resources(("50m", "96Mi"), ("1", "256Mi"))


class Analytics(Pod):
    """Analytics: judges what the sensors saw."""

    image: Image = _image("analytics")
    replicas: int = Field(
        default=1,
        description="Pods. One judges each part; the others stand by, and one of them goes on within 15 seconds when it is lost. 1 by default.",
        ge=1,
        le=16,
    )
    parts: int = Field(
        default=1, description=cast("str", OperatorSettings.model_fields["analytics_parts"].description), ge=1, le=8
    )
    resources: ContainerResources = _resources(("200m", "512Mi"), ("2", "2Gi"))


class _Sensor(Values):
    """The sensors, which the operator runs: a DaemonSet that exists as long as there is a policy."""

    image: Image = _image("sensor")
    resources: ContainerResources = Field(
        default=ContainerResources(**Resources().model_dump()),
        description=cast("str", Sensor.model_fields["resources"].description),
    )
    host_paths: HostPaths = _declared(Sensor, "host_paths")
    rings: Rings = _declared(Sensor, "rings")
    update_max_unavailable: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^([1-9][0-9]?|100)%$")] = (
        Field(
            default=Sensor.model_fields["update_max_unavailable"].default,
            description=cast("str", Sensor.model_fields["update_max_unavailable"].description),
        )
    )


# image.* says these of every image.
SENSOR_ELSEWHERE: Final = ("image", "image_pull_policy", "image_pull_secrets")
SensorValues = create_model(
    "SensorValues",
    __base__=_Sensor,
    __doc__=_Sensor.__doc__,
    **_taken(Sensor, *(name for name in Sensor.model_fields if name not in {*_Sensor.model_fields, *SENSOR_ELSEWHERE})),
)


class Storage(Values):
    """Where the broker keeps its streams."""

    enabled: bool = Field(
        default=True, description="Use a PersistentVolumeClaim; off, a restart loses what it held. On by default."
    )
    size: str = Field(
        default="10Gi",
        description="Size of each server's volume, at least nats.storeMaxBytes. 10Gi by default.",
        pattern=r"^[1-9][0-9]{0,6}(Mi|Gi|Ti)$",
    )
    storage_class_name: str = Field(
        default="", description="Storage class. Empty by default: the cluster's default class.", max_length=253
    )
    keep: bool = Field(default=True, description="Keep the claims when the release is uninstalled. On by default.")


class ExternalSecret(Values):
    """A Secret of the release's namespace, or none."""

    name: str = Field(
        default="",
        description="Its name. Empty by default: none.",
        pattern=_or_empty(SecretRef, "name"),
        max_length=253,
    )


class External(Values):
    """A broker of your own in place of the release's."""

    url: str = Field(
        default="",
        description="Its address, such as tls://nats.example.com:4222. Empty by default: the release runs its own broker.",
        pattern=_or_empty(Nats, "url"),
        max_length=1024,
    )
    tls_secret_ref: ExternalSecret = Field(
        default=ExternalSecret(), description=cast("str", Nats.model_fields["tls_secret_ref"].description)
    )
    credentials_secret_ref: ExternalSecret = Field(
        default=ExternalSecret(), description=cast("str", Nats.model_fields["credentials_secret_ref"].description)
    )


class Broker(Pod):
    """The broker, NATS JetStream."""

    image: Image = Field(
        default=Image(repository="daemoneye/nats"),
        description="The image; any with nats-server 2.10 or later on its PATH.",
    )
    replicas: Literal[1, 3] = Field(
        default=1,
        description="Servers: 1, or a cluster of 3, which goes on without one of them if streams.replicas is 3, too. 1 by default.",
    )
    store_max_bytes: int = _declared(Nats, "store_max_bytes")
    issuer_ref: dict[Literal["name", "kind", "group"], Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default={},
        description="cert-manager's issuer of the broker's certificate: name, kind, group. Empty by default: the operator's own authority.",
    )
    storage: Storage = Field(default=Storage(), description="Storage.")
    external: External = Field(default=External(), description="A broker of your own.")
    resources: ContainerResources = _resources(("100m", "256Mi"), ("2", "1Gi"))


class NetworkPolicy(Values):
    """NetworkPolicies: every pod of the release may do what it must, and nothing else."""

    enabled: bool = Field(default=True, description="Install them. On by default.")
    api_server_ports: list[Port] = Field(
        default=[443, 6443],
        description="Ports of the Kubernetes API server, whose address a chart does not know. 443 and 6443 by default.",
        min_length=1,
        max_length=8,
    )


class ChartValues(Values):
    """Values of the chart `daemoneye`."""

    name_override: str = Field(
        default="",
        description="In place of `daemoneye` in the names of objects. Empty by default.",
        pattern=_NAME,
        max_length=40,
    )
    fullname_override: str = Field(
        default="",
        description="Beginning of every object's name. Empty by default: `<release>-daemoneye`, or the release's name if that says daemoneye.",
        pattern=_NAME,
        max_length=40,
    )
    cluster_name: str = _declared(OperatorSettings, "cluster_name")
    image: Images = Field(default=Images(), description="All images.")
    crds: Crds = Field(default=Crds(), description="CustomResourceDefinitions.")
    rbac: Rbac = Field(default=Rbac(), description="Rights of people.")
    operator: Operator = Field(default=Operator(), description="The operator.")  # type: ignore[valid-type]
    identity: Identity = Field(default=Identity(), description="The identity publisher.")
    callout: Callout = Field(default=Callout(), description="The callout.")
    analytics: Analytics = Field(default=Analytics(), description="Analytics.")
    sensor: SensorValues = Field(default=SensorValues(), description="The sensors.")  # type: ignore[valid-type]
    nats: Broker = Field(default=Broker(), description="The broker.")
    streams: Streams = Field(default=Streams(), description="How much of what the broker keeps.")
    findings: Findings = Field(default=Findings(), description="Bounds of Finding objects.")
    evidence: Evidence = Field(
        default=Evidence(), description="Packets that are kept because of findings, where policies ask for it."
    )
    network_policy: NetworkPolicy = Field(default=NetworkPolicy(), description="NetworkPolicies.")
    metrics: Metrics = Field(default=Metrics(), description="What Prometheus gets.")
    grafana: Grafana = Field(default=Grafana(), description="What Grafana gets.")
