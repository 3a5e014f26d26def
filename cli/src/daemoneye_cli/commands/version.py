"""``daemoneye version``: what is installed here."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from daemoneye.errors import MachineError
from daemoneye_cli.broker import find_binary
from daemoneye_cli.commands.options import Subparsers, add_output, command

DISTRIBUTIONS: Final = (
    "daemoneye",
    "daemoneye-cli",
    "daemoneye-sensor",
    "daemoneye-analytics",
    "daemoneye-operator",
    "daemoneye-dissect",
)


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "version", "Show the versions of what is installed here.")
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    found = versions()
    if options.output == "json":
        print(json.dumps({"kind": "version", **found}))
    else:
        for name, number in found.items():
            print(f"{name:<20} {number or 'not installed'}")
    return 0


def versions() -> dict[str, str | None]:
    """Give the versions of our distributions, of Python, of the broker and of the kernel; None for what is absent."""
    return {
        **{name: distribution(name) for name in DISTRIBUTIONS},
        "python": platform.python_version(),
        "nats-server": nats_server(),
        "kernel": platform.release(),
    }


def distribution(name: str) -> str | None:
    """Give the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def nats_server() -> str | None:
    """Give the broker's version; None if it is not there or does not run."""
    try:
        run = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (MachineError, OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip().rpartition(" ")[2].removeprefix("v")
