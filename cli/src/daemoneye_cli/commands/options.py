"""Options that several commands share.

Responsible for their spelling and meaning being the same everywhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from daemoneye.escape import escape
from daemoneye_cli.show.top import ORDERS

_LAST: Final = 20
_REFRESH_S: Final = 5.0

Subparsers = Any
"""What ``add_subparsers`` gives; argparse has no public name for it."""


def command(commands: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command; ``text`` is its help."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    # Accepted behind the command as well, without undoing the one before it.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def add_output(parser: argparse.ArgumentParser, *choices: str, default: str | None) -> None:
    """Add ``-o``."""
    parser.add_argument("-o", "--output", choices=choices, default=default, help="form of the output")


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add ``--state``."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="state directory (default: $DAEMONEYE_STATE, /var/lib/daemoneye for root, else the user's own)",
    )


def add_range(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much is shown."""
    parser.add_argument(
        "--last", type=count, default=_LAST, metavar="N", help=f"how many to begin with (default {_LAST})"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")


def add_event(parser: argparse.ArgumentParser) -> None:
    """Add ``--event``."""
    parser.add_argument("--event", metavar="KIND", help="only of this kind, such as process_exec")


def add_suppressed(parser: argparse.ArgumentParser) -> None:
    """Add ``--suppressed``."""
    parser.add_argument(
        "--suppressed",
        action="store_true",
        help="those that nobody was told: beyond a policy's budget of the day, or repeating what was told",
    )


def add_top(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``top``."""
    orders = ("name", *ORDERS)
    parser.add_argument("--sort", choices=orders, default="cpu", help="order, the greatest first (default cpu)")
    parser.add_argument(
        "-w",
        "--watch",
        type=positive,
        nargs="?",
        const=_REFRESH_S,
        metavar="SECONDS",
        help=f"show it again and again (default every {_REFRESH_S:g} s)",
    )
    parser.add_argument(
        "--wait",
        type=positive,
        metavar="SECONDS",
        help="listen so long for two heartbeats of each (default: two intervals and 3 s)",
    )
    add_output(parser, "plain", "json", default="plain")


def positive(text: str) -> float:
    """Read a number of seconds that is more than 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds that is more than 0")
    return number


def count(text: str) -> int:
    """Read a count that is 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def say(text: str) -> None:
    """Write a note to whoever looks on."""
    print(f"daemoneye: {escape(text)}", file=sys.stderr, flush=True)
