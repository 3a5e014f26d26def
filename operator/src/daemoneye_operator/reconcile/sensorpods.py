"""The state of the sensors' DaemonSet, from it and its pods.

Responsible for finding the first pod that waits and why; the words for it are :mod:`daemoneye_operator.reconcile.status`' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from daemoneye_operator.reconcile import clock
from daemoneye_operator.reconcile.status import DaemonSetState

_USUAL: Final = frozenset({"ContainerCreating", "PodInitializing"})
_LONG_S: Final = 60.0
"""Age of a pod from which on being made is waiting: a volume cannot be mounted, say."""
_GRACE_S: Final = 10.0
"""Age of a DaemonSet without any pod from which on its pods are refused."""
_REFUSED: Final = (
    "the DaemonSet's controller makes no pod: does the namespace allow privileged ones (label "
    "pod-security.kubernetes.io/enforce: privileged)? Its Events say more"
)


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
        "controlled": any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences") or ()),
        "leaving": bool(pod["metadata"].get("deletionTimestamp")),
        "made": pod["metadata"].get("creationTimestamp") or "",
    }


def state(daemonset: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]], now: float) -> DaemonSetState:
    """The state; `pods` are projections, `now` seconds since 1970."""
    if daemonset is None:
        return DaemonSetState(exists=False)
    status = daemonset.get("status") or {}
    containers = daemonset["spec"]["template"]["spec"]["containers"]
    pods = list(pods)
    desired = status.get("desiredNumberScheduled", 0)
    waiting = sorted((pod["node"], pod["reason"], pod["message"]) for pod in pods if _waits(pod, now))
    old = now - clock.seconds(daemonset["metadata"].get("creationTimestamp") or clock.rfc3339(now)) > _GRACE_S
    if not waiting and desired and not pods and old:
        waiting = [("", "FailedCreate", _REFUSED)]
    node, reason, message = waiting[0] if waiting else ("", "", "")
    return DaemonSetState(
        exists=True,
        desired=desired,
        ready=status.get("numberReady", 0),
        image=containers[0]["image"] if containers else "",
        waiting_node=node,
        waiting_reason=reason,
        waiting_message=message,
    )


def _waits(pod: Mapping[str, Any], now: float) -> bool:
    if not pod["reason"] or pod["leaving"]:
        return False
    return pod["reason"] not in _USUAL or bool(pod["made"] and now - clock.seconds(pod["made"]) > _LONG_S)
