"""Where our resources are on the API server.

Responsible for paths alone.
"""

from __future__ import annotations

from typing import Final

from daemoneye_operator.kube import path_of
from daemoneye_operator.reconcile.findingobject import Ref

GROUP: Final = "/apis/daemoneye.io/v1alpha1"
POLICIES: Final = "daemoneyepolicies"
PEERS: Final = "federationpeers"
FINDINGS: Final = "findings"
EXCEPTIONS: Final = "detectionexceptions"
CORE: Final = "/api/v1"
APPS: Final = "/apis/apps/v1"
EVENTS: Final = "/apis/events.k8s.io/v1"
COORDINATION: Final = "/apis/coordination.k8s.io/v1"


def ours(plural: str, name: str = "", namespace: str = "", subresource: str = "") -> str:
    """Path of one of our kinds; without a name its list over all namespaces."""
    return path_of(GROUP, plural, name, namespace, subresource)


def finding(ref: Ref, subresource: str = "") -> str:
    """Path of a Finding."""
    return ours(FINDINGS, ref.name, ref.namespace, subresource)
