"""Objects for the operator's tests."""

from __future__ import annotations

from typing import Any

from daemoneye.api.v1alpha1.common import API_VERSION
from daemoneye.findings import Finding, Process, Subject, Technique, finding_id
from daemoneye.nodeconfig import NodeAnswer, PolicyAnswer
from daemoneye_operator.reconcile.nodes import NodeReport
from daemoneye_operator.reconcile.policies import Policy
from daemoneye_operator.reconcile.selection import Plan
from daemoneye_operator.settings import OperatorSettings

NOW = 1_800_000_000.0
SETTINGS: dict[str, Any] = {
    "release": "eye",
    "namespace": "security",
    "fullname": "daemoneye",
    "nats": {"url": "tls://daemoneye-nats.security.svc:4222"},
    "sensor": {"image": "daemoneye/sensor:dev"},
}


def settings(**sensor: Any) -> OperatorSettings:
    return OperatorSettings.model_validate({**SETTINGS, "sensor": {**SETTINGS["sensor"], **sensor}})


def policy_object(name: str = "p", created: int = 0, generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "DaemonEyePolicy",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "generation": generation,
            "creationTimestamp": f"2026-01-01T{created // 3600:02}:{created // 60 % 60:02}:{created % 60:02}Z",
        },
        "spec": spec,
    }


def policy(name: str = "p", created: int = 0, generation: int = 1, **spec: Any) -> Policy:
    return Policy.of(policy_object(name, created, generation, **spec))


def report(plan: Plan, node: str, received: float = NOW, **answer: Any) -> NodeReport:
    """A node that runs its configuration; `answer` changes what it says to every policy, or about programs and capture."""
    about: dict[str, Any] = {
        key: answer.pop(key) for key in ("programs", "capture", "problem", "hash") if key in answer
    }
    config_hash = plan.nodes[node]
    policies = tuple(
        PolicyAnswer(one.name, one.uid, one.generation, **answer) for one in plan.configs[config_hash].policies
    )
    says: dict[str, Any] = {"hash": config_hash, "policies": policies, "programs": True, **about}
    return NodeReport(node, received, NodeAnswer(**says))


def finding(
    number: int = 0,
    *,
    key: str = "memfd:a",
    severity: str = "high",
    time: str = "2026-01-02T03:04:05.000000006Z",
    **subject: Any,
) -> Finding:
    who: dict[str, Any] = {
        "node": "node-1",
        "namespace": "shop",
        "pod": "till-0",
        "container": "till",
        "image": "shop/till:1",
        "pid": 7,
        "exe": "/memfd:a",
        "argv": ("a",),
    }
    who |= {"workload": "shop/Deployment/till/till", "labels": {"app": "till"}, "pod_uid": "uid-till", **subject}
    return Finding(
        id=finding_id(detector="suspicious_exec", version=1, node="n", pid=7, start_ns=1, event_ns=number, key=key),
        time=time, severity=severity, score=0.9, detector="suspicious_exec", title="Program without a file", subject=Subject(**who), key=key,
        techniques=(Technique("T1620", "Reflective Code Loading"),), explanation=("It was never on disk.",),
        process_tree=(Process(1, "/bin/sh", ("sh",)), Process(7, "/memfd:a", ("a",))), policies=("p",),
    )  # fmt: skip


def exception_object(
    name: str = "e", namespace: str = "shop", expires: str = "2030-01-01T00:00:00Z", **scope: Any
) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "DetectionException",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1},
        "spec": {"scope": scope, "verdict": "Benign", "owner": "team", "expiresAt": expires},
    }
