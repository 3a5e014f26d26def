"""The identity publisher: what Kubernetes knows of each pod, on its way to the pod's node before the pod's first process runs.

Responsible for the process: two watches, one connection, health, and their end; not for the document (:mod:`daemoneye.podidentity`) nor for
making the bucket, which is the operator's. One publisher an installation, one at a time (the chart's Deployment is `Recreate`): of two, the one
whose watch is behind could write over what the other said, and neither would notice before the pod changes again.

========= =====================================================
module    is about
========= =====================================================
publisher which keys of the bucket say what, and which must go
measures  its metrics
========= =====================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from kubernetes.client import ApiClient
from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye.broker.bucket import Bucket
from daemoneye.broker.link import Link
from daemoneye.exposition import Exposition
from daemoneye.health import serving
from daemoneye_operator import selfreport, sight, version
from daemoneye_operator.ending import run_until
from daemoneye_operator.errors import ApiError
from daemoneye_operator.identity import measures
from daemoneye_operator.identity.publisher import Publisher
from daemoneye_operator.kube import Kube
from daemoneye_operator.settings import OperatorSettings

_NAME: Final = "daemoneye-identity"
_BACKLOG: Final = 1000
_LOOK_S: Final = 1.0
_ASK_S: Final = 60.0
_ASK_WITHIN: Final = (5.0, 10.0)
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
    kube, seen = Kube(api, at_once=1), sight.Sight()
    page = Exposition(measures.COMPONENT, version(), lambda: measures.samples(publisher)).page
    try:
        async with serving(
            settings.health_port,
            alive=lambda: _alive(publisher, seen, kube.requests.answered),
            ready=lambda: _ready(publisher),
            metrics=page,
        ):
            await run_until(
                stop, *publisher.parts(), _keep(link, publisher, settings.sensor.status_interval_seconds), _ask(kube)
            )
    finally:
        kube.close()


async def _ask(kube: Kube) -> None:
    """Whether the API server answers at all, every minute: who sees nothing while it does is blind."""
    while True:
        with contextlib.suppress(ApiError):  # counted
            await kube.get("/version", within=_ASK_WITHIN)
        await asyncio.sleep(_ASK_S)


async def _keep(link: Link, publisher: Publisher, every: float) -> None:
    """A connection for the publisher; a new one where the former stays away."""
    while (client := await link.connect()) is not None:
        _log.info("connected to the broker")
        publisher.bucket = Bucket(client, subjects.NODES_BUCKET)
        publisher.look()
        telling = asyncio.create_task(selfreport.tell(measures.COMPONENT, _always(client), every))
        try:
            heard = time.monotonic()
            while time.monotonic() - heard < _AWAY_S:
                await asyncio.sleep(_LOOK_S)
                if client.is_connected:
                    heard = time.monotonic()
        finally:
            telling.cancel()
            publisher.bucket = None
            await link.close(client)


def _always(client: Client) -> Callable[[], Client]:
    return lambda: client


def _alive(publisher: Publisher, seen: sight.Sight, answered: float) -> dict[str, Any]:
    """Dead is who sees nothing. An API server that is away is no reason to end, nor is one that refuses."""
    watches = (publisher.pods, publisher.namespaces)
    blind = seen.look(time.monotonic(), answered, {watch.resource: watch.last_heard for watch in watches})
    return sight.verdict(blind, watches)


def _ready(publisher: Publisher) -> dict[str, Any]:
    state = {
        "broker": publisher.connected,
        "bucket": publisher.compared,
        "pods": publisher.pods.synced.is_set(),
        "namespaces": publisher.namespaces.synced.is_set(),
    }
    return {"ok": all(state.values()) and publisher.backlog < _BACKLOG, **state, "backlog": publisher.backlog}
