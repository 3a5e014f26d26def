"""``daemoneye doctor``: what this machine has and lacks.

Responsible for printing the checks and for the exit status: 0 if all that is needed is there, 3 otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from daemoneye.api.policyfile import load_config, load_policy
from daemoneye.api.v1alpha1.policy import NetworkMonitoring
from daemoneye.errors import MachineError
from daemoneye.escape import escape
from daemoneye_cli.checks import Check, Wanted, examine
from daemoneye_cli.commands.options import Subparsers, add_output, add_state, command
from daemoneye_cli.configuration import recording
from daemoneye_cli.machine import Machine
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
    checks = []
    for check in examine(Machine(options.root), Wanted(state, network)):
        checks.append(check)
        print(_json(check) if options.output == "json" else _plain(check), flush=True)
    missing = [check for check in checks if check.needed and not check.ok]
    if options.output == "plain":
        print(_verdict(missing))
    return MachineError.exit_code if missing else 0


def _json(check: Check) -> str:
    return json.dumps({"kind": "check", **dataclasses.asdict(check)})


def _plain(check: Check) -> str:
    mark = "✓" if check.ok else "✗"
    optional = "" if check.needed or check.ok else " (optional)"
    line = f"{mark} {check.name:<20}{escape(check.detail)}{optional}"
    return f"{line}\n  {'':<20}fix: {escape(check.fix)}" if check.fix and not check.ok else line


def _verdict(missing: Sequence[Check]) -> str:
    if not missing:
        return "This machine has all that is needed: daemoneye run"
    return f"Missing: {', '.join(check.name for check in missing)}. Without it: daemoneye run --replay {recording()}"
