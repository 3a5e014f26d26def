"""Which node runs which configuration.

Responsible for matching policies' nodeSelector with nodes' labels, for grouping nodes on which the same policies meet, and for which nodes a
sensor can run on at all; not for merging (:mod:`daemoneye_operator.reconcile.merge`) nor for selectors of pods, which nodes evaluate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daemoneye.nodeconfig import NodeConfig
from daemoneye_operator.reconcile.merge import Refusal, cluster_conflicts, merge
from daemoneye_operator.reconcile.policies import Policy

Labels = Mapping[str, str]

# What the DaemonSet controller lets its pods tolerate by itself.
_ALWAYS: Final = frozenset(
    f"node.kubernetes.io/{name}"
    for name in ("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")
)


@dataclass(frozen=True, slots=True)
class Refused:
    """On which nodes a policy is refused, by name, and why on the first of them."""

    nodes: tuple[str, ...]
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Plan:
    """Who runs what.

    Attributes:
        configs: Each distinct configuration by its hash.
        nodes: Node → hash of its configuration. A node without any policy has one, too: the empty one.
        selected: Policy's UID → nodes that it selects, by name.
        refused: Policy's UID → where it is refused; policies that are nowhere refused are left out.
    """

    configs: Mapping[str, NodeConfig] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    selected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, Refused] = field(default_factory=dict)


def plan(policies: Sequence[Policy], nodes: Mapping[str, Labels]) -> Plan:
    """Plan for nodes with these labels.

    Cost: one match a policy and distinct set of the labels that any policy asks about, one merge a distinct set of policies.
    """
    everywhere = cluster_conflicts(policies)
    groups: dict[frozenset[int], list[str]] = defaultdict(list)
    for names, chosen in _alike(policies, nodes):
        groups[chosen].extend(names)
    configs: dict[str, NodeConfig] = {}
    placed: dict[str, str] = {}
    selected: dict[str, list[str]] = {policy.uid: [] for policy in policies}
    refused: dict[str, list[tuple[str, Refusal]]] = defaultdict(list)
    for chosen, names in groups.items():
        meeting = [policies[index] for index in sorted(chosen)]
        merged = merge([policy for policy in meeting if policy.uid not in everywhere])
        config_hash = merged.config.hash
        configs[config_hash] = merged.config
        placed.update(dict.fromkeys(names, config_hash))
        for policy in meeting:
            selected[policy.uid].extend(names)
            refusal = everywhere.get(policy.uid) or merged.refused.get(policy.uid)
            if refusal is not None:
                refused[policy.uid].extend((name, refusal) for name in names)
    return Plan(
        configs=configs,
        nodes=dict(sorted(placed.items())),
        selected={uid: tuple(sorted(names)) for uid, names in selected.items()},
        refused={
            uid: Refused(tuple(sorted(name for name, _ in places)), min(places, key=lambda place: place[0])[1])
            for uid, places in refused.items()
        },
    )


def removal(nodes: Iterable[str]) -> Plan:
    """The plan that has every node left: programs, pins and spools go."""
    config = NodeConfig(remove=True)
    return Plan(configs={config.hash: config}, nodes=dict.fromkeys(sorted(nodes), config.hash))


def tolerations(policies: Iterable[Policy]) -> list[dict[str, Any]]:
    """Union of what policies tolerate, in Kubernetes' form and in one order whatever theirs is."""
    distinct = {toleration for policy in policies for toleration in policy.spec.selector.tolerations}
    values = [toleration.model_dump(mode="json", by_alias=True, exclude_defaults=True) for toleration in distinct]
    return sorted(values, key=lambda value: sorted((key, str(content)) for key, content in value.items()))


def sensor_nodes(
    nodes: Iterable[Mapping[str, Any]],
    node_selector: Labels,
    tolerated: Sequence[Mapping[str, Any]],
    running: Collection[str] = (),
) -> dict[str, Labels]:
    """Labels by name of the nodes that the DaemonSet has a pod for: what `plan` is to be asked about.

    Args:
        nodes: Node objects; of each metadata.name, metadata.labels and spec.taints are read.
        node_selector: The DaemonSet's own, from the settings.
        tolerated: Tolerations of the DaemonSet, see `daemoneye_operator.reconcile.daemonset.all_tolerations`.
        running: Nodes that have its pod already: a taint that forbids to schedule leaves it there.
    """
    able: dict[str, Labels] = {}
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        taints = (node.get("spec") or {}).get("taints") or ()
        name = node["metadata"]["name"]
        effects = ("NoExecute",) if name in running else ("NoSchedule", "NoExecute")
        if node_selector.items() <= labels.items() and all(_tolerates(t, tolerated, effects) for t in taints):
            able[name] = labels
    return able


def _alike(policies: Sequence[Policy], nodes: Mapping[str, Labels]) -> Iterable[tuple[list[str], frozenset[int]]]:
    """Nodes that look the same to every policy, with the indexes of the policies that select them."""
    selectors = [policy.spec.selector.node_selector for policy in policies]
    asked = sorted({key for selector in selectors for key in selector})
    alike: dict[tuple[str | None, ...], list[str]] = defaultdict(list)
    for name, labels in nodes.items():
        alike[tuple(map(labels.get, asked))].append(name)
    for names in alike.values():
        labels = nodes[names[0]]
        yield names, frozenset(index for index, selector in enumerate(selectors) if selector.items() <= labels.items())


def _tolerates(taint: Mapping[str, Any], tolerated: Sequence[Mapping[str, Any]], effects: Collection[str]) -> bool:
    key, effect = taint["key"], taint.get("effect", "")
    if effect not in effects or key in _ALWAYS:
        return True
    return any(
        toleration.get("effect", "") in ("", effect)
        and toleration.get("key", "") in ("", key)
        and (
            toleration.get("operator") == "Exists"
            or (bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", ""))
        )
        for toleration in tolerated
    )
