"""The state of the sensors' DaemonSet, from it and its pods.

Responsible for finding the first pod that waits and why; the words for it are :mod:`daemoneye_operator.reconcile.status`' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from daemoneye_operator.reconcile.status import DaemonSetState

_USUAL = frozenset({"ContainerCreating", "PodInitializing"})


def project(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What of a pod is needed, so that a watch holds no more."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    waiting = next((state for one in statuses if (state := (one.get("state") or {}).get("waiting"))), None) or {}
    last = next((state for one in statuses if (state := (one.get("lastState") or {}).get("terminated"))), None) or {}
    return {
        "node": (pod.get("spec") or {}).get("nodeName") or "",
        "reason": waiting.get("reason", ""),
        # A container that crashes waits with words about its back-off; what it said at its end says more.
        "message": (last.get("message") or waiting.get("message") or "").strip()[-512:],
        "leaving": bool(pod["metadata"].get("deletionTimestamp")),
    }


def state(daemonset: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]]) -> DaemonSetState:
    """The state; `pods` are projections."""
    if daemonset is None:
        return DaemonSetState(exists=False)
    status = daemonset.get("status") or {}
    containers = daemonset["spec"]["template"]["spec"]["containers"]
    waiting = sorted(
        (pod["node"], pod["reason"], pod["message"])
        for pod in pods
        if pod["reason"] and pod["reason"] not in _USUAL and not pod["leaving"]
    )
    node, reason, message = waiting[0] if waiting else ("", "", "")
    return DaemonSetState(
        exists=True,
        desired=status.get("desiredNumberScheduled", 0),
        ready=status.get("numberReady", 0),
        image=containers[0]["image"] if containers else "",
        waiting_node=node,
        waiting_reason=reason,
        waiting_message=message,
    )
