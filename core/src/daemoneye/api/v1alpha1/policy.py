"""DaemonEyePolicy: what to watch, where findings go and who is told.

Responsible for every setting of the specification with its unit, bounds, default and merge rule; the CRD, the
reference pages and ``kubectl explain`` are drawn from here. Not for reading files, nor for which settings this build
can serve already (:mod:`daemoneye.api.inactive`).

Defaults are safe: process monitoring and its analysis are on; packet capture, federation and intelligence are off
until asked for, and no endpoint has a default.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from daemoneye.api.v1alpha1.analytics import Analytics
from daemoneye.api.v1alpha1.common import Model, ObjectMeta, crd, merge, misfit, rules
from daemoneye.api.v1alpha1.selector import Selector
from daemoneye.evidence import MAX_SECONDS, MAX_SIZE_MB

KIND: Final = "DaemonEyePolicy"

_DAY: Final = 86_400
_WEEK: Final = 7 * _DAY

# In CEL; a default of an object is checked before the defaults in it are there, hence all the has().
_HAS_PEER: Final = (
    "!(has(self.enableFederation) && self.enableFederation) || has(self.primaryEndpoint)"
    " || (has(self.regionalEndpoints) && size(self.regionalEndpoints) > 0)"
)

ConflictResolution = Literal["PrimaryWins", "TimestampWins", "ManualReview"]
FlowCounter = Literal["Socket", "Xdp"]

Endpoint = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*://[^\s/]\S*$", max_length=2048)]
"""An address with its scheme, such as ``https://primary.example.com``."""


class KernelMonitoring(Model):
    """What is read from the operating system's kernel."""

    enable_ebpf: bool = Field(
        default=True,
        description="Watch processes and sockets of Linux nodes with eBPF programs. On by default.",
        json_schema_extra=merge("or"),
    )
    enable_socket_events: bool = Field(
        default=True,
        description=(
            "Also tell of TCP and UDP sockets: connections with their process, their ends, what listens. "
            "On by default, where eBPF programs watch; one policy that wants them is enough on a node."
        ),
        json_schema_extra=merge("or"),
    )
    ebpf_program_path: str | None = Field(
        default=None,
        description=(
            "Absolute path on the node of an own eBPF object file (ELF), to be loaded beside DaemonEye's programs. "
            "None by default."
        ),
        pattern=r"^/[^\x00]*$",
        examples=["/etc/daemoneye/ebpf/monitor.o"],
        max_length=4096,
        json_schema_extra=merge("singleton"),
    )
    enable_etw: bool = Field(
        default=False,
        description="Watch Windows nodes through Event Tracing for Windows. Off by default.",
        json_schema_extra=merge("or"),
    )
    etw_session_name: str = Field(
        default="DaemonEye",
        description="Name of the ETW session that the sensor opens on Windows. DaemonEye by default.",
        min_length=1,
        max_length=1023,
        json_schema_extra=merge("singleton"),
    )
    enable_endpoint_security: bool = Field(
        default=False,
        description="Watch macOS machines through the Endpoint Security framework. Off by default.",
        json_schema_extra=merge("or"),
    )
    es_client_name: str = Field(
        default="com.daemoneye.monitor",
        description="Bundle identifier of the Endpoint Security client on macOS. com.daemoneye.monitor by default.",
        pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
        examples=["com.daemoneye.monitor"],
        max_length=255,
        json_schema_extra=merge("singleton"),
    )


class Evidence(Model):
    """Packets that are kept because of a finding."""

    enabled: bool = Field(
        default=False,
        description=(
            "Keep the packets of a finding's conversation and pod, those of the moments before it and of a while after. Packets are "
            "sensitive: off by default, and only where the installation allows it (evidence.enabled)."
        ),
        json_schema_extra=merge("scoped"),
    )
    seconds: int = Field(
        default=60,
        description="Seconds after the finding that packets are kept. 60 by default.",
        ge=1,
        le=MAX_SECONDS,
        json_schema_extra=merge("scoped"),
    )
    max_size_mb: int = Field(
        default=16,
        description="Size at which the file of one finding ends, in MiB. 16 by default.",
        ge=1,
        le=MAX_SIZE_MB,
        json_schema_extra=merge("scoped"),
    )


class NetworkMonitoring(Model):
    """What is read from the network's packets."""

    enable_packet_capture: bool = Field(
        default=False,
        description="Capture packets on the nodes. Off by default.",
        json_schema_extra=merge("or"),
    )
    capture_interface: str | None = Field(
        default=None,
        description=(
            "Network interface to capture on: a name, a shell pattern (veth*), or auto, which means the interfaces of the default "
            "routes and those of the node's pods. None by default, which means the interface of the default route."
        ),
        pattern=r"^[^\s/\x00]+$",
        examples=["eth0"],
        max_length=15,
        json_schema_extra=merge("union"),
    )
    capture_filter: str = Field(
        default="",
        description=(
            "Filter of the packets to capture, in the language of pcap-filter(7). "
            "Empty by default, which means every packet."
        ),
        max_length=4096,
        json_schema_extra=merge("union"),
    )
    max_packet_size: int = Field(
        default=1500,
        description="Bytes kept of each packet; the rest of a longer one is cut. 1500 by default.",
        ge=64,
        le=65_535,
        json_schema_extra=merge("max"),
    )
    buffer_size_mb: int = Field(
        default=100,
        description="Size of the capture buffer on each node, in MiB. 100 by default.",
        ge=1,
        le=4096,
        json_schema_extra=merge("max"),
    )
    promiscuous: bool = Field(
        default=False,
        description="Also take frames that are for other machines, where the network shows them. Off by default.",
        json_schema_extra=merge("or"),
    )
    enable_flow_events: bool = Field(
        default=True,
        description="Count conversations, also those that captureFilter leaves out. On by default, once packets are captured.",
        json_schema_extra=merge("or"),
    )
    flow_counter: FlowCounter = Field(
        default="Socket",
        description=(
            "Who counts the packets that arrive at an interface: the packet socket, or an XDP program before the kernel makes packets of "
            "them (by the driver, or in generic mode where it cannot). What leaves is counted by the socket either way, and so are interfaces "
            "of pods that are not named; where XDP cannot be had, the socket counts and CaptureHealthy says so. Socket by default."
        ),
        json_schema_extra=merge("singleton"),
    )
    enable_dns_events: bool = Field(
        default=True,
        description="Read DNS, also where captureFilter leaves it out. On by default, once packets are captured.",
        json_schema_extra=merge("or"),
    )
    capture_cpu_percent: int = Field(
        default=10,
        description=(
            "What capturing may cost on each node, in percent of one processor; beyond it less is looked at, step by step, "
            "and each step is reported. 10 by default."
        ),
        ge=1,
        le=100,
        json_schema_extra=merge("max"),
    )
    evidence: Evidence = Field(
        default=Evidence(),
        description="Packets that are kept because of a finding; takes effect where packets are captured. None by default.",
        json_schema_extra=merge("scoped"),
    )


class Federation(Model):
    """How clusters share policies, findings and indicators."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                _HAS_PEER,
                "enableFederation is on, but no peer is named: add an endpoint, of the primary or of a region",
            )
        )
    )

    enable_federation: bool = Field(
        default=False,
        description="Exchange records with other clusters. Off by default.",
        json_schema_extra=merge("or"),
    )
    primary_endpoint: Endpoint | None = Field(
        default=None,
        description="Address of the primary cluster. None by default.",
        examples=["https://primary.example.com"],
        json_schema_extra=merge("singleton"),
    )
    regional_endpoints: tuple[Endpoint, ...] = Field(
        default=(),
        description="Addresses of the regional clusters. None by default.",
        examples=["https://region1.example.com"],
        max_length=64,
        strict=False,  # a list becomes a tuple; what is in it stays strict
        json_schema_extra=merge("union") | crd(x_kubernetes_list_type="set"),
    )
    sync_interval: int = Field(
        default=300,
        description="Seconds between two comparisons with a peer. 300 by default.",
        ge=1,
        le=_WEEK,
        json_schema_extra=merge("singleton"),
    )
    conflict_resolution: ConflictResolution = Field(
        default="PrimaryWins",
        description=(
            "Which of two versions that were changed at the same time stays: the primary's, the newer one, or none "
            "until a person has decided. PrimaryWins by default."
        ),
        json_schema_extra=merge("singleton"),
    )

    @model_validator(mode="after")
    def _has_a_peer(self) -> Self:
        if self.enable_federation and self.primary_endpoint is None and not self.regional_endpoints:
            raise misfit(
                "enable_federation", "is on, but no peer is named: add an endpoint, of the primary or of a region"
            )
        return self


class StixTaxii(Model):
    """Threat intelligence in STIX, fetched from a TAXII server."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!(has(self.enableIntegration) && self.enableIntegration) || (has(self.taxiiEndpoint) && has(self.collectionId))",
                "enableIntegration is on, but there is nothing to fetch: add taxiiEndpoint and collectionId",
            )
        )
    )

    enable_integration: bool = Field(
        default=False,
        description="Fetch indicators and match events against them. Off by default.",
        json_schema_extra=merge("or"),
    )
    taxii_endpoint: Endpoint | None = Field(
        default=None,
        description="Address of the TAXII 2.1 server. None by default.",
        examples=["https://taxii.example.com"],
        json_schema_extra=merge("singleton"),
    )
    collection_id: str | None = Field(
        default=None,
        description="Id or alias of the collection to fetch. None by default.",
        min_length=1,
        max_length=256,
        json_schema_extra=merge("singleton"),
    )
    sync_interval: int = Field(
        default=3600,
        description="Seconds between two fetches. 3600 by default.",
        ge=10,
        le=_WEEK,
        json_schema_extra=merge("singleton"),
    )

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.enable_integration and (self.taxii_endpoint is None or self.collection_id is None):
            raise misfit(
                "enable_integration", "is on, but there is nothing to fetch: add a TAXII endpoint and a collection id"
            )
        return self


class PolicySpec(Model):
    """What the user asks for."""

    selector: Selector = Field(
        default=Selector(),
        description="Which nodes, namespaces and pods the policy is for. Everything by default.",
    )
    kernel_monitoring: KernelMonitoring = Field(
        default=KernelMonitoring(),
        description="What is read from the operating system's kernel. Process monitoring on Linux by default.",
    )
    network_monitoring: NetworkMonitoring = Field(
        default=NetworkMonitoring(),
        description="What is read from the network's packets. Nothing by default.",
    )
    federation: Federation = Field(
        default=Federation(),
        description="How clusters share policies, findings and indicators. Not at all by default.",
    )
    stix_taxii: StixTaxii = Field(
        default=StixTaxii(),
        description="Threat intelligence in STIX, fetched from a TAXII server. None by default.",
    )
    analytics: Analytics = Field(
        default=Analytics(),
        description="How events become findings. Rules and learned allow-lists by default.",
    )


class DaemonEyePolicy(Model):
    """A DaemonEyePolicy object, as ``kubectl apply`` takes it."""

    api_version: Literal["daemoneye.io/v1alpha1"] = Field(
        description="Version of the API that the object is written in."
    )
    kind: Literal["DaemonEyePolicy"] = Field(description="Kind of the object.")
    metadata: ObjectMeta = Field(description="The object's name and labels.")
    spec: PolicySpec = Field(default=PolicySpec(), description="What to watch and how to judge it.")
