"""A Finding object of the cluster in the form that findings have on one machine.

Responsible for the translation and for what a cluster's findings say more: how often, where, for which policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from daemoneye_cli.show import text
from daemoneye_cli.show.plain import finding_lines

_SUBJECT: Final = {
    "node": "node", "workload": "workload", "container_id": "containerID", "pod_uid": "podUID", "pid": "pid",
    "start_time": "startTime", "exe": "exe", "argv": "argv", "namespace": "namespace", "pod": "pod",
    "container": "container", "image": "image", "labels": "labels",
}  # fmt: skip
_SPEC: Final = {
    "severity": "severity", "score": "score", "detector": "detector", "title": "title", "key": "key",
    "techniques": "techniques", "attack_version": "attackVersion", "explanation": "explanation",
    "confidence": "confidence", "confidence_reasons": "confidenceReasons", "policies": "policies",
    "process_tree": "processTree",
}  # fmt: skip


def as_finding(content: Mapping[str, Any]) -> dict[str, Any]:
    """Give the object as ``kind: finding``; what it lacks is None."""
    metadata, spec, status = (_mapping(content.get(part)) for part in ("metadata", "spec", "status"))
    subject = _mapping(spec.get("subject"))
    return {
        "kind": "finding",
        "id": status.get("lastFindingID"),
        "time": status.get("lastSeen") or metadata.get("creationTimestamp"),
        **{name: spec.get(key) for name, key in _SPEC.items()},
        "subject": {name: subject.get(key) for name, key in _SUBJECT.items()},
        "namespace": metadata.get("namespace"),
        "name": str(metadata.get("name")),
        "uid": metadata.get("uid"),
        "count": int(status.get("count") or 0),
        "first_seen": status.get("firstSeen"),
        "last_seen": status.get("lastSeen"),
    }


def object_lines(finding: Mapping[str, Any]) -> str:
    """Give it in lines for people, with the pod in the place of the workload."""
    subject = finding["subject"]
    pod = "/".join(str(subject[part]) for part in ("namespace", "pod", "container") if subject.get(part))
    told = finding_lines({**finding, "subject": {**subject, "workload": pod or subject.get("workload")}})
    return f"{told}    {_circumstances(finding)}\n"


def _circumstances(finding: Mapping[str, Any]) -> str:
    count = finding["count"]
    since = f" since {text.plain(finding['first_seen'])}" if count > 1 and finding.get("first_seen") else ""
    policies = ", ".join(map(text.plain, finding.get("policies") or ()))
    parts = [
        f"finding {text.plain(finding.get('namespace'))}/{text.plain(finding['name'])}",
        f"seen {count} times{since}" if count > 1 else "",
        f"node {text.plain(finding['subject'].get('node'))}",
        f"policies {policies}" if policies else "",
    ]
    return " · ".join(part for part in parts if part)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
