"""Batches of newer sensors: schemas that this release does not know are read by the descriptors that the broker keeps.

Responsible for learning them and for saying so once. Rows of a record that there is here become today's by field id (`daemoneye.events.former`); what
this release has no name for is passed over. A schema without a usable descriptor stays refused, and is asked for again after ten minutes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nats.js import JetStreamContext

from daemoneye import envelope
from daemoneye.broker import descriptors
from daemoneye.broker.link import TRANSIENT
from daemoneye.envelope import Batch
from daemoneye.errors import CorruptData, UnknownSchema
from daemoneye.events.registry import BY_NAME, READABLE
from daemoneye.events.schema import Record

_LOG = logging.getLogger(__name__)
_MOST: Final = 256
"""Schemas of each kind that are remembered: a hostile sensor can think of many."""
_SHOWN: Final = 64
_AGAIN_S: Final = 600.0
_TRIES: Final = 30
_PAUSE_S: Final = 1.0


class Schemas:
    """Decodes batches."""

    def __init__(
        self,
        jetstream: JetStreamContext,
        *,
        tell: Callable[[str], None] = _LOG.warning,
        complain: Callable[[str], None] = lambda _: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tries: int = _TRIES,
    ) -> None:
        """Nothing is asked before a batch needs it.

        Args:
            jetstream: Where the descriptors are.
            tell: Gets a sentence for each schema that is learned.
            complain: Gets one for each time that the broker does not answer.
            pause: Waits so many seconds before the broker is asked again; what it raises ends the decoding.
            tries: Times that a broker is asked that does not answer, before the schema is refused.
        """
        self._jetstream = jetstream
        self._tell = tell
        self._complain = complain
        self._pause = pause
        self._tries = tries
        self._learned: dict[str, Record] = {}
        self._known = READABLE
        self._refused: dict[str, tuple[float, str]] = {}
        self._told: set[str] = set()

    async def decode(self, data: bytes) -> Batch:
        """A batch, after a look at the broker if it is of schemas that are not known.

        Raises:
            CorruptData: It is none, or of a schema that cannot be learned; the message says why.
        """
        try:
            return envelope.decode(data, self._known)
        except UnknownSchema as error:
            for schema in error.schemas:
                if reason := await self._learn(schema):
                    raise CorruptData(f"{error} ({reason})") from error
        return envelope.decode(data, self._known)

    def status(self) -> list[str]:
        """The newest of what was learned, as record and hash."""
        return [f"{record.name} {schema}" for schema, record in list(self._learned.items())[-_SHOWN:]]

    async def _learn(self, schema: str) -> str:
        """Have a schema among the known ones; why not, if not."""
        since, reason = self._refused.get(schema, (0.0, ""))
        if reason and time.monotonic() - since < _AGAIN_S:
            return reason
        reason = "the broker does not give its descriptor"
        for _ in range(self._tries):
            try:
                record = await descriptors.read(self._jetstream, schema)
            except CorruptData as error:
                reason = str(error)
                break
            except TRANSIENT as error:
                self._complain(f"cannot read the descriptor of schema {schema}: {error!r}")
                await self._pause(_PAUSE_S)
                continue
            if record is None:
                reason = "the broker has no descriptor of it"
                break
            self._take(schema, record)
            return ""
        self._refused[schema] = time.monotonic(), reason
        _bound(self._refused)
        return reason

    def _take(self, schema: str, record: Record) -> None:
        self._refused.pop(schema, None)
        self._learned[schema] = record
        _bound(self._learned)
        self._known = {**self._learned, **READABLE}
        if schema not in self._told and len(self._told) < _MOST:
            self._told.add(schema)
            self._tell(f"sensors of a newer release write schema {schema} of {record.name!r}: {_difference(record)}")


def _difference(record: Record) -> str:
    today = BY_NAME.get(record.name)
    if today is None:
        return "this release does not know the record; its rows are counted and passed over"
    ours, theirs = ({field.id: field.name for field in each.fields} for each in (today, record))
    unread = ", ".join(name for number, name in theirs.items() if number not in ours)
    absent = ", ".join(name for number, name in ours.items() if number not in theirs)
    return f"not read: {unread or 'nothing'}; not there, and 0 or empty here: {absent or 'nothing'}"


def _bound(table: dict[str, Any]) -> None:
    """Forget what came first."""
    while len(table) > _MOST:
        del table[next(iter(table))]
