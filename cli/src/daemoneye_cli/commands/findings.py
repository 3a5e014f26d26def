"""``daemoneye findings``: what analytics found, from the stream of a running installation."""

from __future__ import annotations

import argparse
import json
from typing import Any

from daemoneye import subjects
from daemoneye_cli.commands import reading
from daemoneye_cli.commands.options import Subparsers, command
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.plain import finding_lines


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "findings", "Show the findings of a running installation.")
    reading.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    return reading.show(options, subjects.FINDINGS, _json if options.output == "json" else _plain)


def _json(_: str, data: bytes) -> list[str]:
    return [json_line({"kind": "finding", **finding}) for finding in _read(data)]


def _plain(_: str, data: bytes) -> list[str]:
    return [finding_lines(finding) for finding in _read(data)]


def _read(data: bytes) -> list[dict[str, Any]]:
    try:
        finding = json.loads(data)
    except ValueError:
        return []
    return [finding] if isinstance(finding, dict) else []
