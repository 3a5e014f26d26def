"""The sensors' DaemonSet and ConfigMap, as the API server is asked for them.

Responsible for the sensor pod: what it may, what it sees of the node and what it is told at its start. Not for policies: the template depends
on none but for the union of their tolerations, so that a change of policy restarts no sensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from daemoneye_operator.settings import OperatorSettings

COMPONENT: Final = "sensor"
CONFIG_ANNOTATION: Final = "daemoneye.io/config-hash"
CONFIG_DIR: Final = "/etc/daemoneye"
BROKER_DIR: Final = f"{CONFIG_DIR}/broker"
STATE_DIR: Final = "/var/lib/daemoneye"
TASKS_DIR: Final = "/run/daemoneye/tasks"
TOKEN_DIR: Final = "/run/daemoneye/token"  # noqa: S105 - a path
TOKEN_LIFE_S: Final = 3600
"""The kubelet writes another when four fifths of it are over; whoever takes one away can connect with it for that long."""

NODE_NETNS: Final = "/proc/1/ns/net"
"""The node's network namespace, as a pod with the node's process ids sees it."""
HEALTH_PORT: Final = 8080
"""Port of /healthz, /readyz and /metrics in the sensor's own network namespace."""

CAPABILITIES: Final = (
    "BPF",  # bpf(2): maps, programs, links, pins
    "PERFMON",  # programs that trace and read kernel memory
    "SYS_PTRACE",  # /proc/<pid>/exe, cwd and environ of other users' processes
)
"""What the sensor's container may beyond what everybody may; all else is dropped."""
CAPTURE_CAPABILITIES: Final = (
    "NET_RAW",  # sockets that see packets
    "SYS_ADMIN",  # setns(2) into the node's network namespace, for as long as such a socket is opened
)
"""What it may besides, where sensors may capture packets."""


def labels(settings: OperatorSettings) -> dict[str, str]:
    """Labels of everything that belongs to the sensor."""
    version = {"app.kubernetes.io/version": settings.version} if settings.version else {}
    return {
        **selector_labels(settings),
        "app.kubernetes.io/part-of": "daemoneye",
        "app.kubernetes.io/managed-by": "daemoneye-operator",
        **version,
    }


def selector_labels(settings: OperatorSettings) -> dict[str, str]:
    """Labels that select the sensor's pods. Frozen for ever: a DaemonSet's selector cannot be changed."""
    return {
        "app.kubernetes.io/name": "daemoneye",
        "app.kubernetes.io/instance": settings.release,
        "app.kubernetes.io/component": COMPONENT,
    }


def name(settings: OperatorSettings) -> str:
    """Name of the DaemonSet, its ConfigMap and its ServiceAccount."""
    return f"{settings.fullname}-{COMPONENT}"


def token_audience(settings: OperatorSettings) -> str:
    """For whom a sensor's token is made: this release's broker, and nobody else, so that the API server does not take it either."""
    return f"daemoneye-broker.{settings.namespace}.{settings.fullname}"


def all_tolerations(settings: OperatorSettings, tolerations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The installation's tolerations and those that policies ask for beside them."""
    joined = [dict(toleration) for toleration in settings.sensor.tolerations]
    joined += [dict(toleration) for toleration in tolerations if toleration not in joined]
    return joined


def checksum(configmap: Mapping[str, Any]) -> str:
    """Hash of a ConfigMap's data, for `desired_daemonset`: sensors read it only at their start."""
    return hashlib.sha256(json.dumps(configmap["data"], sort_keys=True).encode()).hexdigest()[:16]


def desired_configmap(settings: OperatorSettings, cluster_uid: str, owner: Mapping[str, Any] | None) -> dict[str, Any]:
    """ConfigMap with ``sensor.json``.

    Args:
        settings: The operator's.
        cluster_uid: UID of the namespace kube-system, which names the cluster.
        owner: ownerReference; None makes an object of nobody's.
    """
    nats: dict[str, Any] = {
        "url": settings.nats.url,
        "user_file": f"{BROKER_DIR}/user",
        "password_file": f"{BROKER_DIR}/password" if settings.nats.external else f"{TOKEN_DIR}/token",
        "inbox_prefix_file": f"{BROKER_DIR}/inbox_prefix",
    }
    # A broker of the user's own whose authorities are the system's comes without ca.crt.
    if not settings.nats.external or settings.nats.tls_secret_ref is not None:
        nats["tls"] = {"ca": f"{BROKER_DIR}/ca.crt"}
    document = {
        "node_env": "DAEMONEYE_NODE",
        "cluster": cluster_uid,
        "instance": settings.fullname,
        "state_dir": f"{STATE_DIR}/{settings.fullname}",
        "bpf_dir": "/opt/daemoneye/bpf",
        "source": "ebpf",
        "keep_programs": True,
        "configuration": "broker",
        "runtime_tasks": TASKS_DIR,
        "packet_capture": settings.sensor.packet_capture,
        "capture_netns": NODE_NETNS,
        "nats": nats,
        "shards": settings.streams.shards,
        "spool": {"max_bytes": settings.sensor.spool_max_bytes},
        "rings": settings.sensor.rings.model_dump(),
        "status_interval_s": settings.sensor.status_interval_seconds,
        "health_port": HEALTH_PORT,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(settings, owner),
        "data": {"sensor.json": json.dumps(document, indent=1, sort_keys=True)},
    }


def desired_daemonset(
    settings: OperatorSettings,
    tolerations: Sequence[Mapping[str, Any]],
    owner: Mapping[str, Any] | None,
    *,
    config_hash: str = "",
) -> dict[str, Any]:
    """The DaemonSet.

    Args:
        settings: The operator's.
        tolerations: What policies tolerate, see `daemoneye_operator.reconcile.selection.tolerations`.
        owner: ownerReference; None makes an object of nobody's.
        config_hash: `checksum` of the ConfigMap: another one replaces the pods.
    """
    sensor = settings.sensor
    annotations = {**sensor.pod_annotations, **({CONFIG_ANNOTATION: config_hash} if config_hash else {})}
    template = {
        # Ours come last: a label of the user's must not take a pod away from its DaemonSet.
        "metadata": {"labels": {**sensor.pod_labels, **labels(settings)}, "annotations": annotations},
        "spec": _pod(settings, all_tolerations(settings, tolerations)),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata(settings, owner),
        "spec": {
            "selector": {"matchLabels": selector_labels(settings)},
            # Two sensors of one installation on a node would take each other's rings: no surge.
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": sensor.update_max_unavailable, "maxSurge": 0},
            },
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def _metadata(settings: OperatorSettings, owner: Mapping[str, Any] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name(settings), "namespace": settings.namespace, "labels": labels(settings)}
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return metadata


def _pod(settings: OperatorSettings, tolerations: list[dict[str, Any]]) -> dict[str, Any]:
    sensor = settings.sensor
    spec: dict[str, Any] = {
        "serviceAccountName": name(settings),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Events name processes by the node's ids, and procfs is asked about them.
        "hostPID": True,
        "terminationGracePeriodSeconds": sensor.termination_grace_period_seconds,
        "tolerations": tolerations,
        "nodeSelector": sensor.node_selector,
        "containers": [_container(settings)],
        "volumes": _volumes(settings),
    }
    if sensor.priority_class_name:
        spec["priorityClassName"] = sensor.priority_class_name
    if sensor.image_pull_secrets:
        spec["imagePullSecrets"] = [secret.model_dump() for secret in sensor.image_pull_secrets]
    return spec


def _container(settings: OperatorSettings) -> dict[str, Any]:
    sensor = settings.sensor
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "broker", "mountPath": BROKER_DIR, "readOnly": True},
        {"name": "bpffs", "mountPath": "/sys/fs/bpf"},
        {"name": "spool", "mountPath": STATE_DIR},
        # Without propagation: bundles are folders of one file system, and their containers' mounts are none of our business.
        {"name": "tasks", "mountPath": TASKS_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
        *([] if settings.nats.external else [{"name": "token", "mountPath": TOKEN_DIR, "readOnly": True}]),
    ]
    return {
        "name": COMPONENT,
        "image": sensor.image,
        "imagePullPolicy": sensor.image_pull_policy,
        "command": ["/opt/daemoneye/bin/python", "-m", "daemoneye_sensor", "--config", f"{CONFIG_DIR}/sensor.json"],
        "env": [{"name": "DAEMONEYE_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": sensor.resources.model_dump(),
        "securityContext": _security(settings),
        # What it said last becomes the policy's status when it cannot start.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        **_probes(),
        "volumeMounts": mounts,
    }


def _probes() -> dict[str, Any]:
    """Liveness ends a sensor that is stuck, after two minutes; readiness says whether it does what its node's policies ask.

    A probe costs two wake-ups and less than a millisecond: together 0.3 wake-ups a second beside the three looks at the rings.
    """
    alive, ready = ({"path": path, "port": "health"} for path in ("/healthz", "/readyz"))
    return {
        # Five minutes: it answers while programs are compiled, but a node that starts a hundred pods at once starts Python slowly, too.
        "startupProbe": {"httpGet": alive, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 150},
        # It answers between two writes: a disk that takes 20 s for each is no reason to end it, for the next one would have the same disk.
        "livenessProbe": {"httpGet": alive, "periodSeconds": 30, "timeoutSeconds": 30, "failureThreshold": 4},
        "readinessProbe": {"httpGet": ready, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 2},
    }


def _security(settings: OperatorSettings) -> dict[str, Any]:
    context: dict[str, Any] = {"readOnlyRootFilesystem": True, "runAsUser": 0, "runAsGroup": 0}
    capabilities = [*CAPABILITIES, *(CAPTURE_CAPABILITIES if settings.sensor.packet_capture else ())]
    if settings.sensor.privileged:
        return {**context, "privileged": True}
    return {
        **context,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
        # The runtime's default profiles allow bpf and perf_event_open by capability, but AppArmor's denies ptrace of others.
        "seccompProfile": {"type": "RuntimeDefault"},
        "appArmorProfile": {"type": "Unconfined"},
    }


def _volumes(settings: OperatorSettings) -> list[dict[str, Any]]:
    paths = settings.sensor.host_paths
    token = {"audience": token_audience(settings), "expirationSeconds": TOKEN_LIFE_S, "path": "token"}
    projected = {"sources": [{"serviceAccountToken": token}], "defaultMode": 0o400}
    return [
        {"name": "config", "configMap": {"name": name(settings), "defaultMode": 0o444}},
        {"name": "broker", "secret": {"secretName": f"{settings.fullname}-broker-sensor", "defaultMode": 0o400}},
        {"name": "bpffs", "hostPath": {"path": paths.bpffs, "type": "Directory"}},
        {"name": "spool", "hostPath": {"path": paths.spool, "type": "DirectoryOrCreate"}},
        {"name": "tasks", "hostPath": {"path": paths.runtime_tasks, "type": "Directory"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        *([] if settings.nats.external else [{"name": "token", "projected": projected}]),
    ]
