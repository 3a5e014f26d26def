"""What the broker says, turned into what a view shows.

Responsible for reading events, findings, losses and heartbeats from the moment of the start, each once, and for
handing them on; not for counting (:mod:`daemoneye_cli.tally`) nor for form (:mod:`daemoneye_cli.show`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from daemoneye import subjects
from daemoneye.envelope import Batch, peek
from daemoneye.errors import ConfigError, CorruptData
from daemoneye.events.jsonform import losses_json
from daemoneye_cli.batches import Batches
from daemoneye_cli.client import StreamReader, last_sequence
from daemoneye_cli.tally import Tally, now_rfc3339

Origin = Literal["node", "component"]
"""Who speaks: a node's sensor, or a component that is no node's. A node may bear any name, a component's, too."""
StatusHandler = Callable[[Origin, str, dict[str, Any]], Awaitable[None]]

_SETTLE_S = 5.0
_PATIENCE_S = 60.0
_REMEMBERED = 10_000


class View(Protocol):
    """Something that shows a run. ``wants_batches`` says whether it needs events decoded, which costs time, ``wants_scores`` whether it shows scores."""

    wants_batches: bool
    wants_scores: bool

    async def on_batch(self, batch: Batch) -> None:
        """Show a batch's events."""

    async def on_finding(self, finding: dict[str, Any]) -> None:
        """Show a finding."""

    async def on_loss(self, loss: dict[str, Any]) -> None:
        """Show that something was lost."""

    async def on_score(self, score: dict[str, Any]) -> None:
        """Show the score of a workload's window."""


class Feed:
    """Reads all streams of an installation with one shard into a tally and a view.

    ``on_status`` gets what each process says of itself, by the kind and the name in its subject, ``tell`` a sentence for each schema of a newer release.
    """

    def __init__(
        self,
        client: Client,
        view: View,
        tally: Tally,
        *,
        on_status: StatusHandler,
        tell: Callable[[str], None],
        shard: int = 0,
    ) -> None:
        self._client = client
        self._batches = Batches(client, tell)
        self._view = view
        self._tally = tally
        self._on_status = on_status
        self._events_stream = subjects.EVENTS(shard)
        self._readers: dict[str, StreamReader] = {}
        self._shown: dict[str, None] = {}

    async def start(self) -> None:
        """Take the place from which on everything is shown; to be called before the sensor starts."""
        scores = (subjects.SCORES,) if self._view.wants_scores else ()
        for stream in (self._events_stream, subjects.FINDINGS, *scores):
            self._readers[stream] = StreamReader(self._client, stream, await last_sequence(self._client, stream) + 1)
        await self._client.subscribe(f"{subjects.PREFIX}.status.*", cb=self._node)
        await self._client.subscribe(f"{subjects.PREFIX}.component.*", cb=self._component)
        await self._client.flush()

    async def events(self) -> None:
        """Hand events and losses on, until the connection is closed."""
        await self._readers[self._events_stream].run(self._batch)

    async def findings(self) -> None:
        """Hand findings on, until the connection is closed."""
        await self._readers[subjects.FINDINGS].run(self._finding)

    async def scores(self) -> None:
        """Hand scores on, until the connection is closed; returns at once where nobody wants them."""
        if reader := self._readers.get(subjects.SCORES):
            await reader.run(self._score)

    async def settle(self, *, patient: bool) -> bool:
        """Wait until all that the streams hold now has been shown; False if that took too long.

        Patience lasts a minute after the last progress (who reads us may be a pager), impatience five seconds in all.
        """
        seconds = _PATIENCE_S if patient else _SETTLE_S
        for stream, reader in self._readers.items():
            try:
                async with asyncio.timeout(_SETTLE_S):
                    last = await last_sequence(self._client, stream)
            except (TimeoutError, NatsError):
                return False
            while reader.next_sequence <= last:
                before = reader.next_sequence
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await reader.reached(last)
                if reader.next_sequence <= last and (reader.next_sequence == before or not patient):
                    return False
        return True

    async def _batch(self, message: Msg) -> None:
        try:
            envelope = peek(message.data)
            self._tally.add_envelope(envelope)
            if envelope.lane != "loss" and not self._view.wants_batches:
                return
            batch, unread = await self._batches.read(message.data)
            for loss in (*unread, *(losses_json(batch) if envelope.lane == "loss" else ())):
                await self._loss(loss)
            if envelope.lane != "loss":
                await self._view.on_batch(batch)
        except CorruptData as error:
            await self._loss(unreadable("event", message, error))

    async def _finding(self, message: Msg) -> None:
        try:
            finding = json.loads(message.data)
        except ValueError as error:
            await self._loss(unreadable("finding", message, error))
            return
        if isinstance(finding, dict) and self._is_new(finding):
            self._tally.add_finding(finding)
            await self._view.on_finding(finding)

    async def _score(self, message: Msg) -> None:
        for line in message.data.splitlines():
            try:
                score = json.loads(line)
            except ValueError as error:
                await self._loss(unreadable("score", message, error))
                continue
            if isinstance(score, dict):
                await self._view.on_score(score)

    def _is_new(self, finding: dict[str, Any]) -> bool:
        """Whether this id comes for the first time: what analytics judged again after a crash has the same."""
        name = str(finding.get("id", ""))
        if not name or name not in self._shown:
            self._shown[name] = None
            if len(self._shown) > _REMEMBERED:
                self._shown.pop(next(iter(self._shown)))
            return True
        return False

    async def _node(self, message: Msg) -> None:
        await self._status("node", message)

    async def _component(self, message: Msg) -> None:
        await self._status("component", message)

    async def _status(self, origin: Origin, message: Msg) -> None:
        try:
            status = json.loads(message.data)
            name = subjects.unescape_node(message.subject.rpartition(".")[2])
        except (ValueError, ConfigError):
            return
        if isinstance(status, dict):
            if origin == "node":
                self._tally.add_node(name, status)
            else:
                self._tally.add_component(name, status)
            await self._on_status(origin, name, status)

    async def _loss(self, loss: dict[str, Any]) -> None:
        self._tally.add_loss(loss)
        await self._view.on_loss(loss)


def unreadable(what: str, message: Msg, error: Exception) -> dict[str, Any]:
    """Make the loss of a message that this command cannot read: analytics may well have."""
    return {
        "kind": "loss",
        "time": now_rfc3339(),
        "stage": "decode",
        "count": 1,
        "lane": message.subject.rpartition(".")[2],
        "ring": "",
        "reason": f"{what} on {message.subject} cannot be shown: {error}",
    }
