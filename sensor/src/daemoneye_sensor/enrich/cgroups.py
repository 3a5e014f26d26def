"""Whose cgroup a path names: container id, pod UID, runtime, workload. Pure; tested on real paths of each runtime."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

UNKNOWN, PARTIAL, RESOLVED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of a cgroup.

    Attributes:
        state: UNKNOWN, PARTIAL (container known, its pod's name and workload not) or RESOLVED.
        container_id: 64 hex digits, or empty.
        pod_uid: UID with dashes as Kubernetes writes it, or empty.
        runtime: containerd, cri-o, docker, podman, or empty.
        workload: `host/systemd/<unit>`, `host/cgroup/<path>`, or `container/<id>` until Kubernetes names it.
    """

    state: int
    container_id: str = ""
    pod_uid: str = ""
    runtime: str = ""
    workload: str = ""


# systemd driver: cri-containerd-<id>.scope, crio-<id>.scope, docker-<id>.scope, libpod-<id>.scope; cgroupfs driver: the bare id.
_SCOPE: Final = re.compile(r"^(?:(cri-containerd|nerdctl|crio|docker|libpod)-)?(?:conmon-)?([0-9a-f]{64})(?:\.scope)?$")
_CONTAINERD: Final = re.compile(
    r"^[^:/]*:cri-containerd:([0-9a-f]{64})$"
)  # containerd with the systemd driver below a slice, `slice:prefix:id`
_RUNTIMES: Final = {
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "libpod": "podman",
}
_POD: Final = re.compile(
    r"(?:^|[-/])pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?:[/:]|$)"
)
_PARENT_RUNTIME: Final = {
    "docker": "docker",
    "libpod_parent": "podman",
    "machine.slice": "podman",
    "crio": "cri-o",
    "k8s.io": "containerd",
    "default": "containerd",
}
_ABOVE: Final = re.compile(r"^(?:/\.\.)+(?:/|$)")
_UNIT: Final = re.compile(r"^.+\.(service|scope|socket|mount|slice)$")


def identify(path_v2: str, path_v1: str = "") -> Identity:
    """Identity from both hierarchies' paths: the one that names a container wins, v1 first (in hybrid mode the v2 path says nothing).

    A path may be relative to a cgroup namespace, and begin with as many `..` as that is deep: what follows says the same.
    """
    path_v2, path_v1 = _ABOVE.sub("/", path_v2), _ABOVE.sub("/", path_v1)
    for path in (path_v1, path_v2):
        if found := _container(path):
            return found
    path = next((p for p in (path_v2, path_v1) if p not in {"", "/"}), "/")
    return Identity(RESOLVED, workload=_host_workload(path))


def _container(path: str) -> Identity | None:
    """The innermost container of a path; a container's own child cgroups (systemd inside, `init`) belong to it."""
    parts = path.strip("/").split("/")
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        runtime = ""
        match = _SCOPE.match(part)
        if match:
            runtime, container = _RUNTIMES.get(match[1] or "", ""), match[2]
        elif match := _CONTAINERD.match(part):
            runtime, container = "containerd", match[1]
        else:
            continue
        if "conmon-" in part:  # CRI-O's and podman's monitor: the host's process, not the container's
            return None
        pod = _POD.search(path)
        if not runtime and at:
            runtime = _PARENT_RUNTIME.get(parts[at - 1], "")
        uid = _dashed(pod[1]) if pod else ""
        return Identity(PARTIAL, container, uid, runtime, f"container/{container[:12]}")
    return None


def _dashed(uid: str) -> str:
    """UID as Kubernetes writes it. 32 bare digits are a static pod's file hash and stay as they are."""
    return uid.replace("_", "-")


def _host_workload(path: str) -> str:
    """Systemd's unit where the path has one, the path otherwise. Sessions and users count as their slice's innermost service or scope."""
    units = [part for part in path.split("/") if _UNIT.match(part)]
    services = [unit for unit in units if not unit.endswith(".slice")]
    if services:
        return f"host/systemd/{services[-1]}"
    if units:
        return f"host/systemd/{units[-1]}"
    return f"host/cgroup{path}" if path != "/" else "host/cgroup/"
