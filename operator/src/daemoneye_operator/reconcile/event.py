"""The Kubernetes Event that tells of a finding on its subject's pod.

Responsible for the Event's form and bounds; when there is one is decided by :mod:`daemoneye_operator.reconcile.findings`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from daemoneye.api.v1alpha1.common import API_VERSION
from daemoneye_operator.reconcile import clock
from daemoneye_operator.reconcile.findingobject import Ref

CONTROLLER: Final = "daemoneye-operator"
MAX_NOTE: Final = 1024
_WORDS: Final = re.compile(r"[^A-Za-z0-9]+")


def event(ref: Ref, spec: Mapping[str, Any], instance: str, now: float) -> dict[str, Any] | None:
    """The Event of a Finding, for ``events.k8s.io/v1``; None when its subject is no pod.

    Args:
        ref: The Finding, which lives in the namespace of its pod.
        spec: Its spec.
        instance: Name of the operator's pod.
        now: Seconds since 1970; part of the Event's name, for an Event cannot be changed but for its series.
    """
    subject = spec["subject"]
    if not subject["pod"] or ref.namespace != subject["namespace"]:
        return None
    regarding = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": subject["namespace"],
        "name": subject["pod"],
        "uid": subject["podUID"],
    }
    if subject["container"]:
        regarding["fieldPath"] = f"spec.containers{{{subject['container']}}}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name}.{int(now * 1_000_000):x}", "namespace": subject["namespace"]},
        "eventTime": clock.micro(now),
        "type": "Warning",
        "reason": reason(spec["detector"]),
        "action": "Detected",
        "note": _note(ref, spec),
        "regarding": regarding,
        "related": {"apiVersion": API_VERSION, "kind": "Finding", "namespace": ref.namespace, "name": ref.name},
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128] or CONTROLLER,
    }


def series(first: Mapping[str, Any], count: int, now: float) -> dict[str, Any]:
    """The same Event, which happened `count` times by now; at least two make a series."""
    return {**first, "series": {"count": max(count, 2), "lastObservedTime": clock.micro(now)}}


def reason(detector: str) -> str:
    """A detector's name in CamelCase: ``suspicious_exec`` is ``SuspiciousExec``."""
    words = (word[:1].upper() + word[1:] for word in _WORDS.split(detector))
    return "".join(words)[:128] or "Finding"


def _note(ref: Ref, spec: Mapping[str, Any]) -> str:
    end = f" (kubectl get finding -n {ref.namespace} {ref.name} -o yaml)"
    text = " ".join((f"{spec['severity']}: {spec['title']}.", *spec["explanation"][:3]))
    room = MAX_NOTE - len(end.encode())
    raw = text.encode()
    if len(raw) > room:
        text = raw[: room - 3].decode("utf-8", "ignore") + "…"
    return text + end
