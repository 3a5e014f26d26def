"""FederationPeer: another cluster that records are exchanged with.

Responsible for the kind's settings and status; not for the exchange.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from daemoneye.api.v1alpha1.common import Condition, Model, ObjectMeta, SecretReference, crd, rules
from daemoneye.api.v1alpha1.policy import ConflictResolution

KIND: Final = "FederationPeer"

Role = Literal["Primary", "Regional"]
Share = Literal["Policies", "Findings", "Indicators", "Models"]


class PeerTls(Model):
    """Whom to trust, and who we are."""

    ca_secret_ref: SecretReference | None = Field(
        default=None,
        description="Secret whose key ca.crt holds the authorities that may sign the peer's certificate. The system's by default.",
    )
    client_cert_secret_ref: SecretReference | None = Field(
        default=None,
        description="Secret of type kubernetes.io/tls with our own certificate for the peer. None by default.",
    )


class FederationPeerSpec(Model):
    """The peer, and what is exchanged with it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.role == oldSelf.role", "role is immutable: delete the peer and make it again"),
            (
                "!has(oldSelf.clusterID) || (has(self.clusterID) && self.clusterID == oldSelf.clusterID)",
                "clusterID is immutable once set: another cluster is another peer",
            ),
        )
    )

    role: Role = Field(description="What the peer is to this cluster: its Primary, or a Regional of it. Immutable.")
    endpoint: str = Field(
        description="Address of the peer's federation endpoint, https:// or wss://.",
        pattern=r"^(https|wss)://[^\s/@]+(/\S*)?$",
        max_length=2048,
        examples=["https://primary.example.com"],
    )
    cluster_id: str | None = Field(
        default=None,
        alias="clusterID",
        description="UID of the peer's kube-system namespace; a peer that says another is refused. Learned at first contact by default.",
        min_length=1,
        max_length=63,
    )
    sync_interval: int = Field(
        default=300, ge=1, le=604_800, description="Seconds between two comparisons. 300 by default.",
    )  # fmt: skip
    conflict_resolution: ConflictResolution = Field(
        default="PrimaryWins",
        description="Which of two versions that were changed at the same time stays: PrimaryWins, TimestampWins or ManualReview.",
    )
    shares: tuple[Share, ...] = Field(
        default=("Policies", "Findings", "Indicators"),
        description="What is exchanged: Policies, Findings, Indicators, Models. The first three by default.",
        max_length=4,
        strict=False,
        json_schema_extra=crd(x_kubernetes_list_type="set"),
    )
    tls: PeerTls = Field(default=PeerTls(), description="Whom to trust, and who we are.")


class FederationPeerStatus(Model):
    """What became of the peer."""

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
    conflicts: int = Field(default=0, ge=0, description="Conflicts that wait for a person.")
    last_sync: str | None = Field(
        default=None,
        description="When both sides were last found equal, RFC 3339.",
        json_schema_extra=crd(format="date-time"),
    )


class FederationPeer(Model):
    """A FederationPeer object."""

    api_version: Literal["daemoneye.io/v1alpha1"] = Field(
        description="Version of the API that the object is written in."
    )
    kind: Literal["FederationPeer"] = Field(description="Kind of the object.")
    metadata: ObjectMeta = Field(description="The object's name and labels.")
    spec: FederationPeerSpec = Field(description="The peer, and what is exchanged with it.")
    status: FederationPeerStatus | None = Field(default=None, description="What became of it, kept by the operator.")
