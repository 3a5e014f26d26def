"""What Kubernetes knows of a pod, as a node's sensor needs it: the document between identity publisher and sensor.

Responsible for the document's form, its bounds and how a pod's owner becomes a workload's name; not for watching pods
(``daemoneye_operator.identity``) nor for joining them to cgroups (``daemoneye_sensor.enrich``).

One document a pod under ``<node>.pod.<cgroup uid>`` in the bucket ``daemoneye_nodes``; :func:`cgroup_uid` says which UID the pod's cgroup
bears.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from daemoneye.errors import CorruptData

MAX_BYTES: Final = 16 * 1024
"""Largest document, as JSON. Until a pod fits, the longest images are left out, then the longest of its labels, at last its namespace's: a pod
writes its own labels, and must not push out by them what others say of it."""
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
_CONFIG_HASH: Final = "kubernetes.io/config.hash"
_CONFIG_MIRROR: Final = "kubernetes.io/config.mirror"
_TEMPLATE_HASH: Final = "pod-template-hash"
_CRON_SUFFIX: Final = re.compile(r"-\d{8,}$")
_FILE_HASH: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """One pod.

    Attributes:
        uid: UID of the object.
        owner_kind: Deployment, DaemonSet, StatefulSet, CronJob, Job, Node (static pod), or Pod for a bare one.
        labels: Labels of the pod.
        namespace_labels: Labels of its namespace.
        images: Container name → image, as the spec names it; init and ephemeral containers too.
        cut: Labels had to be left out: what selects by them cannot tell.
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
    cut: bool = False

    def workload(self, container: str) -> str:
        """`namespace/ownerKind/ownerName/container`."""
        return f"{self.namespace}/{self.owner_kind}/{self.owner_name or self.name}/{container}"

    def encode(self) -> bytes:
        """JSON of at most MAX_BYTES."""
        value = asdict(self)
        data = _json(value)
        size = len(data)
        if size <= MAX_BYTES:
            return data
        for name, key in _dispensable(value):
            if size <= MAX_BYTES:
                break
            table = value[name]
            # Computed, for an object may have ten thousand labels; the last entry of a table has no comma.
            size -= _length(key, table.pop(key)) + bool(table)
            value["cut"] |= name != "images"
        return _json(value)

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
    """UID in the name of the pod's cgroup: a static pod's is the hash of its file.

    Whoever makes a pod annotates it as they like. So the hash is believed of a mirror pod only, as a kubelet makes them of its static pods, and
    only in a form that no UID of the API has: nobody takes another pod's key. A static pod whose file names a UID has no document by this.
    """
    annotations = metadata.get("annotations") or {}
    uid: str = metadata["uid"]
    said: str = annotations.get(_CONFIG_HASH, "")
    of_node = any(r.get("controller") and r.get("kind") == "Node" for r in metadata.get("ownerReferences") or ())
    return said if _CONFIG_MIRROR in annotations and of_node and _FILE_HASH.fullmatch(said) else uid


def _dispensable(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tables and keys of a document in the order in which they are left out; the name that a namespace cannot change comes last."""
    for name in ("images", "labels", "namespace_labels"):
        table: Mapping[str, str] = value[name]
        last = _NAMESPACE_NAME if name == "namespace_labels" else None
        order = sorted((key == last, -_length(key, text), key) for key, text in table.items())
        yield from ((name, key) for _, _, key in order)


def _length(key: str, text: str) -> int:
    return len(_json({key: text})) - len("{}")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
