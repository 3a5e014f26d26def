"""``daemoneye doctor``: what this machine has and lacks.

Responsible for printing the checks and for the exit status: 0 if all that is needed is there, 3 otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from daemoneye.api.policyfile import load_config, load_policy
from daemoneye.api.v1alpha1.policy import NetworkMonitoring
from daemoneye.errors import MachineError
from daemoneye_cli.check import Check
from daemoneye_cli.checks import Wanted, examine
from daemoneye_cli.commands.options import Subparsers, add_output, add_state, command
from daemoneye_cli.configuration import recording
from daemoneye_cli.machine import Machine
from daemoneye_cli.show.checks import show_checks
from daemoneye_cli.state import default_state_directory


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "doctor", "Check what this machine has and lacks, and say how to put it right.")
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--policy", type=Path, metavar="FILE", help="check what this policy needs, too")
    settings.add_argument("--config", type=Path, metavar="FILE", help="the same for the specification's YAML")
    add_output(parser, "plain", "json", default="plain")
    add_state(parser)
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check and print."""
    network = NetworkMonitoring()
    if options.policy is not None:
        network = load_policy(options.policy).policy.spec.network_monitoring
    elif options.config is not None:
        network = load_config(options.config).policy.spec.network_monitoring
    state = (options.state or default_state_directory()).absolute()
    missing = show_checks(examine(Machine(options.root), Wanted(state, network)), options.output)
    if options.output == "plain":
        print(_verdict(missing))
    return MachineError.exit_code if missing else 0


def _verdict(missing: Sequence[Check]) -> str:
    if not missing:
        return "This machine has all that is needed: daemoneye run"
    return f"Missing: {', '.join(check.name for check in missing)}. Without it: daemoneye run --replay {recording()}"
