"""Container, pod and workload from cgroup paths as the runtimes really write them."""

from __future__ import annotations

import pytest

from daemoneye_sensor.enrich.cgroups import PARTIAL, RESOLVED, identify

ID = "3f8a" * 16
UID = "0a1b2c3d-1111-4222-8333-0123456789ab"
UNDERSCORED = UID.replace("-", "_")
STATIC = "d0cf" * 8

CONTAINERS = [
    # (v2 path, v1 path, runtime, pod)
    (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        "",
        "containerd",
        UID,
    ),
    (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/crio-{ID}.scope",
        "",
        "cri-o",
        UID,
    ),
    (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope/container", "", "cri-o", UID),
    (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{ID}.scope", "", "docker", UID),
    ("/", f"/kubepods/burstable/pod{UID}/{ID}", "", UID),
    ("/", f"/kubepods/pod{UID}/{ID}", "", UID),
    ("/", f"/kubepods/besteffort/pod{STATIC}/{ID}", "", STATIC),
    (f"/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{ID}.scope", "", "containerd", STATIC),
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}",
        "",
        "containerd",
        UID,
    ),
    (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        "",
        "containerd",
        UID,
    ),
    ("/", f"/docker/{ID}", "docker", ""),
    (f"/system.slice/docker-{ID}.scope", "", "docker", ""),
    (f"/docker/{ID}/init.scope", "", "docker", ""),
    (f"/machine.slice/libpod-{ID}.scope/container", "", "podman", ""),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", "", "podman", ""),
    (f"/system.slice/nerdctl-{ID}.scope", "", "containerd", ""),
    (f"/default/{ID}", "", "containerd", ""),
    (f"/k8s.io/{ID}", "", "containerd", ""),
    # kind: a node that is a container itself; the innermost one counts
    (
        f"/docker/{'e' * 64}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
        "",
        "containerd",
        UID,
    ),
    # relative to the cgroup namespace of a pod
    (f"/../../kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope", "", "containerd", UID),
    (f"/../../kubepods-burstable-pod{UNDERSCORED}.slice/crio-{ID}.scope", "", "cri-o", UID),
    (f"/../../../pod{UID}/{ID}", "", "", UID),
    (f"/../../pod{STATIC}/{ID}/..data", "", "", STATIC),
    (f"/../../../../../docker/{ID}", "", "docker", ""),
    (f"/../cri-containerd-{ID}.scope", "", "containerd", ""),
    # hybrid: v2 holds nothing, v1 the container
    ("/system.slice/containerd.service", f"/kubepods/pod{UID}/{ID}", "", UID),
]


@pytest.mark.parametrize(("v2", "v1", "runtime", "pod"), CONTAINERS)
def test_containers(v2: str, v1: str, runtime: str, pod: str) -> None:
    identity = identify(v2, v1)
    assert (identity.container_id, identity.runtime, identity.pod_uid) == (ID, runtime, pod)
    assert identity.state == PARTIAL
    assert identity.workload == f"container/{ID[:12]}"


HOSTS = [
    ("/system.slice/ssh.service", "", "host/systemd/ssh.service"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "", "host/systemd/getty@tty1.service"),
    ("/user.slice/user-1000.slice/session-3.scope", "", "host/systemd/session-3.scope"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo.scope", "", "host/systemd/app-foo.scope"),
    ("/init.scope", "", "host/systemd/init.scope"),
    ("/user.slice", "", "host/systemd/user.slice"),
    ("/", "", "host/cgroup/"),
    ("/", "/", "host/cgroup/"),
    ("/", "/batch/job-7", "host/cgroup/batch/job-7"),
    ("/custom/group", "", "host/cgroup/custom/group"),
    ("/../../../../system.slice/ssh.service", "", "host/systemd/ssh.service"),
    ("/../../batch/job-7", "", "host/cgroup/batch/job-7"),
    ("/../..", "", "host/cgroup/"),
    ("/..", "/batch/job-7", "host/cgroup/batch/job-7"),
    ("/..hidden/job", "", "host/cgroup/..hidden/job"),
    # CRI-O's monitor belongs to the host
    (f"/system.slice/crio-conmon-{ID}.scope", "", f"host/systemd/crio-conmon-{ID}.scope"),
    # hex that is no container id
    ("/kubepods/pod123/abcdef", "", "host/cgroup/kubepods/pod123/abcdef"),
    (f"/docker/{ID[:-1]}", "", f"host/cgroup/docker/{ID[:-1]}"),
]


@pytest.mark.parametrize(("v2", "v1", "workload"), HOSTS)
def test_host_workloads(v2: str, v1: str, workload: str) -> None:
    identity = identify(v2, v1)
    assert identity.workload == workload
    assert identity.container_id == ""
    assert identity.state == RESOLVED
