"""``kubectl daemoneye top``: what each node's sensor and the other parts cost and do now, as they say themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Final

from daemoneye_cli.commands.cluster.options import command, kubectl, release
from daemoneye_cli.commands.options import Subparsers, add_top, say
from daemoneye_cli.errors import Forbidden
from daemoneye_cli.heartbeats import BROKER, Process, analytics
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.release import COMPONENT, Release
from daemoneye_cli.survey import component_of

OTHERS: Final = ("operator", "identity")
"""Parts that are neither a node's nor analytics'."""


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "top", "Show what sensors and the other parts cost and do now.")
    add_top(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it."""
    # Half a second of imports that the other commands do not need.
    from daemoneye_cli import tunnel
    from daemoneye_cli.commands import listening

    kube = kubectl(options)
    chosen = release(options, kube)
    told = tunnel.settings(kube, chosen)
    broker = tunnel.access(kube, chosen, on_trouble=say)
    wanted = [*_sensors(kube, chosen), *components(tunnel.analytics_parts(told)), BROKER]
    return listening.show(options, broker, wanted, interval=tunnel.status_interval(told))


def components(parts: int) -> list[Process]:
    """Give who is no node's: analytics as it judges each of so many parts, and the others."""
    return [*map(analytics, range(parts)), *(("component", name) for name in OTHERS)]


def _sensors(kube: Kubectl, chosen: Release) -> list[Process]:
    """Give the nodes that have a sensor's pod."""
    nodes: list[str] = []
    try:
        nodes = sensor_nodes(kube.items("pods", chosen.namespace, f"{chosen.selector},{COMPONENT}=sensor"))
    except Forbidden as error:
        say(f"sensors that are not heard are not shown: {error.args[0]}")
    return [("node", name) for name in nodes]


def sensor_nodes(pods: Iterable[Object]) -> list[str]:
    """Give the nodes on which one of the pods is a sensor's."""
    of_sensors = (pod for pod in pods if component_of(pod) == "sensor")
    return sorted({str(pod.get("spec", {}).get("nodeName") or "") for pod in of_sensors} - {""})
