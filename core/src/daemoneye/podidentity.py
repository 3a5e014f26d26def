"""What Kubernetes knows of a pod, as a node's sensor needs it: the document between identity publisher and sensor.

Responsible for the document's form, its bounds and how a pod's owner becomes a workload's name; not for watching pods
(``daemoneye_operator.identity``) nor for joining them to cgroups (``daemoneye_sensor.enrich``).

One document a pod under ``<node>.pod.<cgroup uid>`` in the bucket ``daemoneye_nodes``; :func:`cgroup_uid` says which UID the pod's cgroup
bears.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from daemoneye.errors import CorruptData

MAX_BYTES: Final = 16 * 1024
"""Largest document, as JSON; labels are dropped, longest first, until a pod fits."""
_CONFIG_HASH: Final = "kubernetes.io/config.hash"
_TEMPLATE_HASH: Final = "pod-template-hash"
_CRON_SUFFIX: Final = re.compile(r"-\d{8,}$")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """One pod.

    Attributes:
        uid: UID of the object.
        images: Container name → image, as the spec names it; init and ephemeral containers too.
        labels: Labels of the pod.
        namespace_labels: Labels of its namespace.
        owner_kind: Deployment, DaemonSet, StatefulSet, CronJob, Job, Node (static pod), or Pod for a bare one.
    """

    namespace: str
    name: str
    uid: str
    owner_kind: str = "Pod"
    owner_name: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)

    def workload(self, container: str) -> str:
        """`namespace/ownerKind/ownerName/container`."""
        return f"{self.namespace}/{self.owner_kind}/{self.owner_name or self.name}/{container}"

    def encode(self) -> bytes:
        """JSON of at most MAX_BYTES."""
        value = asdict(self)
        labels = value["labels"]
        while len(data := json.dumps(value, sort_keys=True, separators=(",", ":")).encode()) > MAX_BYTES:
            tables = [t for t in (labels, value["namespace_labels"], value["images"]) if t]
            if not tables:
                break
            largest = max(tables, key=lambda t: max(len(k) + len(v) for k, v in t.items()))
            del largest[max(largest, key=lambda k: len(k) + len(largest[k]))]
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`; unknown keys are ignored.

        Raises:
            CorruptData: It is not such a document.
        """
        try:
            value = json.loads(data)
            names = cls.__dataclass_fields__
            return cls(**{key: content for key, content in value.items() if key in names})
        except (ValueError, TypeError, AttributeError) as error:
            raise CorruptData(f"not a pod's identity: {error}") from error

    @classmethod
    def of(cls, pod: Mapping[str, Any], namespace_labels: Mapping[str, str]) -> Self:
        """What a Pod object of the API says."""
        metadata, spec = pod["metadata"], pod.get("spec", {})
        kind, name = owner(metadata)
        containers = (c for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key) or ())
        return cls(
            namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"], owner_kind=kind, owner_name=name,
            service_account=spec.get("serviceAccountName", ""), labels=metadata.get("labels") or {},
            namespace_labels=namespace_labels, images={c["name"]: c.get("image", "") for c in containers},
        )  # fmt: skip


def owner(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and name of what a pod belongs to, from its own metadata alone.

    A ReplicaSet's name is its Deployment's with the pod-template-hash behind it, a Job's made by a CronJob its name with the minute: so no
    second watch is needed. A ReplicaSet without the label, or a Job without the minute, is its own owner.
    """
    for reference in metadata.get("ownerReferences") or ():
        if not reference.get("controller"):
            continue
        kind, name = reference["kind"], reference["name"]
        template = (metadata.get("labels") or {}).get(_TEMPLATE_HASH, "")
        if kind == "ReplicaSet" and template and name.endswith(f"-{template}"):
            return "Deployment", name.removesuffix(f"-{template}")
        if kind == "Job" and _CRON_SUFFIX.search(name):
            return "CronJob", _CRON_SUFFIX.sub("", name)
        return kind, name
    return "Pod", metadata["name"]


def cgroup_uid(metadata: Mapping[str, Any]) -> str:
    """UID in the name of the pod's cgroup: a static pod's is the hash of its file."""
    uid: str = (metadata.get("annotations") or {}).get(_CONFIG_HASH) or metadata["uid"]
    return uid if _KEY.fullmatch(uid) else metadata["uid"]
