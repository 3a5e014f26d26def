"""The checks of ``kubectl daemoneye doctor``: what the cluster has, what it lacks, and how to put that right.

Responsible for one function a check; each gives a :class:`Check` whatever the cluster is like. Not for printing them
(:mod:`daemoneye_cli.commands.doctor`). Nothing is changed in the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from daemoneye.errors import DaemonEyeError, MachineError
from daemoneye_cli import survey
from daemoneye_cli.check import MIN_KERNEL, Check
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.release import Release, find
from daemoneye_cli.show.text import workloads
from daemoneye_cli.survey import Component, Survey

MIN_KUBERNETES: Final = (1, 30)
CRDS: Final = ("daemoneyepolicies", "detectionexceptions", "federationpeers", "findings")
FULL_KERNEL: Final = (5, 15)

_PSA: Final = "pod-security.kubernetes.io/enforce"
_SHOWN: Final = 5
_HEARD: Final = frozenset({"AsAsked", "BadDetector"})
"""Reasons of AnalyticsAvailable that analytics itself caused; what is wrong with a policy the check of policies says."""
_FIRST_POLICY: Final = "kubectl apply a DaemonEyePolicy: kubectl daemoneye status shows the smallest one"


def examine(kube: Kubectl, namespace: str | None) -> Iterator[Check]:
    """Make every check, one after another; those that need what is missing are left out."""
    server = api_server(kube)
    yield server
    if not server.ok:
        return
    definitions = crds(kube)
    yield definitions
    yield from of_nodes(kube)
    try:
        release = find(kube, namespace)
    except DaemonEyeError as error:
        yield failed("installation", error)
        return
    yield Check("installation", ok=True, detail=f"release {release.name} in namespace {release.namespace}")
    yield pod_security(kube, release)
    if not definitions.ok:
        return
    try:
        seen = survey.look(kube, release)
        refused = refusals(kube, release)
    except DaemonEyeError as error:
        yield failed("parts", error)
        return
    for part in seen.components:
        yield component(part, refused, policies=bool(seen.policies))
    yield analytics(seen)
    yield policies(seen)


def failed(name: str, error: DaemonEyeError) -> Check:
    """Turn an error into the check that it kept from being made."""
    fix = error.fix if isinstance(error, MachineError) else ""
    return Check(name, ok=False, detail=str(error.args[0]), fix=fix)


def api_server(kube: Kubectl) -> Check:
    """Kubectl reaches an API server that is new enough."""
    try:
        found = kube.json("version", "-o", "json").get("serverVersion") or {}
    except DaemonEyeError as error:
        return failed("API server", error)
    version = _version(str(found.get("gitVersion", "")))
    wanted = ".".join(map(str, MIN_KUBERNETES))
    ok = version >= MIN_KUBERNETES
    detail = f"Kubernetes {found.get('gitVersion', 'of unknown version')}; {wanted} or later is needed"
    return Check("API server", ok, detail, "" if ok else f"upgrade the cluster to {wanted} or later")


def crds(kube: Kubectl) -> Check:
    """DaemonEye's kinds are known to the API server."""
    try:
        found = {_name(one): one for one in kube.items("customresourcedefinitions.apiextensions.k8s.io")}
    except DaemonEyeError as error:
        return failed("CRDs", error)
    missing = [name for name in CRDS if f"{name}.daemoneye.io" not in found]
    waiting = [name for name in CRDS if name not in missing and not _established(found[f"{name}.daemoneye.io"])]
    if missing:
        fix = "kubectl apply --server-side -f crds/, or install the chart with crds.enabled=true"
        return Check("CRDs", ok=False, detail=f"missing: {', '.join(missing)}", fix=fix)
    if waiting:
        fix = f"kubectl describe crd {waiting[0]}.daemoneye.io says why"
        return Check("CRDs", ok=False, detail=f"not established: {', '.join(waiting)}", fix=fix)
    return Check("CRDs", ok=True, detail=", ".join(CRDS))


def of_nodes(kube: Kubectl) -> Iterator[Check]:
    """The nodes' system, kernel and container runtime, as their kubelets tell."""
    try:
        nodes = kube.items("nodes")
    except DaemonEyeError as error:
        yield failed("nodes", error)
        return
    told = {_name(node): (node.get("status") or {}).get("nodeInfo") or {} for node in nodes}
    linux = {name: info for name, info in told.items() if info.get("operatingSystem") == "linux"}
    others = sorted(set(told) - set(linux))
    beside = f"; without a sensor, for they run no Linux: {_some(others)}" if others else ""
    yield Check(
        "nodes",
        bool(linux),
        f"{len(linux)} of {len(told)} {'runs' if len(linux) == 1 else 'run'} Linux{beside}",
        "" if linux else "add a Linux node: DaemonEye watches those",
    )
    yield kernels(linux)
    yield runtimes(linux)


def kernels(linux: dict[str, Any]) -> Check:
    """The nodes' kernels have BPF ring buffers."""
    versions = {name: _version(str(info.get("kernelVersion", ""))) for name, info in linux.items()}
    old = sorted(name for name, version in versions.items() if version < MIN_KERNEL)
    partly = sorted(name for name, version in versions.items() if MIN_KERNEL <= version < FULL_KERNEL)
    if old:
        named = [f"{name} ({linux[name].get('kernelVersion')})" for name in old]
        detail = f"older than 5.8: {_some(named)}"
        return Check("kernels", ok=False, detail=detail, fix="boot these nodes with a kernel of 5.8 or later")
    if partly:
        detail = f"older than 5.15, which some programs want: {_some(partly)}"
        fix = "boot these nodes with a kernel of 5.15 or later"
        return Check("kernels", ok=False, detail=detail, fix=fix, needed=False)
    shown = sorted({str(info.get("kernelVersion")) for info in linux.values()})
    return Check("kernels", ok=True, detail=f"Linux {_some(shown)}; whether they have BTF, the sensors say")


def runtimes(linux: dict[str, Any]) -> Check:
    """The nodes' container runtime is the one whose task directory the sensor knows."""
    found = {name: str(info.get("containerRuntimeVersion", "")) for name, info in linux.items()}
    strange = sorted(f"{name} ({version})" for name, version in found.items() if not version.startswith("containerd:"))
    if strange:
        fix = "set sensor.hostPaths.runtimeTasks to the runtime's task directory; without it findings lack container names"
        return Check("container runtime", ok=False, detail=f"not containerd: {_some(strange)}", fix=fix, needed=False)
    return Check("container runtime", ok=True, detail=_some(sorted(set(found.values()))))


def pod_security(kube: Kubectl, release: Release) -> Check:
    """The release's namespace lets the sensors in, which see the node."""
    name = release.namespace
    try:
        labels = kube.get("namespace", name).get("metadata", {}).get("labels") or {}
    except DaemonEyeError as error:
        return failed("pod security", error)
    level = labels.get(_PSA)
    if level == "privileged":
        return Check("pod security", ok=True, detail=f"namespace {name} enforces privileged")
    fix = f"kubectl label namespace {name} {_PSA}=privileged --overwrite"
    if level is None:
        detail = f"namespace {name} has no label {_PSA}: the cluster's default decides"
        return Check("pod security", ok=False, detail=detail, fix=fix, needed=False)
    return Check("pod security", ok=False, detail=f"namespace {name} enforces {level}: it refuses sensors", fix=fix)


def refusals(kube: Kubectl, release: Release) -> dict[str, str]:
    """What Kubernetes says where it cannot make pods (pod security, quotas), by the object that wants them."""
    events = kube.items("events", release.namespace, field="reason=FailedCreate")
    events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return {
        str(event.get("involvedObject", {}).get("name")): str(event.get("message", "")).strip()
        for event in events
        if str(event.get("involvedObject", {}).get("name", "")).startswith(release.fullname)
    }


def component(part: Component, refused: dict[str, str], *, policies: bool) -> Check:
    """All pods of one part are ready."""
    name = part.name if part.name != "sensors" else "sensor"
    detail = f"{part.ready} of {part.desired} ready"
    if part.ok:
        if part.name == "sensors" and not part.desired:
            return Check(part.name, ok=not policies, detail=part.trouble or "none is wanted", fix=_logs("operator"))
        return Check(part.name, ok=True, detail=detail)
    why = part.trouble
    told = [text for owner, text in refused.items() if f"-{name}" in owner] if "pod " not in why else []
    if told:
        why = told[-1]
    return Check(part.name, ok=False, detail=f"{detail}: {why}" if part.exists else why, fix=_fix(name, why))


def analytics(seen: Survey) -> Check:
    """The operator hears analytics, as the policies' conditions say."""
    told = [
        condition
        for policy in seen.policies
        for condition in policy.conditions
        if condition.get("type") == "AnalyticsAvailable"
    ]
    if not told:
        return Check("analytics heard", ok=False, detail="no policy says so yet", fix=_FIRST_POLICY, needed=False)
    bad = next((condition for condition in told if condition.get("reason") not in _HEARD), None)
    if bad is None:
        known = f"; {workloads(seen.phases)}" if any(seen.phases.values()) else ""
        return Check("analytics heard", ok=True, detail=f"the operator hears its heartbeats{known}")
    detail = f"{bad.get('reason')}: {bad.get('message') or 'not known yet'}"
    return Check("analytics heard", ok=False, detail=detail, fix=_logs("analytics"))


def policies(seen: Survey) -> Check:
    """Every policy is Ready."""
    if not seen.policies:
        return Check("policies", ok=False, detail="none: nothing is watched", fix=_FIRST_POLICY, needed=False)
    bad = [policy for policy in seen.policies if policy.status != "True"]
    if not bad:
        return Check("policies", ok=True, detail=f"{len(seen.policies)} of {len(seen.policies)} Ready")
    first = bad[0]
    detail = f"{len(bad)} of {len(seen.policies)} not Ready; first {first.name}: {first.reason}: {first.message}"
    return Check("policies", ok=False, detail=detail, fix=f"kubectl daemoneye policy explain {first.name}")


def _fix(component: str, why: str) -> str:
    if "PodSecurity" in why:
        return f"label the namespace {_PSA}=privileged: see pod security"
    if re.search(r"ImagePull|ErrImage|InvalidImageName", why):
        return "set image.registry, image.tag and imagePullSecrets of the chart to where the images are"
    if why == "is not there":
        return "helm upgrade the release: the chart makes it"
    return _logs(component)


def _logs(component: str) -> str:
    return f"kubectl describe pods and kubectl logs with -l app.kubernetes.io/component={component} say why"


def _established(definition: Object) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Established" and one.get("status") == "True" for one in conditions)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _name(one: Object) -> str:
    return str(one.get("metadata", {}).get("name", ""))
