"""``kubectl daemoneye version``: what is installed here, and what runs in the cluster."""

from __future__ import annotations

import argparse

from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye_cli.commands.cluster.options import command, kubectl, release
from daemoneye_cli.commands.options import Subparsers, add_output, say
from daemoneye_cli.kube import Kubectl
from daemoneye_cli.release import Release
from daemoneye_cli.show.cluster import table
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.survey import components


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "version", "Show the versions of what is installed here and in the cluster.")
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them; what is installed here also without a cluster."""
    from daemoneye_cli.commands.version import versions  # it knows the broker, whose client takes its time to import

    local = versions()
    kube = kubectl(options)
    cluster: dict[str, str | None] = {}
    trouble = None
    try:
        cluster["kubernetes"] = str((kube.json("version", "-o", "json").get("serverVersion") or {}).get("gitVersion"))
        cluster |= _images(kube, release(options, kube))
    except ConfigError:
        raise
    except DaemonEyeError as error:
        trouble = error
    if options.output == "json":
        print(json_line({"kind": "version", **local, "cluster": cluster}), end="")
    else:
        here = ((f"{name:<19}", number or "not installed") for name, number in local.items())
        there = ((f"cluster {name}", number or "not there") for name, number in cluster.items())
        print(table((*here, *there)))
    if trouble is not None:
        say(f"of the cluster: {trouble}")
        return trouble.exit_code
    return 0


def _images(kube: Kubectl, chosen: Release) -> dict[str, str | None]:
    objects = kube.items("deployments.apps,statefulsets.apps,daemonsets.apps", chosen.namespace, chosen.selector)
    found: dict[str, str | None] = {"release": chosen.version or None}
    return found | {part.name: part.image or None for part in components(objects)}
