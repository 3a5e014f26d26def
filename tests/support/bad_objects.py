"""Objects that are wrong in one way each, with what the API server must say about it."""

from __future__ import annotations

from typing import Any

ENDPOINT = "https://peer.example.com"
_YEARS = "2030-01-01T00:00:00Z"
_DETECTOR = {"scope": {"detector": "x"}, "verdict": "Benign"}


def _pods(operator: str) -> dict[str, Any]:
    return {"selector": {"podSelector": {"matchExpressions": [{"key": "a", "operator": operator}]}}}


# (name, kind, spec, a part of the answer)
BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("switch-as-text", "DaemonEyePolicy", {"kernelMonitoring": {"enableEbpf": "yes"}}, "spec.kernelMonitoring.enableEbpf"),
    ("sockets-as-text", "DaemonEyePolicy", {"kernelMonitoring": {"enableSocketEvents": "yes"}}, "spec.kernelMonitoring.enableSocketEvents"),
    ("program-path-relative", "DaemonEyePolicy", {"kernelMonitoring": {"ebpfProgramPath": "monitor.o"}}, "spec.kernelMonitoring.ebpfProgramPath"),
    ("etw-name-empty", "DaemonEyePolicy", {"kernelMonitoring": {"etwSessionName": ""}}, "spec.kernelMonitoring.etwSessionName"),
    ("es-name-no-bundle", "DaemonEyePolicy", {"kernelMonitoring": {"esClientName": "monitor"}}, "spec.kernelMonitoring.esClientName"),
    ("interface-with-slash", "DaemonEyePolicy", {"networkMonitoring": {"captureInterface": "eth0/1"}}, "spec.networkMonitoring.captureInterface"),
    ("interface-too-long", "DaemonEyePolicy", {"networkMonitoring": {"captureInterface": "a" * 16}}, "spec.networkMonitoring.captureInterface"),
    ("filter-too-long", "DaemonEyePolicy", {"networkMonitoring": {"captureFilter": "x" * 4097}}, "spec.networkMonitoring.captureFilter"),
    ("packet-too-small", "DaemonEyePolicy", {"networkMonitoring": {"maxPacketSize": 1}}, "should be greater than or equal to 64"),
    ("counter-unknown", "DaemonEyePolicy", {"networkMonitoring": {"flowCounter": "Tc"}}, 'supported values: "Socket", "Xdp"'),
    ("buffer-zero", "DaemonEyePolicy", {"networkMonitoring": {"bufferSizeMb": 0}}, "should be greater than or equal to 1"),
    ("evidence-for-ever", "DaemonEyePolicy", {"networkMonitoring": {"evidence": {"seconds": 3600}}}, "should be less than or equal to 600"),
    ("evidence-huge", "DaemonEyePolicy", {"networkMonitoring": {"evidence": {"maxSizeMb": 1024}}}, "should be less than or equal to 64"),
    ("federation-without-peer", "DaemonEyePolicy", {"federation": {"enableFederation": True}}, "no peer is named"),
    ("endpoint-without-scheme", "DaemonEyePolicy", {"federation": {"primaryEndpoint": "primary"}}, "spec.federation.primaryEndpoint"),
    ("endpoints-twice", "DaemonEyePolicy", {"federation": {"regionalEndpoints": [ENDPOINT, ENDPOINT]}}, "Duplicate value"),
    ("resolution-unknown", "DaemonEyePolicy", {"federation": {"conflictResolution": "CoinToss"}}, 'supported values: "PrimaryWins"'),
    ("interval-zero", "DaemonEyePolicy", {"federation": {"syncInterval": 0}}, "spec.federation.syncInterval"),
    ("taxii-without-collection", "DaemonEyePolicy", {"stixTaxii": {"enableIntegration": True}}, "there is nothing to fetch"),
    ("taxii-interval", "DaemonEyePolicy", {"stixTaxii": {"syncInterval": 1}}, "should be greater than or equal to 10"),
    ("threshold-above-one", "DaemonEyePolicy", {"analytics": {"anomalyThreshold": 1.5}}, "should be less than or equal to 1"),
    ("alert-budget-negative", "DaemonEyePolicy", {"analytics": {"alertBudgetPerDay": -1}}, "should be greater than or equal to 0"),
    ("update-interval-text", "DaemonEyePolicy", {"analytics": {"modelUpdateInterval": "1d"}}, "spec.analytics.modelUpdateInterval"),
    ("detector-twice", "DaemonEyePolicy", {"analytics": {"detectors": [{"name": "a"}, {"name": "a"}]}}, "Duplicate value"),
    ("detector-without-name", "DaemonEyePolicy", {"analytics": {"detectors": [{"enabled": True}]}}, "name: Required value"),
    ("model-twice", "DaemonEyePolicy", {"analytics": {"models": [{"name": "a"}, {"name": "a"}]}}, "Duplicate value"),
    ("model-name", "DaemonEyePolicy", {"analytics": {"models": [{"name": "My model"}]}}, "spec.analytics.models[0].name"),
    ("feature-too-long", "DaemonEyePolicy", {"analytics": {"models": [{"name": "a", "features": ["x" * 64]}]}}, "spec.analytics.models[0].features[0]"),
    ("operator-without-values", "DaemonEyePolicy", _pods("In"), "In and NotIn need values"),
    ("operator-unknown", "DaemonEyePolicy", _pods("Like"), 'supported values: "In"'),
    ("toleration-effect", "DaemonEyePolicy", {"selector": {"tolerations": [{"effect": "Sometimes"}]}}, "spec.selector.tolerations"),
    ("unknown-key", "DaemonEyePolicy", {"kernelMonitorin": {}}, 'unknown field "spec.kernelMonitorin"'),
    ("peer-without-role", "FederationPeer", {"endpoint": ENDPOINT}, "spec.role: Required value"),
    ("peer-role", "FederationPeer", {"role": "Leader", "endpoint": ENDPOINT}, 'supported values: "Primary", "Regional"'),
    ("peer-plain-http", "FederationPeer", {"role": "Primary", "endpoint": "http://peer.example.com"}, "spec.endpoint"),
    ("peer-shares", "FederationPeer", {"role": "Primary", "endpoint": ENDPOINT, "shares": ["Everything"]}, "spec.shares"),
    ("exception-for-everything", "DetectionException", {"scope": {}, "verdict": "Benign", "owner": "x", "expiresAt": _YEARS}, "exception for everything"),
    ("exception-for-ever", "DetectionException", {**_DETECTOR, "owner": "x"}, "spec.expiresAt: Required value"),
    ("exception-until-soon", "DetectionException", {**_DETECTOR, "owner": "x", "expiresAt": "tomorrow"}, "spec.expiresAt"),
    ("exception-without-owner", "DetectionException", {**_DETECTOR, "owner": "", "expiresAt": _YEARS}, "spec.owner"),
]  # fmt: skip


def document(name: str, kind: str, spec: dict[str, Any], version: str = "v1alpha1") -> dict[str, Any]:
    """An object of ours."""
    metadata = {"name": name} | ({"namespace": "default"} if kind in {"DetectionException", "Finding"} else {})
    return {"apiVersion": f"daemoneye.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}
