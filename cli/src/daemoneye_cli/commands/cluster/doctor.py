"""``kubectl daemoneye doctor``: what the cluster has and lacks.

Responsible for the exit status: 0 if all that is needed is there, 3 otherwise.
"""

from __future__ import annotations

import argparse

from daemoneye.errors import MachineError
from daemoneye_cli.clusterchecks import examine
from daemoneye_cli.commands.cluster.options import command, kubectl
from daemoneye_cli.commands.options import Subparsers, add_output
from daemoneye_cli.show.checks import show_checks


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "doctor", "Check what the cluster has and lacks, and say how to put it right.")
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check and print."""
    missing = show_checks(examine(kubectl(options), options.namespace), options.output)
    if options.output == "plain":
        names = ", ".join(check.name for check in missing)
        print(f"Missing: {names}." if missing else "This cluster has all that is needed.")
    return MachineError.exit_code if missing else 0
