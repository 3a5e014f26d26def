"""A policy's status: what its nodes say, in five conditions and a few counts.

Responsible for what is true of a policy and in which words; not for the words' list (``daemoneye.conditions``) nor for writing.

Messages hold absolute times only: a message that changes with every look would be written with every look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daemoneye import conditions
from daemoneye.api.inactive import inactive
from daemoneye.api.v1alpha1.common import API_VERSION, ObjectMeta
from daemoneye.api.v1alpha1.policy import KIND, DaemonEyePolicy
from daemoneye.conditions import (
    ANALYTICS_AVAILABLE,
    CAPTURE_HEALTHY,
    PROGRAMS_LOADED,
    READY,
    SENSORS_AVAILABLE,
    condition,
)
from daemoneye.escape import escape
from daemoneye_operator.reconcile import clock
from daemoneye_operator.reconcile.answers import Answers, Trouble, sort
from daemoneye_operator.reconcile.judges import PHASES
from daemoneye_operator.reconcile.nodes import NodeReport
from daemoneye_operator.reconcile.policies import Policy
from daemoneye_operator.reconcile.selection import Plan
from daemoneye_operator.reconcile.tally import Tally

SILENT_AFTER: Final = 3
"""Heartbeats that may be missed."""
ANALYTICS_PATIENCE: Final = 30.0
"""Seconds of silence of analytics, which beats every ten."""
COUNTS_EVERY: Final = 60.0
"""Seconds between two writes of a policy's status that change only counts."""

_TYPES: Final = (READY, SENSORS_AVAILABLE, PROGRAMS_LOADED, CAPTURE_HEALTHY, ANALYTICS_AVAILABLE)
_PULL: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
        "ImageInspectError",
    }
)
_OF_CAPTURE: Final = frozenset({"BadFilter"})
_OF_PROGRAMS: Final = frozenset({"MissingBTF", "MissingKernelFeature", "BadProgram"})
_MAX_INACTIVE: Final = 16
_NO_EVIDENCE: Final = "the installation keeps no evidence: set evidence.enabled of the chart"


@dataclass(frozen=True, slots=True)
class DaemonSetState:
    """What is known of the sensors' DaemonSet.

    Attributes:
        exists: Whether it is there.
        desired: Pods that it wants.
        ready: Pods that are ready.
        image: The sensor's image.
        waiting_node: Node of the first pod, by node, whose container waits; empty when none does.
        waiting_reason: Why it waits, in the kubelet's word (`ImagePullBackOff`).
        waiting_message: The same in its sentence.
    """

    exists: bool = True
    desired: int = 0
    ready: int = 0
    image: str = ""
    waiting_node: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """What surrounds all policies alike.

    Attributes:
        daemonset: The sensors' DaemonSet.
        analytics_heard: When analytics was last heard of, seconds since 1970, None when never: of several parts `analytics_named`, which is silent longest.
        broker: Whether the operator is connected to the broker.
        listening_since: Since when it hears heartbeats: who just began to listen takes nobody for silent.
        interval: Seconds between heartbeats.
        analytics_problems: Policy's name → what analytics left out of it, as it says in its heartbeat.
        phases: Workloads that the behavioural analyser knows by phase, of all policies.
        uninstalling: Whether the release is about to go.
        evidence: Whether the installation keeps packets because of findings.
    """

    daemonset: DaemonSetState = field(default_factory=DaemonSetState)
    analytics_heard: float | None = None
    analytics_named: str = "Analytics"
    broker: bool = True
    listening_since: float = 0.0
    interval: float = 10.0
    analytics_problems: Mapping[str, str] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)
    uninstalling: bool = False
    evidence: bool = False

    @property
    def patience(self) -> float:
        """Seconds without a heartbeat from which on somebody is silent."""
        return SILENT_AFTER * self.interval


def policy_status(
    policy: Policy,
    plan: Plan,
    reports: Mapping[str, NodeReport],
    world: World,
    tally: Tally,
    previous: Mapping[str, Any] | None,
    now: float,
) -> dict[str, Any]:
    """The whole status of a policy.

    Args:
        policy: The policy.
        plan: What every node is to run.
        reports: Each node's newest heartbeat.
        world: What surrounds all policies.
        tally: Its findings.
        previous: The status as the API server has it; None or empty when there is none.
        now: Seconds since 1970.
    """
    before = previous or {}
    nodes = sort(policy, plan, reports, now - world.patience)
    settled = now - world.listening_since > world.patience
    if (
        nodes.unheard
        and not settled
        and before.get("observedGeneration") == policy.generation
        and before.get("sensors")
    ):
        # The operator began anew a moment ago and has not heard everybody: what it said before is the best that it knows.
        return {**before, "findings": tally.to_json()}
    gaps = _inactive(policy, evidence=world.evidence)
    sensors = _sensors(policy, nodes, world)
    new = [
        sensors,
        _programs(policy, nodes),
        _capture(policy, nodes, gaps),
        _analytics(policy, world, now, settled=settled),
    ]
    new.insert(0, _ready(nodes, new, gaps))
    return {
        "observedGeneration": policy.generation,
        "conditions": _put(before, new, policy.generation, now),
        "sensors": _counts(nodes),
        "findings": tally.to_json(),
        "analytics": _workloads(world.phases),
        "inactiveSettings": gaps,
    }


def invalid_status(obj: Mapping[str, Any], message: str, now: float) -> dict[str, Any]:
    """The status of a DaemonEyePolicy object that the API server took but that does not hold together; `message` says where."""
    before, generation = obj.get("status") or {}, obj["metadata"].get("generation", 0)
    new = [condition(READY, False, "InvalidSpec", f"{message}. No node runs it until it is corrected")]
    new += [
        condition(kind, None, "InvalidSpec", "The policy is not in effect, for its spec is invalid.")
        for kind in _TYPES[1:]
    ]
    return {
        "observedGeneration": generation,
        "conditions": _put(before, new, generation, now),
        "sensors": _counts(Answers(())),
        "findings": before.get("findings") or Tally().to_json(),
        "analytics": _workloads({}),
        "inactiveSettings": [],
    }


def changed(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether a status says anything new; times of transition are not news, for they follow from the rest."""
    return _plain(old or {}) != _plain(new)


def important(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether the change is one of what people wait for: a condition's status or reason, or the generation. Counts and messages are not."""
    return _essence(old or {}) != _essence(new)


def due(last_write: float | None, now: float, *, important: bool) -> bool:
    """Whether a changed status is to be written now.

    Args:
        last_write: When only counts were last written for this policy; None when never. Writes of important changes do not count, or a
            policy's first finding would wait a minute after it became ready.
        now: Seconds since 1970.
        important: See `important`.
    """
    return important or last_write is None or now - last_write >= COUNTS_EVERY


def _sensors(policy: Policy, nodes: Answers, world: World) -> dict[str, Any]:
    """SensorsAvailable: everybody is heard of and answers for this generation."""
    total, state = len(nodes.selected), world.daemonset
    absent = sorted([*nodes.unheard, *(node for node, _ in nodes.silent)])
    if world.uninstalling:
        return condition(SENSORS_AVAILABLE, False, "Uninstalling")
    if not total:
        return condition(SENSORS_AVAILABLE, False, "NoNodesSelected", _nothing_selected(policy))
    if not world.broker:
        message = "The operator has no connection to the broker, so it hears no sensor; they go on and keep what they see. Look at the pods of NATS."
        return condition(SENSORS_AVAILABLE, None, "BrokerUnavailable", message)
    if absent and state.waiting_reason in _PULL:
        message = (
            f"{_some(len(absent), total, 'has', 'have')} no sensor, for node {state.waiting_node} cannot pull the image {state.image}: "
            f"{escape(state.waiting_message) or state.waiting_reason}. Check image.registry, image.tag and imagePullSecrets of the chart"
        )
        return condition(SENSORS_AVAILABLE, False, "ImagePullFailed", message)
    if absent and (state.waiting_reason or not state.exists):
        why = (
            f"{_where(state)}{state.waiting_reason}: {escape(state.waiting_message)}"
            if state.exists
            else "the DaemonSet is not there"
        )
        message = f"{_some(len(absent), total, 'has', 'have')} no sensor that runs; {why}. Look with kubectl describe at the pods of component sensor"
        return condition(SENSORS_AVAILABLE, False, "SensorsMissing", message)
    if nodes.silent:
        node, heard = nodes.silent[0]
        message = f"{_some(len(nodes.silent), total, 'is', 'are')} silent; first {node}, last heard of at {clock.rfc3339(heard)}. Look at its sensor pod's log"
        return condition(SENSORS_AVAILABLE, False, "SensorsSilent", message)
    waiting = sorted([*nodes.pending, *nodes.unheard])
    if waiting:
        message = f"{_some(len(waiting), total, 'has', 'have')} not answered for generation {policy.generation} yet; first {waiting[0]}"
        return condition(SENSORS_AVAILABLE, False, "SensorsProgressing", message)
    return condition(
        SENSORS_AVAILABLE, True, "AsAsked", f"All {total} selected nodes answer for generation {policy.generation}."
    )


def _where(state: DaemonSetState) -> str:
    return f"on node {state.waiting_node} it waits: " if state.waiting_node else ""


def _programs(policy: Policy, nodes: Answers) -> dict[str, Any]:
    if not policy.spec.kernel_monitoring.enable_ebpf:
        return condition(PROGRAMS_LOADED, True, "ProgramsOff")
    failing = sorted([*nodes.no_programs, *(trouble for trouble in nodes.refused if trouble.reason in _OF_PROGRAMS)])
    found = _worked(
        PROGRAMS_LOADED, nodes, failing, ("lacks programs that run", "lack programs that run"), "Programs run"
    )
    if nodes.partly and not failing:
        first = min(nodes.partly)
        found["message"] += (
            f" {_some(len(nodes.partly), len(nodes.selected), 'sees', 'see')} less; first {first.node}: {first.message}."
        )
    return found


def _capture(policy: Policy, nodes: Answers, gaps: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    if not policy.spec.network_monitoring.enable_packet_capture:
        return condition(CAPTURE_HEALTHY, True, "CaptureOff")
    gap = next((gap for gap in gaps if gap["path"].endswith(".enablePacketCapture")), None)
    if gap is not None:
        return condition(CAPTURE_HEALTHY, False, "Inactive", f"{gap['path']} has no effect: {gap['reason']}.")
    failing = sorted([*nodes.no_capture, *(trouble for trouble in nodes.refused if trouble.reason in _OF_CAPTURE)])
    return _worked(
        CAPTURE_HEALTHY,
        nodes,
        failing,
        ("does not capture as asked", "do not capture as asked"),
        "Packets are captured",
    )


def _worked(
    kind: str, nodes: Answers, failing: Sequence[Trouble], fails: tuple[str, str], works: str
) -> dict[str, Any]:
    total = len(nodes.selected)
    if not total:
        return condition(kind, None, "NoNodesSelected", "No node is selected.")
    if failing:
        reason, message = _first(failing)
        return condition(kind, False, reason, f"{_some(len(failing), total, *fails)}; first {message}")
    if len(nodes.running) == total:
        return condition(kind, True, "AsAsked", f"{works} on all {total} selected nodes.")
    running = f"{works} on {len(nodes.running)} of {_count(total, 'selected node')}; the others do not run the policy."
    refused_only = len(nodes.running) + len(nodes.refused) == total
    return condition(kind, None, _first(nodes.refused)[0] if refused_only else "SensorsProgressing", running)


def _analytics(policy: Policy, world: World, now: float, *, settled: bool) -> dict[str, Any]:
    if not world.broker:
        return condition(ANALYTICS_AVAILABLE, None, "BrokerUnavailable")
    heard = world.analytics_heard
    if heard is not None and now - heard <= max(world.patience, ANALYTICS_PATIENCE):
        if problem := world.analytics_problems.get(policy.name):
            return condition(ANALYTICS_AVAILABLE, False, "BadDetector", escape(problem))
        return condition(ANALYTICS_AVAILABLE, True, "AsAsked", "Analytics is heard of.")
    if heard is None and not settled:
        message = f"{world.analytics_named} has not been heard of yet."
        return condition(ANALYTICS_AVAILABLE, None, conditions.PENDING, message)
    when = "not been heard of" if heard is None else f"last been heard of at {clock.rfc3339(heard)}"
    message = f"{world.analytics_named} has {when}: no findings are made, events wait in the stream. Look at the pods of component analytics and their logs"
    return condition(ANALYTICS_AVAILABLE, False, "AnalyticsSilent", message)


def _workloads(phases: Mapping[str, int]) -> dict[str, int]:
    """All fields, as in `_counts`."""
    counts = {phase: phases.get(phase, 0) for phase in PHASES}
    return {"workloads": sum(counts.values()), **{phase.lower(): count for phase, count in counts.items()}}


def _ready(nodes: Answers, others: Sequence[Mapping[str, Any]], gaps: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The sum: what is refused first, for it does not pass by itself, then the first condition that does not hold."""
    total = len(nodes.selected)
    if nodes.refused:
        reason, message = _first(nodes.refused)
        who = f"{_some(len(nodes.refused), total, 'refuses', 'refuse')} it"
        return condition(READY, False, reason, f"{who}; first {message}")
    # A setting that cannot be served anywhere yet is reported, and is no failure of the policy.
    failing = [other for other in others if other["status"] != "True" and other["reason"] != "Inactive"]
    for status in ("False", "Unknown"):
        for other in failing:
            if other["status"] == status:
                return {**other, "type": READY}
    note = f" {_count(len(gaps), 'setting')} without effect: see status.inactiveSettings." if gaps else ""
    return condition(READY, True, "AsAsked", f"All {total} selected nodes run it.{note}")


def _counts(nodes: Answers) -> dict[str, Any]:
    """All fields, empty ones too: the API server would fill in their defaults, and the status never equal what it gives back."""
    desired, ready = len(nodes.selected), len(nodes.running)
    first = min(nodes.refused, default=Trouble("", "", ""))
    return {
        "desired": desired,
        "ready": ready,
        "display": f"{ready}/{desired}",
        "refused": len(nodes.refused),
        "firstRefusedNode": first.node,
        "refusedReason": first.reason,
        "refusedMessage": first.message[:1024],
    }


def _inactive(policy: Policy, *, evidence: bool) -> list[dict[str, str]]:
    # Nodes with sensors are Linux, whatever the operator runs on.
    whole = DaemonEyePolicy(api_version=API_VERSION, kind=KIND, metadata=ObjectMeta(name=policy.name), spec=policy.spec)
    gaps = inactive(whole, "linux", no_evidence="" if evidence else _NO_EVIDENCE)
    return [{"path": gap.setting[:256], "reason": gap.reason[:512]} for gap in gaps[:_MAX_INACTIVE]]


def _nothing_selected(policy: Policy) -> str:
    selector = ",".join(f"{key}={value}" for key, value in sorted(policy.spec.selector.node_selector.items()))
    if not selector:
        return "No node of the cluster can run a sensor: compare kubectl get nodes --show-labels and their taints with sensor.nodeSelector and tolerations"
    return (
        f"spec.selector.nodeSelector selects no node that runs a sensor: compare it with kubectl get nodes -l {selector}, "
        "and the taints of those nodes with spec.selector.tolerations"
    )


def _first(places: Sequence[Trouble]) -> tuple[str, str]:
    """The reason that all share, else NodesRefuse; and the first node with what it says."""
    first = min(places)
    shared = first.reason if len(Counter(trouble.reason for trouble in places)) == 1 else "NodesRefuse"
    return shared, f"{first.node}: {first.reason}: {first.message}"


def _some(count: int, total: int, one: str, many: str) -> str:
    """`1 of 8 nodes has`, `2 of 8 nodes have`."""
    return f"{count} of {_count(total)} {one if count == 1 else many}"


def _count(count: int, noun: str = "node") -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _put(
    before: Mapping[str, Any], new: Sequence[Mapping[str, Any]], generation: int, now: float
) -> list[dict[str, Any]]:
    return conditions.put(before.get("conditions") or (), new, generation=generation, now=clock.rfc3339(now))


def _plain(status: Mapping[str, Any]) -> dict[str, Any]:
    told = [
        {key: value for key, value in each.items() if key != "lastTransitionTime"}
        for each in status.get("conditions") or ()
    ]
    # The API server leaves out empty lists of some kinds; they say the same as none.
    return {key: value for key, value in {**status, "conditions": told}.items() if value not in ([], {}, None)}


def _essence(status: Mapping[str, Any]) -> Any:
    return status.get("observedGeneration"), [
        (each["type"], each["status"], each["reason"]) for each in status.get("conditions") or ()
    ]
