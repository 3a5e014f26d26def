"""``daemoneye top``: what the processes of a running installation cost and do now."""

from __future__ import annotations

import argparse
import contextlib
from typing import Final

from daemoneye_cli.commands import listening
from daemoneye_cli.commands.options import Subparsers, add_state, add_top, command
from daemoneye_cli.configuration import STATUS_INTERVAL_S
from daemoneye_cli.heartbeats import BROKER, Process
from daemoneye_cli.state import State

COMPONENTS: Final[tuple[Process, ...]] = (("component", "analytics"), BROKER)


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "top", "Show what the processes of a running installation cost and do now.")
    add_top(parser)
    add_state(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it."""
    access = State.at(options.state).read_private("cli.json")
    expected = (("node", str(access.get("node"))), *COMPONENTS)
    return listening.show(options, contextlib.nullcontext(access), expected, interval=STATUS_INTERVAL_S)
