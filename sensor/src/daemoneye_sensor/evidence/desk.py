"""A node's evidence beside everything else that its sensor does: served while a policy allows it and there is a connection to the broker.

Responsible for when the service runs; what it does is :mod:`daemoneye_sensor.evidence.service`'s. Nothing that goes wrong here ends the sensor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Final

from nats.aio.client import Client

from daemoneye.ending import end
from daemoneye.metrics import Sample
from daemoneye.nodeconfig import NodeConfig
from daemoneye_sensor import procfs
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence import dissecting, measures, service
from daemoneye_sensor.evidence.keeper import Keeper
from daemoneye_sensor.packets.oddities import Oddities

_LATE_S: Final = 1.5
"""A frame lies in its ring until the capture reads it: 0.9 s, a turn of 0.3 s, and 0.25 s until the kernel hands over a block that is not full."""
_log = logging.getLogger(__name__)


class Desk:
    """One node's.

    Attributes:
        keeper: What the capture shows its frames to.
        oddities: What it shows packets to that no parser could read or knows.
    """

    def __init__(self, node: str) -> None:
        self.keeper = Keeper(late=_LATE_S)
        self.oddities = Oddities()
        self._dissector = Dissector()
        self._service = service.Service(node, self.keeper, self._dissector, clock_offset_ns=procfs.clock_offset_ns)
        self._client: Client | None = None
        self._wanted = False
        self._serving: asyncio.Task[None] | None = None
        self._taking_apart: asyncio.Task[None] | None = None

    def samples(self) -> Iterator[Sample]:
        """What metrics say of it."""
        return measures.samples(self.keeper, self._service, self.oddities, self._dissector)

    def connected(self, client: Client) -> None:
        """Go on with a new connection."""
        self._client = client
        self._serve()

    def configured(self, config: NodeConfig) -> None:
        """Another configuration holds."""
        self.want(wanted=service.wanted(config))

    def want(self, *, wanted: bool) -> None:
        """Whether packets are kept from now on."""
        self.keeper.enable(on=wanted)
        if wanted != self._wanted:
            self._wanted = wanted
            self._serve()
        if wanted and self._taking_apart is None:
            self._taking_apart = asyncio.create_task(dissecting.run(self._dissector, self.oddities), name="dissecting")
            self._taking_apart.add_done_callback(partial(_ended, "odd packets are not taken apart any more"))

    async def close(self) -> None:
        """End the service and the process that writes files."""
        await end([task for task in (self._serving, self._taking_apart) if task])
        await self._dissector.close()

    def _serve(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None
        if self._wanted and self._client is not None:
            self._serving = asyncio.create_task(self._service.run(self._client), name="evidence")
            self._serving.add_done_callback(partial(_ended, "evidence is not served until there is another connection"))


def _ended(what: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("%s: %s", what, error, exc_info=error)
