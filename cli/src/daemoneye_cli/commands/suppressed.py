"""Showing what analytics kept to itself, from its next heartbeat, of one machine or of a cluster.

Responsible for what ``--suppressed`` of the two commands ``findings`` has in common.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from nats.aio.client import Client

from daemoneye.errors import DaemonEyeError
from daemoneye_cli.commands import hearing
from daemoneye_cli.heartbeats import Heartbeats, Process
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.suppressed import suppressed_lines, suppressed_objects
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.suppressed import Suppressed

_ANALYTICS: Final[Process] = ("component", "analytics")


def show(options: argparse.Namespace, broker: hearing.Access, *, interval: float) -> int:
    """Show it; two heartbeats' time is waited for one.

    Raises:
        DaemonEyeError: Analytics is not heard, or says nothing of it.
    """
    asyncio.run(_show(options, broker, 2 * interval + hearing.MARGIN_S))
    return 0


async def _show(options: argparse.Namespace, broker: hearing.Access, wait: float) -> None:
    async def show(heartbeats: Heartbeats, _: Client, writer: LineWriter) -> None:
        if not await heartbeats.complete([_ANALYTICS], wait, times=1):
            raise DaemonEyeError(f"analytics was not heard within {wait:g} s: doctor says what is wrong")
        found = Suppressed.of(heartbeats.processes[_ANALYTICS].content)
        if found is None:
            raise DaemonEyeError("analytics says nothing of suppressed findings: version shows whether it is older")
        if options.output == "json":
            await writer.write("".join(map(json_line, suppressed_objects(found, options.last))))
        else:
            await writer.write("".join(f"{line}\n" for line in suppressed_lines(found, options.last)))

    await hearing.hear(broker, "daemoneye findings", show)
