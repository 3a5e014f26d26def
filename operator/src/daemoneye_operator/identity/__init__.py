"""The identity publisher: what Kubernetes knows of each pod, on its way to the pod's node before the pod's first process runs.

Responsible for the process: two watches, one connection, health, and their end; not for the document (:mod:`daemoneye.podidentity`) nor for
making the bucket, which is the operator's. One publisher an installation, one at a time (the chart's Deployment is `Recreate`): of two, the one
whose watch is behind could write over what the other said, and neither would notice before the pod changes again.

========= =====================================================
module    is about
========= =====================================================
publisher which keys of the bucket say what, and which must go
bucket    the requests to the broker for one key, and for all
========= =====================================================
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

from kubernetes.client import ApiClient

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye.broker.bucket import Bucket
from daemoneye.broker.link import Link
from daemoneye.health import serving
from daemoneye_operator.identity.publisher import Publisher
from daemoneye_operator.settings import OperatorSettings

_NAME: Final = "daemoneye-identity"
_SILENT_S: Final = 600.0
_BACKLOG: Final = 1000
_LOOK_S: Final = 1.0
_END_S: Final = 1.0
# nats-py goes on for ever with the password and the authority that it began with; these may be others by now.
_AWAY_S: Final = 30.0

_log = logging.getLogger(__name__)


async def serve(settings: OperatorSettings, access: Access, api: ApiClient, stop: asyncio.Event) -> None:
    """Publish until `stop`.

    Raises:
        ConfigError: The broker's credentials cannot be read.
        OSError: The port of health is taken.
    """
    publisher = Publisher(api)
    link = Link(access, _NAME, stop)
    link.on_reconnect = publisher.look
    async with serving(settings.health_port, alive=lambda: _alive(publisher), ready=lambda: _ready(publisher)):
        await _together(stop, *publisher.parts(), _keep(link, publisher))


async def _together(stop: asyncio.Event, *parts: Coroutine[Any, Any, None]) -> None:
    """Run all until `stop`, or until one fails, whose error it is then."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    ending = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([*tasks, ending], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        while pending := [task for task in tasks if not task.done()]:
            # Once is not enough: asyncio.wait_for, which nats-py uses, forgets a cancellation that comes together with its result (Python 3.11).
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=_END_S)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _keep(link: Link, publisher: Publisher) -> None:
    """A connection for the publisher; a new one where the former stays away."""
    while (client := await link.connect()) is not None:
        _log.info("connected to the broker")
        publisher.bucket = Bucket(client, subjects.NODES_BUCKET)
        publisher.look()
        try:
            heard = time.monotonic()
            while time.monotonic() - heard < _AWAY_S:
                await asyncio.sleep(_LOOK_S)
                if client.is_connected:
                    heard = time.monotonic()
        finally:
            publisher.bucket = None
            await link.close(client)


def _alive(publisher: Publisher) -> dict[str, Any]:
    silent = time.monotonic() - min(publisher.pods.last_tried, publisher.namespaces.last_tried)
    return {"ok": silent < _SILENT_S, "silent_s": round(silent)}


def _ready(publisher: Publisher) -> dict[str, Any]:
    state = {
        "broker": publisher.bucket is not None and publisher.bucket.connected,
        "bucket": publisher.compared,
        "pods": publisher.pods.synced.is_set(),
        "namespaces": publisher.namespaces.synced.is_set(),
    }
    return {"ok": all(state.values()) and publisher.backlog < _BACKLOG, **state, "backlog": publisher.backlog}
