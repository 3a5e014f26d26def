"""Options that all commands for a cluster share: which cluster, and which installation in it.

Responsible for their being taken before the command and behind it, as kubectl does.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
from pathlib import Path
from typing import Final

from daemoneye_cli.commands import options as shared
from daemoneye_cli.commands.options import Subparsers
from daemoneye_cli.kube import Kubectl
from daemoneye_cli.release import Release, find

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def add_cluster(parser: argparse.ArgumentParser, *, hidden: bool = False) -> None:
    """Add the options; ``hidden`` for those behind a command, which must not undo those before it."""

    def add(*names: str, help: str, type: type = str, metavar: str) -> None:  # noqa: A002 - argparse's names
        default, shown = (argparse.SUPPRESS, argparse.SUPPRESS) if hidden else (None, help)
        parser.add_argument(*names, type=type, metavar=metavar, default=default, help=shown)

    add("--context", metavar="NAME", help="the cluster, as kubectl's configuration names it (default: its current one)")
    add("--kubeconfig", metavar="FILE", type=Path, help="kubectl's configuration (default: as kubectl itself)")
    add("-n", "--namespace", metavar="N", help="namespace of the installation (default: found by itself)")


def command(commands: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command; ``text`` is its help."""
    parser = shared.command(commands, name, text)
    add_cluster(parser, hidden=True)
    return parser


def kubectl(options: argparse.Namespace) -> Kubectl:
    """Give the cluster that the options name."""
    return Kubectl(context=options.context, kubeconfig=options.kubeconfig)


def release(options: argparse.Namespace, kube: Kubectl) -> Release:
    """Give the installation that the options name."""
    return find(kube, options.namespace)


def moment(text: str) -> dt.datetime:
    """Read a time: RFC 3339, or how long ago (``30m``, ``2h``, ``7d``)."""
    if ago := re.fullmatch(r"(\d{1,6})([smhdw])", text):
        seconds = int(ago[1]) * _UNITS[ago[2]]
        try:
            return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
        except OverflowError:
            raise argparse.ArgumentTypeError(f"{text} is before the calendar begins") from None
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is no time: write how long ago, such as 30m or 2h, or 2026-01-31T12:00:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def deadline(text: str) -> dt.datetime:
    """Read a time to come: a day (its beginning, UTC), RFC 3339, or how long from now (``12h``, ``30d``)."""
    now = dt.datetime.now(dt.UTC)
    try:
        if ahead := re.fullmatch(r"(\d{1,6})([smhdw])", text):
            found = now + dt.timedelta(seconds=int(ahead[1]) * _UNITS[ahead[2]])
        else:
            found = dt.datetime.fromisoformat(text)
            found = found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is no time: write how long from now, such as 12h or 30d, or 2027-01-31, or 2027-01-31T12:00:00Z"
        ) from None
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text} is after the calendar ends") from None
    if found <= now:
        raise argparse.ArgumentTypeError(f"{text} is over already: write a time to come")
    return found
