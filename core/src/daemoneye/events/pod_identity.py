"""pod_identity: which pod a cgroup belongs to, and which policies. Context rows, one for each distinct cgroup pair of a batch in a cluster."""

from __future__ import annotations

from daemoneye.events.schema import Field, Record

POD_IDENTITY = Record(
    id=66,
    name="pod_identity",
    lane="context",
    doc=(
        "What Kubernetes knows of a cgroup's pod, and the policies that its processes belong to, as the sensor knew them when it made the "
        "batch. Cgroups outside of pods have a row, too: theirs names policies alone."
    ),
    fields=(
        Field(1, "cgroup_id", "u64", "Id of the v2 cgroup."),
        Field(2, "cgroup_v1_id", "u64", "Id of the v1 cgroup, 0 where there is none."),
        Field(
            3, "policies", "heap32", "Names of the policies that it belongs to, each ended by a zero byte.", text="argv"
        ),
        Field(4, "labels", "heap32", "Labels of the pod as key=value, each ended by a zero byte.", text="argv"),
        Field(
            5,
            "image",
            "heap32",
            "Image of the container, as the pod names it.",
            text="string",
            ocsf="container.image.name",
        ),
        Field(
            6, "namespace", "heap16", "Namespace of the pod.", text="string", ocsf="container.orchestrator.namespace"
        ),
        Field(7, "pod", "heap16", "Name of the pod.", text="string", ocsf="container.orchestrator.pod"),
        Field(8, "container", "heap16", "Name of the container in its pod.", text="string", ocsf="container.name"),
        Field(9, "owner_kind", "heap16", "Kind of what the pod belongs to: Deployment, DaemonSet, Pod.", text="string"),
        Field(10, "owner_name", "heap16", "Name of what the pod belongs to.", text="string"),
        Field(11, "service_account", "heap16", "Service account that the pod runs as.", text="string"),
    ),
)
