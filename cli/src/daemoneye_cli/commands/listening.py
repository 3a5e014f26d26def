"""Showing what the processes cost, once or again and again, from the broker of one machine or of a cluster.

Responsible for what the two commands ``top`` have in common.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Final

from nats.aio.client import Client

from daemoneye.errors import DaemonEyeError
from daemoneye_cli.commands import hearing
from daemoneye_cli.heartbeats import BROKER, Cost, Heartbeats, Process
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.top import ordered, top_lines, top_object
from daemoneye_cli.show.writer import LineWriter

_CLEAR: Final = "\x1b[H\x1b[J"


def show(
    options: argparse.Namespace,
    broker: hearing.Access,
    expected: Sequence[Process],
    *,
    interval: float,
) -> int:
    """Show what the processes cost; 1 if nobody was heard."""
    wait = options.wait or 2 * interval + hearing.MARGIN_S
    heard: list[Cost] = []
    asyncio.run(_show(options, broker, expected, wait, heard))
    if options.watch is None and not any(cost.age_s is not None for cost in heard):
        raise DaemonEyeError(f"nobody was heard within {wait:g} s: doctor says what is wrong, --wait listens longer")
    return 0


async def _show(
    options: argparse.Namespace,
    broker: hearing.Access,
    expected: Sequence[Process],
    wait: float,
    shown: list[Cost],
) -> None:
    async def show(heartbeats: Heartbeats, connection: Client, writer: LineWriter) -> None:
        if options.watch is None:
            if sys.stderr.isatty():
                print(f"daemoneye: listening for up to {wait:g} s", file=sys.stderr, flush=True)
            await heartbeats.complete(expected, wait, times=2)
        while True:
            shown[:] = ordered(_costs(heartbeats, expected, connection), options.sort)
            await writer.write(_text(shown, options))
            if options.watch is None:
                return
            await asyncio.sleep(options.watch)

    await hearing.hear(broker, "daemoneye top", show)


def _costs(heartbeats: Heartbeats, expected: Sequence[Process], connection: Client) -> list[Cost]:
    """What was heard, and of the broker, which sends no heartbeats, the version that it told at the connection."""
    found = heartbeats.costs([one for one in expected if one != BROKER])
    if BROKER in expected:
        number = connection.connected_server_version
        with contextlib.suppress(ValueError):
            found.append(Cost("broker", "broker", version=f"{number.major}.{number.minor}.{number.patch}"))
    return found


def _text(costs: Sequence[Cost], options: argparse.Namespace) -> str:
    if options.output == "json":
        return "".join(json_line(top_object(cost)) for cost in costs)
    clear = _CLEAR if options.watch is not None and sys.stdout.isatty() else ""
    between = "\n" if options.watch is not None and not clear else ""
    return clear + "".join(f"{line}\n" for line in top_lines(costs)) + between
