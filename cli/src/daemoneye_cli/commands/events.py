"""``daemoneye events``: what the kernel told, from the stream of a running installation."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

from daemoneye import subjects
from daemoneye.envelope import Batch, decode
from daemoneye.errors import CorruptData
from daemoneye.events.jsonform import events_json, losses_json
from daemoneye_cli.commands import reading
from daemoneye_cli.commands.options import Subparsers, command
from daemoneye_cli.show import text
from daemoneye_cli.show.jsonlines import json_line


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "events", "Show the events of a running installation.")
    reading.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    return reading.show(options, subjects.EVENTS(0), renderer(options.output))


def renderer(
    output: str, keep: Callable[[dict[str, Any]], bool] = lambda _: True, *, bound: bool = False
) -> reading.Render:
    """Give the function that turns a batch into lines; events that ``keep`` does not want are left out, losses never.

    ``bound``: the broker lets each node write under its own name only, so that a batch of another node than its subject's is a forgery.
    """
    return functools.partial(_json if output == "json" else _plain, keep, bound)


def _json(keep: Callable[[dict[str, Any]], bool], bound: bool, subject: str, data: bytes) -> list[str]:  # noqa: FBT001
    try:
        batch = _read(bound, subject, data)
    except CorruptData as error:
        return [json_line(_unreadable(error))]
    return [json_line(content) for content in (*filter(keep, events_json(batch)), *losses_json(batch))]


def _plain(keep: Callable[[dict[str, Any]], bool], bound: bool, subject: str, data: bytes) -> list[str]:  # noqa: FBT001
    try:
        batch = _read(bound, subject, data)
    except CorruptData as error:
        return [f"{text.loss(_unreadable(error))}\n"]
    events = [f"{text.event(content)}\n" for content in filter(keep, events_json(batch))]
    return events + [f"{text.plain(content['time'])} {text.loss(content)}\n" for content in losses_json(batch)]


def _read(bound: bool, subject: str, data: bytes) -> Batch:  # noqa: FBT001
    batch = decode(data)
    about = batch.envelope
    if bound and not subjects.is_events_of(subject, about.node, about.lane):
        raise CorruptData(f"a batch that says it is of node {about.node!r}, lane {about.lane!r}", where=subject)
    return batch


def _unreadable(error: CorruptData) -> dict[str, object]:
    return {"kind": "loss", "stage": "decode", "count": 1, "lane": "", "ring": "", "reason": str(error)}
