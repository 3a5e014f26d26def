"""Analytics' configuration in a cluster, drawn from the policies.

Responsible for the document under ``daemoneye.subjects.ANALYTICS_CONFIG`` in the bucket of configurations; not for what analytics does with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from daemoneye import jsontext
from daemoneye.api.v1alpha1.analytics import BehavioralModel, DetectorSettings
from daemoneye_operator.reconcile.merge import merge_section
from daemoneye_operator.reconcile.policies import Policy


def document(
    policies: Sequence[Policy], refused: Collection[str] = (), exceptions: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The document, oldest policy first.

    Args:
        policies: All of them; their order does not matter.
        refused: UIDs of those that are refused everywhere (`daemoneye_operator.reconcile.merge.cluster_conflicts`): they are left out.
        exceptions: Benign verdicts (`daemoneye_operator.reconcile.exception.Exceptions.benign`).

    A detector's parameters are a singleton of the cluster: those of the oldest policy that sets any hold for all.
    """
    effective = sorted((policy for policy in policies if policy.uid not in refused), key=lambda policy: policy.age)
    merged = merge_section("analytics", effective)
    parameters: dict[str, dict[str, Any]] = {}
    for policy in effective:
        for detector in policy.spec.analytics.detectors:
            if detector.parameters:
                parameters.setdefault(detector.name, _parameters(detector))
    return {
        "behavioral": merged.get("enable_behavioral_analysis", False),
        "machine_learning": merged.get("enable_machine_learning", False),
        "model_update_interval": merged.get("model_update_interval", 0),
        "policies": [_policy(policy, parameters) for policy in effective],
        **({"exceptions": list(exceptions)} if exceptions else {}),
    }


def encode(value: dict[str, Any]) -> bytes:
    """Canonical JSON of the document."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def config_hash(data: bytes) -> str:
    """Name of an encoded document: what analytics' heartbeat has as ``config`` when it runs it."""
    return hashlib.sha256(data).hexdigest()[:32]


def _policy(policy: Policy, parameters: dict[str, dict[str, Any]]) -> dict[str, Any]:
    asked, network = policy.spec.analytics, policy.spec.network_monitoring
    evidence = network.evidence if network.enable_packet_capture and network.evidence.enabled else None
    return {
        "name": policy.name,
        "uid": policy.uid,
        "behavioral": asked.enable_behavioral_analysis,
        "machine_learning": asked.enable_machine_learning,
        "anomaly_threshold": asked.anomaly_threshold,
        "alert_budget_per_day": asked.alert_budget_per_day,
        "detectors": [
            {"name": detector.name, "enabled": detector.enabled, "parameters": parameters.get(detector.name, {})}
            for detector in asked.detectors
        ],
        **({"models": [_model(model) for model in asked.models]} if asked.models else {}),
        **({"evidence": {"seconds": evidence.seconds, "max_size_mb": evidence.max_size_mb}} if evidence else {}),
    }


def _model(model: BehavioralModel) -> dict[str, Any]:
    parameters = _parameters(model)
    return {
        "name": model.name,
        **({"features": list(model.features)} if model.features else {}),
        **({"detector": model.detector} if model.detector else {}),
        **({"parameters": parameters} if parameters else {}),
    }


def _parameters(of: DetectorSettings | BehavioralModel) -> dict[str, Any]:
    return {name: jsontext.value(value) for name, value in sorted(of.parameters.items())}
