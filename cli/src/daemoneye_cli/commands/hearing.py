"""Heartbeats from the broker of one machine or of a cluster, for a command that shows something of them.

Responsible for connecting, listening, and ending in order; what is heard and shown is the command's affair.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from daemoneye.errors import DaemonEyeError
from daemoneye_cli import client
from daemoneye_cli.commands.waiting import until_signal
from daemoneye_cli.heartbeats import Heartbeats
from daemoneye_cli.show.writer import LineWriter

MARGIN_S: Final = 3.0
"""Beside two heartbeats' time: what is waited for one."""
Access = contextlib.AbstractAsyncContextManager[Mapping[str, Any]]


async def hear(broker: Access, name: str, show: Callable[[Heartbeats, Client, LineWriter], Awaitable[None]]) -> None:
    """Listen while `show` runs, until it or a signal ends it; `name` is what the broker's monitoring has.

    Raises:
        DaemonEyeError: The broker lets nobody listen.
    """
    writer = LineWriter()
    connections: list[Client] = []
    heartbeats = Heartbeats()

    async def work() -> None:
        async with broker as access:
            connection = await client.connect(access, name=name)
            connections.append(connection)
            try:
                await heartbeats.listen(connection)
            except (NatsError, TimeoutError) as error:
                raise DaemonEyeError(f"the broker lets nobody listen: {str(error) or type(error).__name__}") from None
            await show(heartbeats, connection, writer)

    async def end() -> None:
        writer.abandon()
        for connection in connections:
            await connection.close()

    await until_signal(work(), end)
