"""``kubectl daemoneye events``: what the kernels of the nodes told, from the cluster's broker."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

from daemoneye import subjects
from daemoneye.podidentity import cgroup_uid
from daemoneye_cli.commands.cluster.options import command, kubectl, release
from daemoneye_cli.commands.options import Subparsers, add_event, add_output, add_range, say
from daemoneye_cli.errors import NotThere
from daemoneye_cli.kube import Kubectl


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "events", "Show the events of the nodes.")
    add_range(parser)
    parser.add_argument("--node", metavar="NAME", help="only of this node")
    parser.add_argument("--pod", metavar="NAMESPACE/NAME", type=_pod, help="only of this pod, on either side")
    add_event(parser)
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    # Half a second of imports that the other commands do not need.
    from daemoneye_cli import tunnel
    from daemoneye_cli.commands import reading
    from daemoneye_cli.commands.events import check, renderer

    check(options.event)
    kube = kubectl(options)
    chosen = release(options, kube)
    keep = wanted(options.node, options.pod, options.event, _uids(kube, options.pod))
    broker = tunnel.access(kube, chosen, on_trouble=say)
    shown = renderer(options.output, keep, bound=True)
    asyncio.run(reading.read(broker, subjects.ALL_EVENTS, shown, last=options.last, follow=options.follow))
    return 0


def wanted(
    node: str | None, pod: tuple[str, str] | None, event: str | None, uids: frozenset[str]
) -> Callable[[dict[str, Any]], bool]:
    """Give the function that says whether an event is asked for; a pod is known by its name or by one of its ``uids``, on either side."""

    def keep(content: dict[str, Any]) -> bool:
        if node is not None and content.get("node") != node:
            return False
        if event is not None and content.get("event") != event:
            return False
        peer = content.get("peer")
        return pod is None or of_pod(content) or (isinstance(peer, dict) and of_pod(peer))

    def of_pod(side: dict[str, Any]) -> bool:
        return (side.get("namespace"), side.get("pod")) == pod or side.get("pod_uid") in uids

    return keep


def _uids(kube: Kubectl, pod: tuple[str, str] | None) -> frozenset[str]:
    """UIDs under which a node may know the pod: a static pod's cgroup bears the hash of its file."""
    if pod is None:
        return frozenset()
    try:
        metadata = kube.get("pod", pod[1], pod[0]).get("metadata", {})
    except NotThere:
        say(f"there is no pod {pod[0]}/{pod[1]} now: events that bear its name are shown")
        return frozenset()
    return frozenset((str(metadata["uid"]), cgroup_uid(metadata))) if metadata.get("uid") else frozenset()


def _pod(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text} is no pod: write NAMESPACE/NAME")
    return namespace, name
