"""``daemoneye events``: what the kernel told, from the stream of a running installation."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.errors import ConfigError, CorruptData
from daemoneye.events.jsonform import events_json, losses_json
from daemoneye.events.registry import EVENTS
from daemoneye_cli.batches import Batches
from daemoneye_cli.commands import reading
from daemoneye_cli.commands.options import Subparsers, add_event, command, say
from daemoneye_cli.show import text
from daemoneye_cli.show.jsonlines import json_line


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "events", "Show the events of a running installation.")
    reading.add_options(parser)
    add_event(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    check(options.event)
    renders = renderer(options.output, lambda content: options.event in {None, content.get("event")})
    return reading.show(options, subjects.ALL_EVENTS, renders)


def check(event: str | None) -> None:
    """Have no kind of event asked for that does not exist.

    Raises:
        ConfigError: There is no such event.
    """
    if event not in {None, *EVENTS}:
        raise ConfigError(f"--event {event}: there is no such event; there are {', '.join(sorted(EVENTS))}")


def renderer(
    output: str, keep: Callable[[dict[str, Any]], bool] = lambda _: True, *, bound: bool = False
) -> Callable[[Client], reading.Render]:
    """Give what makes, of a connection, the function that turns a batch into lines; events that ``keep`` does not want are left out, losses never.

    ``bound``: the broker lets each node write under its own name only, so that a batch of another node than its subject's is a forgery.
    """
    shown = (json_line, json_line) if output == "json" else (_event_line, _loss_line)
    return lambda client: _Renderer(Batches(client, say), keep, bound=bound, shown=shown)


_Line = Callable[[dict[str, Any]], str]


class _Renderer:
    """Turns batches into lines; ``shown`` gives the line of an event and that of a loss."""

    def __init__(
        self, batches: Batches, keep: Callable[[dict[str, Any]], bool], *, bound: bool, shown: tuple[_Line, _Line]
    ) -> None:
        self._batches = batches
        self._keep = keep
        self._bound = bound
        self._event, self._loss = shown

    async def __call__(self, subject: str, data: bytes) -> list[str]:
        try:
            batch, unread = await self._batches.read(data)
            about = batch.envelope
            if self._bound and not subjects.is_events_of(subject, about.node, about.lane):
                raise CorruptData(f"a batch that says it is of node {about.node!r}, lane {about.lane!r}", where=subject)
        except CorruptData as error:
            unreadable = {"kind": "loss", "stage": "decode", "count": 1, "lane": "", "ring": "", "reason": str(error)}
            return [self._loss(unreadable)]
        events = [self._event(content) for content in filter(self._keep, events_json(batch))]
        return events + [self._loss(content) for content in (*unread, *losses_json(batch))]


def _event_line(content: dict[str, Any]) -> str:
    return f"{text.event(content)}\n"


def _loss_line(content: dict[str, Any]) -> str:
    return f"{text.plain(content.get('time'))} {text.loss(content)}\n".lstrip()
