"""What a cluster holds of an installation, for a report: objects, Events, nodes, logs, what status and doctor say.

Responsible for what is asked of the API server and for what is left out of an answer. Secrets are never asked for; nor is Helm's own record
of the release, which is one. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from daemoneye_cli import clusterchecks, survey
from daemoneye_cli.bundle import LOG_LINES, MAX_LOG, Bundle, without_arguments
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.release import Release
from daemoneye_cli.show.checks import plain_line
from daemoneye_cli.show.cluster import status_lines

KINDS: Final = (
    "deployments.apps", "statefulsets.apps", "daemonsets.apps", "replicasets.apps", "jobs.batch", "pods", "services", "configmaps", "serviceaccounts",
    "persistentvolumeclaims", "networkpolicies.networking.k8s.io", "leases.coordination.k8s.io",
)  # fmt: skip
"""Kinds of which the installation's own objects are taken, each asked for by itself: one may be forbidden."""

_CUSTOM: Final = ("daemoneyepolicies", "federationpeers", "detectionexceptions")
_FETCHED: Final = 16 << 20
"""Bytes of a log that are read at most, of which the newest are kept."""
_AT_ONCE: Final = 4
_NOISE: Final = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})


@dataclass(frozen=True, slots=True)
class Log:
    """One container's log; ``previous`` is that of its life before."""

    pod: str
    container: str
    previous: bool = False

    @property
    def entry(self) -> str:
        """Its name in the archive."""
        return f"logs/{self.pod}/{self.container}{'.previous' if self.previous else ''}.log"


def gather_cluster(kube: Kubectl, bundle: Bundle, *, last: int, arguments: bool) -> None:
    """Put what is the whole cluster's into ``bundle``: nodes, CRDs, our kinds with the ``last`` findings in full."""
    with bundle.part("versions/kubernetes.json"):
        bundle.document("versions/kubernetes.json", kube.json("version", "-o", "json"))
    with bundle.part("cluster/nodes.jsonl"):
        bundle.lines("cluster/nodes.jsonl", map(_node, kube.items("nodes")))
    with bundle.part("cluster/crds.jsonl"):
        found = kube.items("customresourcedefinitions.apiextensions.k8s.io")
        bundle.lines("cluster/crds.jsonl", (_definition(one) for one in found if _name(one).endswith(".daemoneye.io")))
    for kind in _CUSTOM:
        with bundle.part(f"resources/{kind}.jsonl"):
            bundle.lines(f"resources/{kind}.jsonl", map(tidy, kube.items(f"{kind}.daemoneye.io")))
    with bundle.part("resources/findings.jsonl"):
        found = sorted(kube.items(survey.FINDINGS), key=_last_seen)
        bundle.lines("resources/findings.jsonl", map(_outline, found))
        newest = map(tidy, found[-last:] if last else [])
        bundle.lines("resources/newest-findings.jsonl", newest if arguments else map(without_arguments, newest))


def gather_release(kube: Kubectl, release: Release, bundle: Bundle) -> list[Object]:
    """Put the installation's own objects, its namespace's Events and what status says into ``bundle``; gives its pods."""
    pods: list[Object] = []
    with bundle.part("cluster/namespace.json"):
        bundle.document("cluster/namespace.json", tidy(kube.get("namespace", release.namespace)))
    for kind in KINDS:
        entry = f"objects/{kind.partition('.')[0]}.jsonl"
        with bundle.part(entry):
            found = kube.items(kind, release.namespace, release.selector)
            bundle.lines(entry, map(tidy, found))
            if kind == "pods":
                pods = found
    with bundle.part("objects/events.jsonl"):
        events = kube.items("events", release.namespace)
        bundle.lines("objects/events.jsonl", map(tidy, sorted(events, key=_when, reverse=True)))
    with bundle.part("status.txt"):
        lines = status_lines(survey.look(kube, release))
        bundle.text("status.txt", "\n".join(lines) + "\n")
    return pods


def gather_doctor(kube: Kubectl, namespace: str | None, bundle: Bundle) -> None:
    """Put what doctor says into ``bundle``."""
    with bundle.part("doctor.txt"):
        bundle.text("doctor.txt", "".join(f"{plain_line(check)}\n" for check in clusterchecks.examine(kube, namespace)))


def gather_logs(kube: Kubectl, release: Release, pods: Sequence[Object], bundle: Bundle) -> None:
    """Put the newest lines of every container's log into ``bundle``, those of pods in trouble first: the room may not suffice for all."""
    wanted = list(logs(pods))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="logs") as threads:
        for start in range(0, len(wanted), _AT_ONCE):
            if bundle.full:
                bundle.lack("logs", f"{len(wanted) - start} of {len(wanted)} logs: the archive is full")
                return
            some = wanted[start : start + _AT_ONCE]
            reading = [threads.submit(_read, kube, release.namespace, log) for log in some]
            for log, future in zip(some, reading, strict=True):
                with bundle.part(log.entry):
                    bundle.text(log.entry, future.result(), limit=MAX_LOG, newest=True)


def logs(pods: Iterable[Object]) -> Iterator[Log]:
    """Give every log that there is, those of pods that are not ready or have restarted first, then those that are no sensor's."""
    for pod in sorted(pods, key=_urgency):
        status = pod.get("status") or {}
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            name = str(container.get("name", ""))
            state = container.get("state") or {}
            if "waiting" not in state or container.get("restartCount"):
                yield Log(_name(pod), name)
            if container.get("restartCount"):
                yield Log(_name(pod), name, previous=True)


def tidy(value: Object) -> Object:
    """Give an object without what a reader does not need: fields' managers, and the copy of it that kubectl keeps."""
    metadata = {key: content for key, content in (value.get("metadata") or {}).items() if key != "managedFields"}
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {key: content for key, content in annotations.items() if key not in _NOISE}
    return {**{key: content for key, content in value.items() if key != "binaryData"}, "metadata": metadata}


def _read(kube: Kubectl, namespace: str, log: Log) -> str:
    before = ("--previous",) if log.previous else ()
    bounds = (f"--tail={LOG_LINES}", f"--limit-bytes={_FETCHED}")
    return kube.text("logs", log.pod, "--namespace", namespace, "--container", log.container, *bounds, *before)


def _node(node: Object) -> Object:
    """What decides over a sensor there; addresses are nobody's business."""
    status, metadata = node.get("status") or {}, node.get("metadata") or {}
    return {
        "name": _name(node),
        "labels": metadata.get("labels"),
        "created": metadata.get("creationTimestamp"),
        "taints": (node.get("spec") or {}).get("taints"),
        "info": status.get("nodeInfo"),
        "allocatable": status.get("allocatable"),
        "conditions": status.get("conditions"),
    }


def _definition(definition: Object) -> Object:
    spec, status = definition.get("spec") or {}, definition.get("status") or {}
    versions = [{key: one.get(key) for key in ("name", "served", "storage")} for one in spec.get("versions") or ()]
    metadata = tidy(definition)["metadata"]
    return {
        "metadata": metadata,
        "versions": versions,
        "stored": status.get("storedVersions"),
        "conditions": status.get("conditions"),
    }


def _outline(finding: Object) -> Object:
    spec, status = finding.get("spec") or {}, finding.get("status") or {}
    about = {key: spec.get(key) for key in ("detector", "severity", "score", "policies")}
    subject = spec.get("subject") or {}
    return {
        "metadata": tidy(finding)["metadata"],
        **about,
        "node": subject.get("node"),
        "workload": subject.get("workload"),
        "status": status,
    }


def _last_seen(finding: Object) -> tuple[str, str]:
    status, metadata = finding.get("status") or {}, finding.get("metadata") or {}
    return str(status.get("lastSeen") or metadata.get("creationTimestamp") or ""), _name(finding)


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp") or "")


def _urgency(pod: Object) -> tuple[bool, bool, str]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    well = not survey.pod_trouble(pod) and not any(one.get("restartCount") for one in statuses)
    return well, survey.component_of(pod) == "sensor", _name(pod)


def _name(one: Mapping[str, Any]) -> str:
    return str((one.get("metadata") or {}).get("name", ""))
