"""``kubectl daemoneye bugtool``: what a report of a fault in a cluster needs, in one archive."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from typing import Any

from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye_cli.bundle import Bundle
from daemoneye_cli.commands import archive
from daemoneye_cli.commands.cluster.options import command, kubectl, release
from daemoneye_cli.commands.options import Subparsers, say
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.release import Release


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "bugtool", "Write what a report of a fault needs into one archive, without secrets.")
    archive.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write it; what cannot be had is noted in it, and ends nothing."""
    from daemoneye_cli import clusterbundle
    from daemoneye_cli.commands.version import versions  # it knows the broker, whose client takes its time to import

    kube = kubectl(options)
    kube.json("version", "-o", "json")  # without an API server there is nothing to gather
    with archive.opened(options.output) as bundle:
        with bundle.part("versions/local.json"):
            bundle.document("versions/local.json", versions())
        clusterbundle.gather_cluster(kube, bundle, last=options.last, arguments=options.include_arguments)
        clusterbundle.gather_doctor(kube, options.namespace, bundle)
        chosen = _release(options, kube, bundle)
        if chosen is not None:
            pods = clusterbundle.gather_release(kube, chosen, bundle)
            _gather_broker(kube, chosen, pods, bundle)
            clusterbundle.gather_logs(kube, chosen, pods, bundle)
        bundle.close(
            of="a cluster",
            release=None if chosen is None else dataclasses.asdict(chosen),
            arguments="included" if options.include_arguments else "left out",
        )
    archive.tell(bundle)
    return 0


def _release(options: argparse.Namespace, kube: Kubectl, bundle: Bundle) -> Release | None:
    try:
        return release(options, kube)
    except ConfigError:  # there are several: the user is to say which
        raise
    except DaemonEyeError as error:
        bundle.lack("the installation's objects, logs and broker", error)
        return None


def _gather_broker(kube: Kubectl, chosen: Release, pods: list[Object], bundle: Bundle) -> None:
    from daemoneye_cli import brokerbundle, tunnel
    from daemoneye_cli.commands.cluster.top import components, sensor_nodes

    told: dict[str, Any] = {}
    with bundle.part("interval of heartbeats"):
        told = tunnel.settings(kube, chosen)
    expected = [*(("node", name) for name in sensor_nodes(pods)), *components(tunnel.analytics_parts(told))]
    broker = tunnel.access(kube, chosen, on_trouble=say)
    asyncio.run(brokerbundle.gather(broker, bundle, expected, interval=tunnel.status_interval(told)))
