"""``kubectl daemoneye status``: one screen that says whether everything is ready.

Responsible for the exit status: 0 if it is, 1 if not.
"""

from __future__ import annotations

import argparse

from daemoneye_cli import survey
from daemoneye_cli.commands.cluster.options import command, kubectl, release
from daemoneye_cli.commands.options import Subparsers, add_output
from daemoneye_cli.show.cluster import status_lines, status_objects
from daemoneye_cli.show.jsonlines import json_line


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "status", "Say whether everything is ready: parts, policies, sensors, findings.")
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it."""
    kube = kubectl(options)
    seen = survey.look(kube, release(options, kube))
    if options.output == "json":
        print("".join(map(json_line, status_objects(seen))), end="")
    else:
        print("\n".join(status_lines(seen)))
    return 1 if seen.troubles else 0
