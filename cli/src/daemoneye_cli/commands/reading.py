"""Showing what a running installation keeps of a subject: the newest messages, and what comes after them.

Responsible for what the commands ``events`` and ``findings`` have in common.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
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

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MESSAGES: Final = 10_000
"""Messages to go back at most."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    add_range(parser)
    add_output(parser, "plain", "json", default="plain")
    add_state(parser)


def show(options: argparse.Namespace, subject: str, renders: Callable[[Client], Render]) -> int:
    """Show the messages of ``subject`` of this machine's installation as what ``renders`` makes of a connection gives them."""
    access = State.at(options.state).read_private("cli.json")
    asyncio.run(read(contextlib.nullcontext(access), subject, renders, last=options.last, follow=options.follow))
    return 0


async def read(
    broker: contextlib.AbstractAsyncContextManager[Mapping[str, Any]],
    subject: str,
    renders: Callable[[Client], Render],
    *,
    last: int,
    follow: bool,
) -> None:
    """Show the messages of ``subject`` on the broker to which ``broker`` gives access, until everything is shown or a signal comes.

    They may be in several streams: the order is that in which the broker took them, as exactly as its servers' clocks agree.
    """
    writer = LineWriter()
    connections: list[Client] = []

    async def work() -> None:
        async with broker as access:
            connection = await client.connect(access, name="daemoneye reading")
            connections.append(connection)
            render = renders(connection)

            async def handle(message: Msg) -> None:
                await writer.write("".join(await render(message.subject, message.data)))

            try:
                streams = await client.streams_of(connection, subject)
                newest = {stream: await client.last_sequence(connection, stream) for stream in streams}
                lines = await _newest(connection, newest, last, render)
            except (NatsError, TimeoutError) as error:
                words = str(error) or type(error).__name__
                raise DaemonEyeError(f"the broker does not give what it has of {subject}: {words}") from None
            if not newest:
                raise MachineError(f"the broker has no stream of {subject} yet", fix="wait until it is ready")
            await writer.write("".join(lines))
            if follow:
                readers = [StreamReader(connection, stream, at + 1) for stream, at in newest.items()]
                await asyncio.gather(*(reader.run(handle) for reader in readers))

    async def end() -> None:
        writer.abandon()
        for connection in connections:
            await connection.close()

    await until_signal(work(), end)


async def _newest(connection: Client, newest: Mapping[str, int], last: int, render: Render) -> list[str]:
    """Give the last so many lines of streams by their newest sequences, going back message by message, the later one first."""
    lines: list[str] = []
    manager = connection.jetstream(timeout=5)

    async def back(stream: str, sequence: int) -> RawStreamMsg | None:
        if sequence <= 0:
            return None
        try:
            return await manager.get_msg(stream, sequence, direct=True)
        except NotFoundError:
            return None  # expired, and everything before it

    heads = {stream: await back(stream, at) for stream, at in newest.items()} if last else {}
    for _ in range(_MESSAGES):
        there = {stream: message for stream, message in heads.items() if message is not None}
        if len(lines) >= last or not there:
            break
        stream = max(there, key=lambda name: (there[name].time or _EPOCH, name))
        message = there[stream]
        lines = await render(message.subject or "", message.data or b"") + lines
        heads[stream] = await back(stream, (message.seq or 0) - 1)
    return lines[-last:] if last else []
