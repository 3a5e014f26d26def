"""Showing a stream of a running installation: its newest messages, and what comes after them.

Responsible for what the commands ``events`` and ``findings`` have in common.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from daemoneye_cli import client
from daemoneye_cli.client import StreamReader
from daemoneye_cli.commands.options import add_output, add_state, count
from daemoneye_cli.show.writer import LineWriter, OutputClosed
from daemoneye_cli.state import State

Render = Callable[[bytes], list[str]]
"""Gives a message's lines, oldest first."""

_LAST: Final = 20
_END_S: Final = 2.0
_MESSAGES: Final = 10_000
"""Messages to go back at most."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument(
        "--last", type=count, default=_LAST, metavar="N", help=f"how many to begin with (default {_LAST})"
    )
    parser.add_argument("--follow", action="store_true", help="go on with what comes")
    add_output(parser, "plain", "json", default="plain")
    add_state(parser)


def show(options: argparse.Namespace, stream: str, render: Render) -> int:
    """Show ``stream`` as ``render`` gives it."""
    access = State.at(options.state).read_private("cli.json")
    asyncio.run(_show(access, stream, render, last=options.last, follow=options.follow))
    return 0


async def _show(access: dict[str, object], stream: str, render: Render, *, last: int, follow: bool) -> None:
    """Show until everything is shown, or until a signal: then without waiting for anybody for long."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    writer = LineWriter()
    connection = await client.connect(access, name=f"daemoneye {stream}")

    async def handle(message: Msg) -> None:
        await writer.write("".join(render(message.data)))

    async def work() -> None:
        newest = await client.last_sequence(connection, stream)
        await writer.write("".join(await _newest(connection, stream, newest, last, render)))
        if follow:
            await StreamReader(connection, stream, newest + 1).run(handle)

    working, stopping = asyncio.create_task(work()), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            with contextlib.suppress(OutputClosed):
                working.result()
    finally:
        # A cancellation alone may be swallowed on its way through nats-py and wait_for (cpython #86296); a closed connection ends the rest.
        stopping.cancel()
        working.cancel()
        writer.abandon()
        await connection.close()
        await asyncio.wait({working}, timeout=_END_S)


async def _newest(connection: Client, stream: str, newest: int, last: int, render: Render) -> list[str]:
    """Give the last so many lines of the stream, going back message by message."""
    lines: list[str] = []
    manager = connection.jetstream(timeout=5)
    for sequence in range(newest, max(0, newest - _MESSAGES), -1):
        if len(lines) >= last:
            break
        try:
            message = await manager.get_msg(stream, sequence)
        except NotFoundError:
            break  # expired, and everything before it
        lines = render(message.data or b"") + lines
    return lines[-last:] if last else []
