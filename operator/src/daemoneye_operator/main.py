"""`daemoneye_operator run`: the operator's process.

Responsible for putting its parts together, for the order of its start and for its end. kopf runs in a thread with a loop of its own: at its end it
cancels every task of its loop, ours must not be among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final

import kopf

from daemoneye import health
from daemoneye.broker.link import TRANSIENT, Link
from daemoneye.errors import DaemonEyeError
from daemoneye_operator import handlers, kube, resources, secretstore
from daemoneye_operator.bus import Bus
from daemoneye_operator.cache import Cache
from daemoneye_operator.controller import Controller, Ledger, Watches
from daemoneye_operator.errors import ApiError
from daemoneye_operator.findingsink import FindingSink
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.reconcile.findings import Aggregation, Limits
from daemoneye_operator.reconcile.nodes import Heartbeats
from daemoneye_operator.sensors import Sensors
from daemoneye_operator.settings import OperatorSettings
from daemoneye_operator.watch import Watch

_RETRY_S: Final = 2.0
_BLIND_S: Final = 900.0
_SECRETS_EVERY_S: Final = 3600.0
_FINISH_S: Final = 5.0
_CANCELLATIONS: Final = 10
_CANCEL_S: Final = 1.0
_log = logging.getLogger(__name__)


async def serve(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        MachineError: There is no way to the API server.
        DaemonEyeError: kopf ended by itself.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    api = Kube(kube.client())
    operator = _Operator(settings, api, stop)
    try:
        await _until(stop, operator.run())
        await operator.finish()
    finally:
        api.close()


class _Operator:
    """The parts, in the order in which they come up."""

    def __init__(self, settings: OperatorSettings, api: Kube, stop: asyncio.Event) -> None:
        self._settings = settings
        self._api = api
        self._stop = stop
        self._controller: Controller | None = None
        self._bus: Bus | None = None
        self._sink: FindingSink | None = None
        self._secrets = secretstore.Secrets({})
        self._watches: tuple[Watch, ...] = ()
        self._starting = "waiting for the API server"

    async def run(self) -> None:
        async with (
            health.serving(self._settings.health_port, alive=self._alive, ready=self._ready),
            asyncio.TaskGroup() as group,
        ):
            await self._start(group)

    async def finish(self) -> None:
        """What is still to be said before the process ends, for seconds at most."""
        if self._controller is not None:
            with contextlib.suppress(DaemonEyeError, TimeoutError, *TRANSIENT):
                async with asyncio.timeout(_FINISH_S):
                    await self._controller.finish()

    async def _start(self, group: asyncio.TaskGroup) -> None:
        settings, api = self._settings, self._api
        cluster_uid = await self._patiently("the cluster's id", self._cluster_uid)
        heartbeats, ledger = Heartbeats(), Ledger()
        changed = _Later()
        cache = Cache(changed)
        watches = Watches(api, settings, changed)
        self._watches = watches.all
        for watch in watches.all:
            group.create_task(watch.run())
        await self._patiently("our resources", lambda: cache.resync(api))
        aggregation = Aggregation(
            Limits(settings.findings.max_objects, settings.findings.max_age, settings.findings.creations_per_minute),
            settings.namespace,
            labels={"app.kubernetes.io/instance": settings.release},
            instance=os.environ.get("DAEMONEYE_POD", ""),
        )
        await self._patiently("findings", lambda: self._seed(aggregation))
        await asyncio.wait([asyncio.ensure_future(watch.synced.wait()) for watch in watches.all])
        bus = self._bus = Bus(settings, heartbeats, changed)
        controller = self._controller = Controller(
            api, settings, cache=cache, watches=watches, bus=bus, heartbeats=heartbeats,
            sensors=Sensors(api, settings, cluster_uid), ledger=ledger,
        )  # fmt: skip
        changed.target = controller.changed
        # Its own threads: a flood of findings must not keep statuses and sensors waiting.
        sink = self._sink = FindingSink(
            Kube(api.api, at_once=4), aggregation, ledger.exceptions, ledger.tallies, changed
        )
        watches.finding_gone = sink.gone
        self._secrets = await self._patiently(
            "the broker's Secrets", lambda: secretstore.ensure(api, settings, watches.owner())
        )
        link = Link(lambda: secretstore.access(settings, self._secrets, "operator"), "daemoneye-operator", self._stop)
        group.create_task(bus.run(link))
        group.create_task(controller.run())
        group.create_task(_findings(bus, sink))
        group.create_task(self._resync(cache, controller))
        group.create_task(self._keep_secrets(watches))
        group.create_task(self._kopf(cache))
        self._starting = ""

    async def _cluster_uid(self) -> str:
        found = await self._api.get(path_of(resources.CORE, "namespaces", "kube-system"))
        return str(found["metadata"]["uid"]) if found else "unknown"

    async def _seed(self, aggregation: Aggregation) -> None:
        objects, _ = await self._api.list(resources.ours(resources.FINDINGS))
        aggregation.seed(objects)

    async def _resync(self, cache: Cache, controller: Controller) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            with contextlib.suppress(ApiError):  # the next one will do
                await cache.resync(self._api)
                controller.resynced()

    async def _keep_secrets(self, watches: Watches) -> None:
        """Certificates are renewed long before their end, and a Secret that somebody deleted is made again."""
        while True:
            await asyncio.sleep(_SECRETS_EVERY_S)
            with contextlib.suppress(DaemonEyeError):  # said when it was tried, and the next time
                self._secrets = await secretstore.ensure(self._api, self._settings, watches.owner())

    async def _kopf(self, cache: Cache) -> None:
        """Kopf's thread, as a task that ends with it.

        Raises:
            DaemonEyeError: It ended by itself.
        """
        loop = asyncio.get_running_loop()
        ending = threading.Event()

        def run() -> None:
            registry = handlers.registry(handlers.Across(loop, cache))
            with asyncio.Runner() as runner:
                runner.run(
                    kopf.operator(
                        registry=registry,
                        settings=handlers.settings(),
                        standalone=True,
                        clusterwide=True,
                        stop_flag=ending,
                    )
                )

        try:
            await asyncio.to_thread(run)
        finally:
            ending.set()
        if not self._stop.is_set():
            raise DaemonEyeError("kopf ended by itself; the pod is started anew")

    async def _patiently(self, what: str, work: Any) -> Any:
        """The result of some work, tried until the API server gives it; refusals are logged, for a role may be missing."""
        logged = float("-inf")
        while True:
            try:
                return await work()
            except DaemonEyeError as error:
                self._starting = f"{what}: {error}"
                if time.monotonic() - logged > 60:
                    logged = time.monotonic()
                    _log.warning("%s", self._starting)
                await asyncio.sleep(_RETRY_S)

    def _alive(self) -> dict[str, Any]:
        """Dead is who sees nothing: a watch that neither heard anything nor asked is blind. An API server that is away is no reason to end."""
        now = time.monotonic()
        blind = sum(now - watch.last_tried > _BLIND_S for watch in self._watches)
        return {"ok": not blind, "blind": blind}

    def _ready(self) -> dict[str, Any]:
        bus, controller = self._bus, self._controller
        broker = bus is not None and bus.connected
        return {
            "ok": not self._starting and broker and controller is not None and controller.passes > 0,
            "starting": self._starting,
            "broker": "connected" if broker else (bus.trouble if bus else "not connected yet"),
            "trouble": controller.trouble if controller else "",
            "analytics": "heard of" if bus and bus.analytics_heard else "not heard of yet",
            "findings": self._sink.counters() if self._sink else {},
        }


class _Later:
    """A callback whose target comes later: the parts know each other in a ring."""

    def __init__(self) -> None:
        self.target: Any = None

    def __call__(self) -> None:
        if self.target is not None:
            self.target()


async def _findings(bus: Bus, sink: FindingSink) -> None:
    while True:
        await bus.ready.wait()
        if bus.client is not None:
            await sink.run(bus.client)
        await asyncio.sleep(_RETRY_S)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run until told to stop, or until the work fails."""
    running, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():
        # nats-py waits by asyncio.wait_for, which can swallow a cancellation: it is asked more than once.
        for _ in range(_CANCELLATIONS):
            running.cancel()
            if (await asyncio.wait({running}, timeout=_CANCEL_S))[0]:
                break
        return
    try:
        await running
    except* DaemonEyeError as group:
        raise group.exceptions[0] from None
