"""``kubectl daemoneye policy explain``: what a policy asks for, and what becomes of it.

Responsible for reading it from the cluster, or from a file without any cluster.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from daemoneye.api.inactive import inactive
from daemoneye.api.policyfile import LoadedPolicy, load_config, load_policy
from daemoneye.errors import ConfigError
from daemoneye_cli import settings as reading
from daemoneye_cli import survey
from daemoneye_cli.commands.cluster.options import add_cluster, command, kubectl
from daemoneye_cli.commands.options import Subparsers, add_output, say
from daemoneye_cli.errors import Forbidden, NotThere
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.show.cluster import wrap
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.policy import policy_lines, policy_objects, setting_lines


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "policy", "Explain a policy, of the cluster or in a file.")
    what = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    explain = what.add_parser(
        "explain",
        help="what each setting asks, how it merges, what becomes of it",
        description="Say what each setting of a policy asks, how it merges with other policies, and what becomes of it.",
        allow_abbrev=False,
    )
    explain.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_cluster(explain, hidden=True)
    source = explain.add_mutually_exclusive_group()
    source.add_argument("name", nargs="?", metavar="NAME", help="a policy of the cluster (default: all)")
    source.add_argument("-f", "--file", type=Path, metavar="FILE", help="check and explain this file; asks no cluster")
    source.add_argument("--config", type=Path, metavar="FILE", help="the same for the specification's YAML")
    add_output(explain, "plain", "json", default="plain")
    explain.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain."""
    if options.file is not None or options.config is not None:
        loaded = load_policy(options.file) if options.config is None else load_config(options.config)
        for note in loaded.notes:
            say(note)
        found = of_file(loaded)
        if options.output == "json":
            _print_json(policy_objects(None, loaded.policy.metadata.name, (), found))
            return 0
        print(wrap(f"{options.file or options.config} is a policy that the API server takes.", 0, 2))
        print("\n".join(setting_lines(found)))
        return 0
    explained = list(of_cluster(kubectl(options), options.name))
    if options.output == "json":
        for state, overlaps, chosen in explained:
            _print_json(policy_objects(state, state.name, overlaps, chosen))
    else:
        print("\n\n".join("\n".join(policy_lines(*one)) for one in explained))
    return 0


def of_file(loaded: LoadedPolicy) -> list[reading.Setting]:
    """Give the settings of a policy that was read from a file; nodes of a cluster are Linux."""
    spec = loaded.policy.spec.model_dump(mode="json", by_alias=True)
    gaps = {gap.setting: gap.reason for gap in inactive(loaded.policy, "linux", spelling=loaded.spelling)}
    return reading.settings(spec, inactive=gaps, spelling=loaded.spelling)


Explained = tuple[survey.PolicyState, Sequence[reading.Overlap], Sequence[reading.Setting]]


def of_cluster(kube: Kubectl, name: str | None) -> Iterator[Explained]:
    """Give the policy of this name, or all.

    Raises:
        ConfigError: There is none.
    """
    policies = sorted(kube.items(survey.POLICIES), key=_age)
    chosen = [policy for policy in policies if name in (None, _name(policy))]
    if not chosen:
        there = ", ".join(map(_name, policies))
        raise ConfigError(
            f"there is no DaemonEyePolicy {name}; there {'is' if len(policies) == 1 else 'are'} {there}"
            if name and there
            else "there is no DaemonEyePolicy in this cluster: kubectl apply one"
        )
    nodes = _nodes(kube)
    for policy in chosen:
        others = [(_name(one), one.get("spec") or {}) for one in policies if one is not policy]
        spec = policy.get("spec") or {}
        state = survey.policy_state(policy)
        overlaps = reading.overlaps(spec, others, nodes)
        met = {overlap.policy for overlap in overlaps}
        for path in reading.unknown(spec):
            say(f"policy {_name(policy)}: {path} is not known to this version of the command line")
        found = reading.settings(
            spec, inactive=dict(state.inactive), others=[(other, their) for other, their in others if other in met]
        )
        yield state, overlaps, found


def _nodes(kube: Kubectl) -> dict[str, dict[str, str]]:
    try:
        nodes = kube.items("nodes")
    except (Forbidden, NotThere) as error:
        say(f"which policies meet cannot be said: {error.args[0]}")
        return {}
    return {_name(node): node.get("metadata", {}).get("labels") or {} for node in nodes}


def _print_json(objects: Iterable[dict[str, Any]]) -> None:
    print("".join(map(json_line, objects)), end="", flush=True)


def _name(one: Object) -> str:
    return str(one.get("metadata", {}).get("name", ""))


def _age(policy: Object) -> tuple[str, str]:
    return str(policy.get("metadata", {}).get("creationTimestamp", "")), _name(policy)
