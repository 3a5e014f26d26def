"""cgroup_identity: whose cgroup it is. Context rows, one for each distinct cgroup pair of a batch."""

from __future__ import annotations

from daemoneye.events.schema import Field, Record

CGROUP_IDENTITY = Record(
    id=64,
    name="cgroup_identity",
    lane="context",
    doc="Container, pod and workload of a cgroup as the sensor knew them when it made the batch.",
    fields=(
        Field(1, "cgroup_id", "u64", "Id of the v2 cgroup."),
        Field(2, "cgroup_v1_id", "u64", "Id of the v1 cgroup, 0 where there is none."),
        Field(3, "state", "u32", "0 unknown, 1 partial (container known, pod or workload not), 2 resolved."),
        Field(4, "path", "heap16", "Path in the v2 hierarchy.", text="string"),
        Field(5, "path_v1", "heap16", "Path in the v1 hierarchy.", text="string"),
        Field(6, "container_id", "heap16", "Container id, 64 hex digits.", text="string", ocsf="container.uid"),
        Field(7, "pod_uid", "heap16", "UID of the pod.", text="string", ocsf="container.pod_uuid"),
        Field(
            8,
            "runtime",
            "heap16",
            "containerd, cri-o, docker, podman or empty.",
            text="string",
            ocsf="container.runtime",
        ),
        Field(
            9,
            "workload",
            "heap16",
            "namespace/ownerKind/ownerName/container for pods, host/systemd/<unit> or host/cgroup/<path> elsewhere.",
            text="string",
        ),
    ),
)
