"""How an installation in a cluster fares, from the objects that Kubernetes has.

Responsible for turning Deployments, pods, policies and nodes into a few plain values; not for fetching more than once,
nor for form (:mod:`daemoneye_cli.show.cluster`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daemoneye.selectors import Selector
from daemoneye.subjects import SEVERITIES
from daemoneye_cli.errors import Forbidden
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.release import COMPONENT, Release

POLICIES: Final = "daemoneyepolicies.daemoneye.io"
FINDINGS: Final = "findings.daemoneye.io"
COMPONENTS: Final = ("operator", "identity", "analytics", "nats", "callout")
_OF_OUR_BROKER: Final = ("nats", "callout")

PHASES: Final = ("learning", "calibrating", "active", "drifted")

_KINDS: Final = "deployments.apps,statefulsets.apps,daemonsets.apps,pods"
_COUNTS: Final = '{range .items[*]}{.spec.severity}{" "}{.status.count}{"\\n"}{end}'


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the installation. ``trouble`` says why pods are not ready; ``exists`` is false where nothing was found."""

    name: str
    desired: int = 0
    ready: int = 0
    image: str = ""
    trouble: str = ""
    exists: bool = True

    @property
    def ok(self) -> bool:
        """Whether all of its pods are ready; sensors may be none at all."""
        return self.exists and self.ready >= self.desired and (self.desired > 0 or self.name == "sensors")


@dataclass(frozen=True, slots=True)
class PolicyState:
    """One policy, as its status says. ``status`` of Ready is True, False or Unknown."""

    name: str
    status: str
    reason: str
    message: str
    sensors: Mapping[str, Any] = field(default_factory=dict)
    findings: int = 0
    last_finding: str = ""
    inactive: tuple[tuple[str, str], ...] = ()
    conditions: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node: ``sensor`` is ready, starting, failing, missing or none (no sensor is to run there)."""

    name: str
    sensor: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """All of it. ``phases`` counts the behavioural analyser's workloads, ``notes`` say what the user may not see."""

    release: Release
    components: tuple[Component, ...] = ()
    policies: tuple[PolicyState, ...] = ()
    nodes: tuple[NodeState, ...] = ()
    findings: Mapping[str, int] = field(default_factory=dict)
    occurrences: int = 0
    notes: tuple[str, ...] = ()
    phases: Mapping[str, int] = field(default_factory=dict)

    @property
    def troubles(self) -> list[str]:
        """What is not as it should be, a few words each; empty when everything is ready."""
        found = [f"{part.name} {part.ready}/{part.desired}" for part in self.components if not part.ok]
        found += [f"policy {policy.name}: {policy.reason}" for policy in self.policies if policy.status != "True"]
        return found or ([] if self.policies else ["no policy, so nothing is watched"])


def look(kube: Kubectl, release: Release) -> Survey:
    """Ask the cluster."""
    notes: list[str] = []
    objects = kube.items(_KINDS, release.namespace, release.selector)
    policies = kube.items(POLICIES)
    findings: list[str] = []
    nodes: list[Object] = []
    try:
        nodes = kube.items("nodes")
    except Forbidden as error:
        notes.append(f"nodes are not shown: {error.args[0]}")
    try:
        findings = kube.text("get", FINDINGS, "--all-namespaces", "-o", f"jsonpath={_COUNTS}").splitlines()
    except Forbidden as error:
        notes.append(f"findings are not counted: {error.args[0]}")
    by_severity, occurrences = _count(findings)
    return Survey(
        release,
        components(objects, external_nats=not _of(objects, "nats")),
        tuple(policy_state(policy) for policy in sorted(policies, key=_name)),
        tuple(node_states(nodes, objects)),
        by_severity,
        occurrences,
        tuple(notes),
        phases(policies),
    )


def components(objects: Sequence[Object], *, external_nats: bool = False) -> tuple[Component, ...]:
    """Give every part, the sensors last. A broker of the user's own has no pods here."""
    parts = []
    for name in COMPONENTS:
        owners = [one for one in _of(objects, name) if one.get("kind") in {"Deployment", "StatefulSet"}]
        if owners:
            parts.append(_component(name, owners[0], _pods(objects, name)))
        elif name not in _OF_OUR_BROKER or not external_nats:
            parts.append(Component(name, desired=1, exists=False, trouble="is not there"))
    daemonsets = [one for one in _of(objects, "sensor") if one.get("kind") == "DaemonSet"]
    if daemonsets:
        parts.append(_component("sensors", daemonsets[0], _pods(objects, "sensor")))
    else:
        parts.append(Component("sensors", trouble="no DaemonSet: it is made with the first policy"))
    return tuple(parts)


def policy_state(policy: Object) -> PolicyState:
    """What a policy's status says; one that is about an earlier generation says nothing yet."""
    status = policy.get("status") or {}
    generation = policy.get("metadata", {}).get("generation", 0)
    conditions = tuple(one for one in status.get("conditions") or () if isinstance(one, Mapping))
    ready = next((one for one in conditions if one.get("type") == "Ready"), {})
    told = (
        str(ready.get("status", "Unknown")),
        str(ready.get("reason", "Pending")),
        str(ready.get("message", "")),
    )
    if status.get("observedGeneration", 0) < generation:
        told = "Unknown", "Pending", f"The operator has not looked at generation {generation} yet."
    found = status.get("findings") or {}
    return PolicyState(
        _name(policy),
        *told,
        status.get("sensors") or {},
        int(found.get("total") or 0),
        str(found.get("last") or ""),
        tuple((str(gap.get("path")), str(gap.get("reason"))) for gap in status.get("inactiveSettings") or ()),
        conditions,
    )


def phases(policies: Iterable[Object]) -> dict[str, int]:
    """Workloads of the behavioural analyser by phase; every policy's status counts all of them, the largest is the newest that knows."""
    told = [(policy.get("status") or {}).get("analytics") or {} for policy in policies]
    counts = [{phase: int(one.get(phase) or 0) for phase in PHASES} for one in told]
    return max(counts, key=lambda one: sum(one.values()), default=dict.fromkeys(PHASES, 0))


def node_states(nodes: Iterable[Object], objects: Sequence[Object]) -> list[NodeState]:
    """Say of every node what its sensor does."""
    daemonset = next((one for one in _of(objects, "sensor") if one.get("kind") == "DaemonSet"), None)
    if daemonset is None:
        return []
    template = daemonset.get("spec", {}).get("template", {}).get("spec", {})
    pods = {pod.get("spec", {}).get("nodeName", ""): pod for pod in _pods(objects, "sensor")}
    return [_node(node, template, pods.get(_name(node))) for node in sorted(nodes, key=_name)]


def pod_trouble(pod: Object) -> str:
    """Say why a pod is not ready; empty where it is."""
    status = pod.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = container.get("state") or {}
        waiting, last = state.get("waiting"), (container.get("lastState") or {}).get("terminated")
        if waiting and waiting.get("reason") not in {"ContainerCreating", "PodInitializing"}:
            why = f"; it ended before: {_ending(last)}" if last else ""
            return f"{_told(waiting)}{why}"
        if state.get("terminated"):
            return f"it ended: {_ending(state['terminated'])}"
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return _told(scheduled)
    return "it is being started" if status.get("phase") != "Running" else "it runs and is not ready yet"


def component_of(one: Object) -> str:
    """Give the name of the part that an object belongs to; empty where it does not say."""
    return str((one.get("metadata", {}).get("labels") or {}).get(COMPONENT, ""))


def _component(name: str, owner: Object, pods: Sequence[Object]) -> Component:
    spec, status = owner.get("spec") or {}, owner.get("status") or {}
    if owner.get("kind") == "DaemonSet":
        desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    else:
        desired, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    containers = spec.get("template", {}).get("spec", {}).get("containers") or [{}]
    trouble = "" if ready >= desired else _why(owner, pods)
    if not desired and name != "sensors":
        trouble = "it is scaled to nothing: kubectl scale it to 1"
    return Component(name, desired, ready, str(containers[0].get("image", "")), trouble)


def _why(owner: Object, pods: Sequence[Object]) -> str:
    for pod in sorted(pods, key=_name):
        if trouble := pod_trouble(pod):
            return f"pod {_name(pod)}: {trouble}"
    failed = [one for one in (owner.get("status") or {}).get("conditions") or () if one.get("type") == "ReplicaFailure"]
    return _told(failed[0]) if failed else "its pods are not there yet"


def _node(node: Object, template: Mapping[str, Any], pod: Object | None) -> NodeState:
    name = _name(node)
    if pod is not None:
        trouble = pod_trouble(pod)
        if not trouble:
            return NodeState(name, "ready")
        return NodeState(name, "starting" if trouble.startswith("it is being") else "failing", trouble)
    labels = node.get("metadata", {}).get("labels") or {}
    wanted = template.get("nodeSelector") or {}
    if not Selector.parse({"matchLabels": wanted}).matches(labels):
        selector = ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
        return NodeState(name, "none", f"it has not the labels {selector} (sensor.nodeSelector)")
    taint = next((one for one in node.get("spec", {}).get("taints") or () if _keeps_out(one, template)), None)
    if taint is not None:
        shown = f"{taint.get('key')}{'=' if taint.get('value') else ''}{taint.get('value') or ''}:{taint.get('effect')}"
        return NodeState(name, "none", f"taint {shown} is not tolerated (sensor.tolerations)")
    return NodeState(name, "missing", "it has no sensor pod")


def _keeps_out(taint: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    # A DaemonSet's pods tolerate what Kubernetes itself says of a node that is unwell.
    if taint.get("effect") == "PreferNoSchedule" or str(taint.get("key")).startswith("node.kubernetes.io/"):
        return False
    return not any(_tolerates(one, taint) for one in template.get("tolerations") or ())


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in {None, "", taint.get("key")}
    return toleration.get("key") == taint.get("key") and toleration.get("value", "") == taint.get("value", "")


def _of(objects: Iterable[Object], component: str) -> list[Object]:
    return [one for one in objects if component_of(one) == component]


def _pods(objects: Iterable[Object], component: str) -> list[Object]:
    return [one for one in _of(objects, component) if one.get("kind") == "Pod"]


def _count(lines: Iterable[str]) -> tuple[dict[str, int], int]:
    words = [line.split() for line in lines if line.strip()]
    counted = Counter(line[0] for line in words)
    occurrences = sum(int(line[1]) if len(line) > 1 and line[1].isdigit() else 1 for line in words)
    return {name: counted[name] for name in reversed(SEVERITIES) if counted[name]}, occurrences


def _told(what: Mapping[str, Any]) -> str:
    return ": ".join(str(part) for part in (what.get("reason"), what.get("message")) if part)


def _ending(terminated: Mapping[str, Any]) -> str:
    message = str(terminated.get("message") or "").strip()
    return f"{terminated.get('reason', 'Error')}, status {terminated.get('exitCode')}{': ' if message else ''}{message}"


def _name(one: Object) -> str:
    return str(one.get("metadata", {}).get("name", ""))
