"""Showing a stream of a running installation: its newest messages, and what comes after them.

Responsible for what the commands ``events`` and ``findings`` have in common.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from daemoneye.errors import DaemonEyeError, MachineError
from daemoneye_cli import client
from daemoneye_cli.client import StreamReader
from daemoneye_cli.commands.options import add_output, add_range, add_state
from daemoneye_cli.commands.waiting import until_signal
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.state import State

Render = Callable[[str, bytes], Awaitable[list[str]]]
"""Gives the lines of a message, oldest first, from its subject and its data."""

_MESSAGES: Final = 10_000
"""Messages to go back at most."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    add_range(parser)
    add_output(parser, "plain", "json", default="plain")
    add_state(parser)


def show(options: argparse.Namespace, stream: str, renders: Callable[[Client], Render]) -> int:
    """Show ``stream`` of this machine's installation as what ``renders`` makes of a connection gives it."""
    access = State.at(options.state).read_private("cli.json")
    asyncio.run(read(contextlib.nullcontext(access), stream, renders, last=options.last, follow=options.follow))
    return 0


async def read(
    broker: contextlib.AbstractAsyncContextManager[Mapping[str, Any]],
    stream: str,
    renders: Callable[[Client], Render],
    *,
    last: int,
    follow: bool,
) -> None:
    """Show a stream of the broker to which ``broker`` gives access, until everything is shown or a signal comes."""
    writer = LineWriter()
    connections: list[Client] = []

    async def work() -> None:
        async with broker as access:
            connection = await client.connect(access, name=f"daemoneye {stream}")
            connections.append(connection)
            render = renders(connection)

            async def handle(message: Msg) -> None:
                await writer.write("".join(await render(message.subject, message.data)))

            try:
                newest = await client.last_sequence(connection, stream)
                lines = await _newest(connection, stream, newest, last, render)
            except NotFoundError:
                raise MachineError(f"the broker has no stream {stream} yet", fix="wait until it is ready") from None
            except (NatsError, TimeoutError) as error:
                words = str(error) or type(error).__name__
                raise DaemonEyeError(f"the broker does not give its stream {stream}: {words}") from None
            await writer.write("".join(lines))
            if follow:
                await StreamReader(connection, stream, newest + 1).run(handle)

    async def end() -> None:
        writer.abandon()
        for connection in connections:
            await connection.close()

    await until_signal(work(), end)


async def _newest(connection: Client, stream: str, newest: int, last: int, render: Render) -> list[str]:
    """Give the last so many lines of the stream, going back message by message."""
    lines: list[str] = []
    manager = connection.jetstream(timeout=5)
    for sequence in range(newest, max(0, newest - _MESSAGES), -1):
        if len(lines) >= last:
            break
        try:
            message = await manager.get_msg(stream, sequence, direct=True)
        except NotFoundError:
            break  # expired, and everything before it
        lines = await render(message.subject or "", message.data or b"") + lines
    return lines[-last:] if last else []
