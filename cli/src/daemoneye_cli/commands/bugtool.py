"""``daemoneye bugtool``: what a report of a fault on this machine needs, in one archive."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from daemoneye.errors import DaemonEyeError
from daemoneye_cli.brokerbundle import gather
from daemoneye_cli.checks import Wanted
from daemoneye_cli.commands import archive
from daemoneye_cli.commands.options import Subparsers, add_state, command
from daemoneye_cli.commands.top import COMPONENTS
from daemoneye_cli.commands.version import versions
from daemoneye_cli.configuration import STATUS_INTERVAL_S
from daemoneye_cli.machine import Machine
from daemoneye_cli.machinebundle import gather_machine, gather_state, learn_passwords
from daemoneye_cli.state import State


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "bugtool", "Write what a report of a fault needs into one archive, without secrets.")
    archive.add_options(parser)
    add_state(parser)
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write it."""
    state = State.at(options.state)
    with archive.opened(options.output) as bundle:
        learn_passwords(state, bundle)
        with bundle.part("versions/local.json"):
            bundle.document("versions/local.json", versions())
        gather_machine(Machine(options.root), Wanted(state.path), bundle)
        try:
            access = state.read_private("cli.json")
        except DaemonEyeError as error:
            bundle.lack("what the broker tells", error)
        else:
            expected = (("node", str(access.get("node"))), *COMPONENTS)
            broker = contextlib.nullcontext(access)
            asyncio.run(
                gather(
                    broker,
                    bundle,
                    expected,
                    interval=STATUS_INTERVAL_S,
                    findings=options.last,
                    arguments=options.include_arguments,
                )
            )
        gather_state(state, bundle)
        bundle.close(of="one machine", state=str(state.path), arguments=_arguments(options))
    archive.tell(bundle)
    return 0


def _arguments(options: argparse.Namespace) -> str:
    return "included" if options.include_arguments else "left out"
