"""Batches as the command line shows them, whatever release wrote them.

Responsible for what of a newer sensor's batch this release can show, and for a loss in place of what it cannot; not for learning schemas
(:mod:`daemoneye.broker.schemas`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from nats.aio.client import Client

from daemoneye.broker.schemas import Schemas
from daemoneye.envelope import Batch
from daemoneye.events.registry import BY_NAME
from daemoneye_cli.tally import now_rfc3339

_TRIES: Final = 3
"""Somebody waits, and a broker that gives the batches and not the descriptors will not give them later either."""


class Batches:
    """Reads batches from one broker; ``tell`` gets a sentence for each schema of a newer release."""

    def __init__(self, client: Client, tell: Callable[[str], None]) -> None:
        self._schemas = Schemas(client.jetstream(timeout=5), tell=tell, tries=_TRIES)

    async def read(self, data: bytes) -> tuple[Batch, list[dict[str, Any]]]:
        """Give the batch without the rows of records that this release does not know, and a loss for each such record.

        Raises :class:`CorruptData` if it is none, or of a schema that cannot be learned.
        """
        batch = await self._schemas.decode(data)
        known = tuple(section for section in batch.sections if section.record.name in BY_NAME)
        return replace(batch, sections=known), [
            {
                "kind": "loss",
                "node": batch.envelope.node,
                "time": now_rfc3339(),
                "stage": "decode",
                "count": len(section.rows),
                "lane": batch.envelope.lane,
                "ring": "",
                "reason": f"events {section.record.name} of a newer release cannot be shown",
            }
            for section in batch.sections
            if section.record.name not in BY_NAME and not section.context
        ]
