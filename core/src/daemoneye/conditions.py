"""Conditions of our resources: types, reasons, and how one changes.

Responsible for the words (the reference page is drawn from them) and for the rules of Kubernetes' API conventions; what is true is decided
by the operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

MAX_MESSAGE: Final = 1024

READY: Final = "Ready"
SENSORS_AVAILABLE: Final = "SensorsAvailable"
PROGRAMS_LOADED: Final = "ProgramsLoaded"
CAPTURE_HEALTHY: Final = "CaptureHealthy"
ANALYTICS_AVAILABLE: Final = "AnalyticsAvailable"
CONNECTED: Final = "Connected"
IN_SYNC: Final = "InSync"
CONFLICTS_PENDING: Final = "ConflictsPending"

TYPES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "DaemonEyePolicy": {
            READY: "Every selected node runs the policy as it is now, and its findings arrive. The sum of the others.",
            SENSORS_AVAILABLE: "Every selected node has a sensor that is heard of and runs this generation.",
            PROGRAMS_LOADED: "The kernel programs that the policy asks for run on every selected node.",
            CAPTURE_HEALTHY: "Packets are captured as asked; true when none are asked for.",
            ANALYTICS_AVAILABLE: "Analytics is heard of.",
        },
        "FederationPeer": {
            READY: "The peer is connected and equal.",
            CONNECTED: "There is a connection to the peer.",
            IN_SYNC: "Both sides hold the same records.",
            CONFLICTS_PENDING: "Conflicts wait for a person.",
        },
        "DetectionException": {READY: "The exception is in force."},
        "Finding": {},
    }
)
"""Kind to its condition types, each with what `True` means."""

PENDING: Final = "Pending"
NEVER: Final = "1970-01-01T00:00:00Z"
"""Time of transition in the CRD's defaults: nobody has looked yet."""
REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        PENDING: "The operator has not looked at it yet. If it stays: is the operator running?",
        "AsAsked": "Everything is as the spec asks.",
        "InvalidSpec": "The spec passed the API server but does not hold together; the message says where. Correct it.",
        "NoNodesSelected": "No node with a sensor has the labels of spec.selector.nodeSelector. Compare with kubectl get nodes --show-labels.",
        "TooManyPolicies": "More than 64 policies meet on a node; the youngest are refused there. Join policies.",
        "Conflict": "Another, older policy on the same nodes sets the same setting, of which a node has one, to another value.",
        "SensorsProgressing": "Some sensors have not acknowledged this generation yet. If it stays, look at the named node's sensor pod.",
        "SensorsSilent": "Sensors have not been heard of for three heartbeats. Look at the named node's sensor pod and its log.",
        "SensorsMissing": "Some selected nodes have no sensor pod that runs. kubectl describe the DaemonSet.",
        "ImagePullFailed": "A node cannot pull the sensor's image. Check image.registry, image.tag and imagePullSecrets.",
        "NodesRefuse": "Nodes refuse the policy for different reasons; the message names the first.",
        "MissingBTF": "The node's kernel has no BTF (/sys/kernel/btf/vmlinux), which programs need: CONFIG_DEBUG_INFO_BTF.",
        "MissingKernelFeature": "The node's kernel lacks something or forbids it; the message says what.",
        "BadProgram": "A program does not compile or the kernel's verifier refuses it; the message has its words.",
        "BadFilter": "captureFilter does not compile; the message has libpcap's words. See pcap-filter(7).",
        "NoSuchInterface": "captureInterface means an interface that the node does not have, or has no more; when it comes, it is captured. See ip link.",
        "CaptureNotPermitted": "The sensor may not open packet sockets: sensor.packetCapture of the chart is off, or a security module refuses.",
        "CaptureDegraded": "Less is looked at than asked: the CPU budget made the sensor step down, or packets found no room; the message says which.",
        "XdpUnavailable": "flowCounter Xdp cannot be had, the message says why: the packet socket counts what arrives, and nothing is lost.",
        "CaptureOff": "No packet capture is asked for.",
        "Inactive": "Asked for, but this build or machine cannot serve it; see status.inactiveSettings.",
        "ProgramsOff": "The policy asks for no kernel monitoring.",
        "BadDetector": "A name or parameter in spec.analytics.detectors or models is wrong and left out; the message says which, and the choices.",
        "Uninstalling": "The release is about to go: nodes are emptied. If that broke off, remove the operator Deployment's annotation daemoneye.io/uninstall.",
        "AnalyticsSilent": "Analytics has not been heard of for three heartbeats. Look at its pod and log.",
        "BrokerUnavailable": "The operator has no connection to NATS; sensors go on and keep what they see in their spools.",
        "NotImplemented": "Arrives with a later release.",
        "InForce": "The exception is in force.",
        "Expired": "spec.expiresAt is over: findings are objects again.",
    }
)
"""Every reason with what it means and what to do."""


def condition(kind: str, holds: bool | None, reason: str, message: str = "") -> dict[str, Any]:  # noqa: FBT001 - the condition's own three values
    """A condition without its times; `holds` None is Unknown. An empty message is the reason's own text."""
    status = "Unknown" if holds is None else str(holds)
    text = message or REASONS.get(reason, "")
    return {"type": kind, "status": status, "reason": reason, "message": text[:MAX_MESSAGE]}


def put(
    conditions: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """`new` in place of `conditions` of the same type; a time of transition changes only with the status (`now`: RFC 3339)."""
    before = {condition["type"]: condition for condition in conditions}
    out = []
    for condition in new:
        old = before.get(condition["type"])
        same = old is not None and old["status"] == condition["status"] and old["lastTransitionTime"] != NEVER
        since = old["lastTransitionTime"] if old is not None and same else now
        out.append({**condition, "observedGeneration": generation, "lastTransitionTime": since})
    return out
