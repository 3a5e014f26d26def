"""How many of what there are, for the metrics: sensors by state, policies by readiness.

Responsible for counting what the statuses say one by one; not for the statuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from daemoneye import conditions
from daemoneye.nodeconfig import REFUSED, NodeConfig
from daemoneye_operator.reconcile.nodes import NodeReport
from daemoneye_operator.reconcile.selection import Plan

DESIRED: Final = "desired"
READY: Final = "ready"
SILENT: Final = "silent"
REFUSING: Final = "refusing"
STATES: Final = (DESIRED, READY, SILENT, REFUSING)
_STATUSES: Final = ("True", "False", "Unknown")


def sensors(
    plan: Plan, reports: Mapping[str, NodeReport], heard_since: float, *, listening_since: float
) -> dict[str, int]:
    """Nodes that a policy selects, by state of their sensor: `desired` are all, one that refuses something runs the rest and can be `ready`, too.

    Args:
        plan: What each node is to run.
        reports: Each node's newest heartbeat.
        heard_since: Who was last heard of before is silent, seconds since 1970.
        listening_since: Since when heartbeats are heard: who began later than `heard_since` cannot know who is silent.
    """
    nodes = {node for selected in plan.selected.values() for node in selected}
    counts = dict.fromkeys(STATES, 0)
    counts[DESIRED] = len(nodes)
    settled = listening_since <= heard_since
    for node in nodes:
        report = reports.get(node)
        if report is None or report.received < heard_since:
            counts[SILENT] += settled
            continue
        wanted = plan.nodes.get(node, "")
        if report.answer.hash == wanted:
            counts[READY] += 1
            counts[REFUSING] += _refuses(report, plan.configs.get(wanted, NodeConfig()))
    return counts


def policies(objects: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """DaemonEyePolicy objects by the status of their condition Ready."""
    found = Counter(_ready(obj) for obj in objects)
    return {status: found[status] for status in _STATUSES}


def _refuses(report: NodeReport, config: NodeConfig) -> bool:
    answer = report.answer
    programs = answer.programs or not config.kernel.get("enable_ebpf")
    return not (programs and answer.capture) or any(one.state == REFUSED for one in answer.policies)


def _ready(obj: Mapping[str, Any]) -> str:
    for one in (obj.get("status") or {}).get("conditions") or ():
        if one.get("type") == conditions.READY and one.get("status") in _STATUSES:
            return str(one["status"])
    return "Unknown"
