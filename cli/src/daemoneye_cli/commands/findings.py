"""``daemoneye findings``: what analytics found, from the stream of a running installation."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from daemoneye import subjects
from daemoneye.errors import ConfigError
from daemoneye_cli.commands import reading, suppressed
from daemoneye_cli.commands.options import Subparsers, add_suppressed, command
from daemoneye_cli.configuration import STATUS_INTERVAL_S
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.plain import finding_lines
from daemoneye_cli.state import State


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "findings", "Show the findings of a running installation.")
    reading.add_options(parser)
    add_suppressed(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    if options.suppressed:
        if options.follow:
            raise ConfigError("--suppressed shows what analytics' status lists now: it does not go with -f")
        access = State.at(options.state).read_private("cli.json")
        return suppressed.show(options, contextlib.nullcontext(access), interval=STATUS_INTERVAL_S)
    render = _json if options.output == "json" else _plain
    return reading.show(options, subjects.ALL_FINDINGS, lambda _: render)


async def _json(_: str, data: bytes) -> list[str]:
    return [json_line({"kind": "finding", **finding}) for finding in _read(data)]


async def _plain(_: str, data: bytes) -> list[str]:
    return [finding_lines(finding) for finding in _read(data)]


def _read(data: bytes) -> list[dict[str, Any]]:
    try:
        finding = json.loads(data)
    except ValueError:
        return []
    return [finding] if isinstance(finding, dict) else []
