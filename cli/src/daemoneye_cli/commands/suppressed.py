"""Showing what analytics kept to itself, from its next heartbeat, of one machine or of a cluster.

Responsible for what ``--suppressed`` of the two commands ``findings`` has in common.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client

from daemoneye.errors import DaemonEyeError
from daemoneye_cli.commands import hearing
from daemoneye_cli.heartbeats import Heartbeats, analytics
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.suppressed import suppressed_lines, suppressed_objects
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.suppressed import Suppressed, together


def show(options: argparse.Namespace, broker: hearing.Access, *, interval: float) -> int:
    """Show it; two heartbeats' time is waited for one.

    Raises:
        DaemonEyeError: Analytics is not heard, or says nothing of it.
    """
    asyncio.run(_show(options, broker, 2 * interval + hearing.MARGIN_S))
    return 0


async def _show(options: argparse.Namespace, broker: hearing.Access, wait: float) -> None:
    async def show(heartbeats: Heartbeats, _: Client, writer: LineWriter) -> None:
        first = await _said(heartbeats, 0, wait)
        parts = first.get("parts")
        others = range(1, parts) if isinstance(parts, int) else ()
        found = together([_read(said) for said in (first, *[await _said(heartbeats, part, wait) for part in others])])
        if options.output == "json":
            await writer.write("".join(map(json_line, suppressed_objects(found, options.last))))
        else:
            await writer.write("".join(f"{line}\n" for line in suppressed_lines(found, options.last)))

    await hearing.hear(broker, "daemoneye findings", show)


async def _said(heartbeats: Heartbeats, part: int, wait: float) -> Mapping[str, Any]:
    """The next heartbeat of one part of analytics."""
    process = analytics(part)
    if not await heartbeats.complete([process], wait, times=1):
        raise DaemonEyeError(f"{process[1]} was not heard within {wait:g} s: doctor says what is wrong")
    return heartbeats.processes[process].content


def _read(said: Mapping[str, Any]) -> Suppressed:
    found = Suppressed.of(said)
    if found is None:
        raise DaemonEyeError("analytics says nothing of suppressed findings: version shows whether it is older")
    return found
