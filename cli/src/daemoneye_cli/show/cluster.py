"""A cluster's installation as text for people, in 80 columns, and as JSON objects.

Responsible for form and for escaping: names and messages in a cluster are written by whoever may write there.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from daemoneye.escape import escape
from daemoneye_cli.show.text import workloads
from daemoneye_cli.survey import NodeState, PolicyState, Survey

WIDTH: Final = 80
_SHOWN_NODES: Final = 20


def wrap(text: object, indent: int = 2, hanging: int = 0, first: str = "") -> str:
    """Give text escaped and folded, each line indented; ``first`` stands before the first one, in the indentation."""
    blanks = " " * indent
    return textwrap.fill(
        escape(str(text)),
        WIDTH,
        initial_indent=first.ljust(indent) if first else blanks,
        subsequent_indent=blanks + " " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Give rows as columns, each as wide as it must be."""
    shown = [tuple(escape(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in shown)


def status_lines(survey: Survey) -> Iterator[str]:
    """Give the screen of ``status``."""
    release, troubles = survey.release, survey.troubles
    version = f" {release.version}" if release.version else ""
    verdict = "all is ready" if not troubles else "not ready"
    yield wrap(f"DaemonEye{version}, release {release.name} in namespace {release.namespace}: {verdict}", 0, 2)
    yield ""
    yield table((("PART", "READY", "IMAGE"), *((p.name, f"{p.ready}/{p.desired}", p.image) for p in survey.components)))
    for part in survey.components:
        if part.trouble:
            yield wrap(f"{part.name}: {part.trouble}", 2, 2)
    yield ""
    yield from _policies(survey)
    yield ""
    yield from _nodes(survey)
    kinds = ", ".join(f"{count} {name}" for name, count in survey.findings.items())
    objects = sum(survey.findings.values())
    seen = "once" if survey.occurrences == 1 else f"{survey.occurrences} times"
    yield wrap(f"Findings: {objects}{f' ({kinds}), seen {seen}' if objects else ''}", 0, 2)
    if any(survey.phases.values()):
        yield wrap(f"Analyser: {workloads(survey.phases)}", 0, 2)
    for note in survey.notes:
        yield wrap(f"Note: {note}", 0, 2)
    if troubles:
        yield wrap(f"Not ready: {'; '.join(troubles)}", 0, 2)


def status_objects(survey: Survey) -> Iterator[dict[str, Any]]:
    """Give the same as objects for programs."""
    yield {
        "kind": "status",
        **dataclasses.asdict(survey.release),
        "ready": not survey.troubles,
        "troubles": survey.troubles,
        "workloads": dict(survey.phases),
        "findings": {"objects": sum(survey.findings.values()), "occurrences": survey.occurrences, **survey.findings},
        "notes": list(survey.notes),
    }
    for part in survey.components:
        yield {"kind": "component", **dataclasses.asdict(part)}
    for policy in survey.policies:
        yield policy_object(policy)
    for node in survey.nodes:
        yield {"kind": "node", **dataclasses.asdict(node)}


def policy_object(policy: PolicyState) -> dict[str, Any]:
    """Give a policy's state as an object."""
    content = dataclasses.asdict(policy)
    inactive = [{"path": path, "reason": reason} for path, reason in content.pop("inactive")]
    return {"kind": "policy", **content, "inactive": inactive}


def policy_notes(policy: PolicyState) -> Iterator[str]:
    """Say what a policy's status says beside its columns."""
    if policy.message and policy.status != "True":
        yield wrap(policy.message, 2, 2)
    yield from refusal(policy.sensors, repeated=policy.message)
    for path, reason in policy.inactive:
        yield wrap(f"{path} is inactive: {reason}", 2, 2)


def refusal(sensors: Mapping[str, Any], repeated: str = "") -> Iterator[str]:
    """Say who refuses a policy, unless a message says it already."""
    count, node = int(sensors.get("refused") or 0), str(sensors.get("firstRefusedNode") or "")
    why = ": ".join(str(sensors[key]) for key in ("refusedReason", "refusedMessage") if sensors.get(key))
    if count and not (node and node in repeated):
        yield wrap(f"{count} {'node refuses' if count == 1 else 'nodes refuse'} it; first {node}: {why}", 2, 2)


def _policies(survey: Survey) -> Iterator[str]:
    if not survey.policies:
        yield "No policy: nothing is watched. A first one:"
        yield "  kubectl apply -f - <<< '{apiVersion: daemoneye.io/v1alpha1,"
        yield "    kind: DaemonEyePolicy, metadata: {name: everything}}'"
        return
    rows = [("POLICY", "READY", "SENSORS", "FINDINGS", "REASON")]
    rows += [
        (one.name, one.status, str(one.sensors.get("display") or "-"), str(one.findings), one.reason)
        for one in survey.policies
    ]
    heading, *lines = table(rows).splitlines()
    yield heading
    for line, policy in zip(lines, survey.policies, strict=True):
        yield line
        yield from policy_notes(policy)


def _nodes(survey: Survey) -> Iterator[str]:
    if not survey.nodes:
        return
    unwell = [node for node in survey.nodes if node.sensor != "ready"]
    ready = len(survey.nodes) - len(unwell)
    has = "has" if ready == 1 else "have"
    yield f"Nodes: {ready} of {len(survey.nodes)} {has} a sensor that runs{'; without:' if unwell else ''}"
    yield from (wrap(_node(node), 2, 2) for node in unwell[:_SHOWN_NODES])
    if len(unwell) > _SHOWN_NODES:
        yield f"  … and {len(unwell) - _SHOWN_NODES} more (-o json has all)"


def _node(node: NodeState) -> str:
    return f"{node.name}: {node.sensor}{': ' if node.detail else ''}{node.detail}"
