"""`daemoneye_operator run`: the operator's process.

Responsible for putting its parts together, for the order of its start and for its end. kopf runs in a thread with a loop of its own: at its end it
cancels every task of its loop, ours must not be among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from typing import Any, Final

import kopf

from daemoneye import health, metrics
from daemoneye.broker.link import TRANSIENT, Link
from daemoneye.errors import DaemonEyeError
from daemoneye.exposition import Exposition, histogram
from daemoneye_operator import handlers, kube, measures, resources, secretstore, selfreport, sight, version
from daemoneye_operator.brokerlook import BrokerLook
from daemoneye_operator.bus import Bus
from daemoneye_operator.cache import Cache
from daemoneye_operator.controller import Controller, Watches
from daemoneye_operator.ending import on_signals, run_until
from daemoneye_operator.errors import ApiError
from daemoneye_operator.findingsink import FindingSink
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.pulse import Pulse
from daemoneye_operator.reconcile.findings import Aggregation, Limits
from daemoneye_operator.sensors import Sensors
from daemoneye_operator.settings import OperatorSettings

_RETRY_S: Final = 2.0
_FINISH_S: Final = 5.0
_MINUTE: Final = 60.0
_KOPF: Final = "kopf"
_LEASE: Final = "the operator's Lease"
_SECRETS: Final = "the broker's Secrets"
_log = logging.getLogger(__name__)


async def serve(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        MachineError: There is no way to the API server.
        DaemonEyeError: kopf ended by itself.
    """
    stop = on_signals()
    api = Kube(kube.client())
    operator = _Operator(settings, api, stop)
    try:
        await run_until(stop, operator.run())
        await operator.finish()
    except ExceptionGroup as group:
        ours, others = group.split(DaemonEyeError)
        if ours is None or others is not None:
            raise
        raise ours.exceptions[0] from None
    finally:
        api.close()


class _Operator:
    """The parts, in the order in which they come up."""

    def __init__(self, settings: OperatorSettings, api: Kube, stop: asyncio.Event) -> None:
        self._settings = settings
        self._api = api
        self._stop = stop
        self._changed = _Later()
        self._parts = measures.Parts(settings, api, Cache(self._changed))
        self._passes = histogram(metrics.OPERATOR_PASS_SECONDS)
        self._sight = sight.Sight({_KOPF: sight.UNTOLD_S, _LEASE: sight.LEASE_S})
        self._pulse: Pulse | None = None
        self._kopf_since = float("inf")
        self._starting = "waiting for the API server"
        self._secrets_trouble = ""
        self._secrets_logged = float("-inf")

    async def run(self) -> None:
        page = Exposition(measures.COMPONENT, version(), lambda: measures.samples(self._parts), [self._passes]).page
        async with (
            health.serving(self._settings.health_port, alive=self._alive, ready=self._ready, metrics=page),
            asyncio.TaskGroup() as group,
        ):
            await self._start(group)

    async def finish(self) -> None:
        """What is still to be said before the process ends, for seconds at most."""
        controller = self._parts.controller
        if controller is not None:
            with contextlib.suppress(DaemonEyeError, TimeoutError, *TRANSIENT):
                async with asyncio.timeout(_FINISH_S):
                    await controller.finish()

    async def _start(self, group: asyncio.TaskGroup) -> None:
        settings, api, parts, changed = self._settings, self._api, self._parts, self._changed
        cluster_uid = await self._patiently("the cluster's id", self._cluster_uid)
        watches = parts.watches = Watches(api, settings, changed)
        pod = os.environ.get("DAEMONEYE_POD", "")
        pulse = self._pulse = Pulse(api, settings, watches, pod)
        parts.followed = (*watches.all, pulse.watch)
        for watch in parts.followed:
            group.create_task(watch.run())
        await self._patiently("our resources", lambda: parts.cache.resync(api))
        aggregation = parts.aggregation = Aggregation(
            Limits(settings.findings.max_objects, settings.findings.max_age, settings.findings.creations_per_minute),
            settings.namespace,
            labels={"app.kubernetes.io/instance": settings.release},
            instance=pod,
        )
        await self._patiently("findings", lambda: self._seed(aggregation))
        await self._first_lists(watches)
        group.create_task(pulse.run())
        bus = parts.bus = Bus(settings, parts.heartbeats, changed)
        controller = parts.controller = Controller(
            api, settings, cache=parts.cache, watches=watches, bus=bus, heartbeats=parts.heartbeats,
            sensors=Sensors(api, settings, cluster_uid), ledger=parts.ledger,
        )  # fmt: skip
        controller.observe = self._passes.observe
        changed.target = controller.changed
        # Its own threads: a flood of findings must not keep statuses and sensors waiting.
        sink = parts.sink = FindingSink(
            api.beside(at_once=4), aggregation, parts.ledger.exceptions, parts.ledger.tallies, changed
        )
        watches.finding_gone = sink.gone
        parts.secrets = await self._patiently(_SECRETS, lambda: secretstore.ensure(api, settings, watches.owner()))
        self._complain(parts.secrets.trouble)
        link = Link(lambda: secretstore.access(settings, parts.secrets, "operator"), "daemoneye-operator", self._stop)
        broker = parts.broker = BrokerLook(bus)
        group.create_task(bus.run(link))
        group.create_task(
            selfreport.tell(measures.COMPONENT, lambda: bus.client, settings.sensor.status_interval_seconds)
        )
        group.create_task(broker.run())
        group.create_task(controller.run())
        group.create_task(_findings(bus, sink))
        group.create_task(self._resync(controller))
        group.create_task(self._keep_secrets(watches))
        group.create_task(self._kopf())
        self._starting = ""

    async def _first_lists(self, watches: Watches) -> None:
        for watch in watches.all:
            self._starting = f"waiting for the first list of {watch.resource}: if it is refused, the log says why"
            await watch.synced.wait()

    async def _cluster_uid(self) -> str:
        found = await self._api.get(path_of(resources.CORE, "namespaces", "kube-system"))
        return str(found["metadata"]["uid"]) if found else "unknown"

    async def _seed(self, aggregation: Aggregation) -> None:
        objects, _ = await self._api.list(resources.ours(resources.FINDINGS))
        aggregation.seed(objects)

    async def _resync(self, controller: Controller) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            with contextlib.suppress(ApiError):  # the next one will do
                await self._parts.cache.resync(self._api)
                controller.resynced()

    async def _keep_secrets(self, watches: Watches) -> None:
        """Certificates are renewed long before their end, and a Secret that somebody deleted is made again."""
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                self._parts.secrets = await secretstore.ensure(self._api, self._settings, watches.owner())
            except DaemonEyeError as error:
                self._complain(f"{_SECRETS}: {error}")
            else:
                self._complain(self._parts.secrets.trouble)

    def _complain(self, trouble: str) -> None:
        """What is wrong with the broker's Secrets, empty if nothing is: for /readyz, and once a minute for the log."""
        if trouble and (trouble != self._secrets_trouble or time.monotonic() - self._secrets_logged > _MINUTE):
            self._secrets_logged = time.monotonic()
            _log.warning("%s", trouble)
        self._secrets_trouble = trouble

    async def _kopf(self) -> None:
        """Kopf's thread, as a task that ends with it.

        Raises:
            DaemonEyeError: It ended by itself.
        """
        loop = asyncio.get_running_loop()
        ending = threading.Event()

        def run() -> None:
            registry = handlers.registry(handlers.Across(loop, self._parts.cache))
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

        self._kopf_since = time.monotonic()
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
                if time.monotonic() - logged > _MINUTE:
                    logged = time.monotonic()
                    _log.warning("%s", self._starting)
                await asyncio.sleep(_RETRY_S)

    def _alive(self) -> dict[str, Any]:
        """Dead is who sees nothing. An API server that is away is no reason to end, nor is one that refuses."""
        now = time.monotonic()
        watches = self._parts.followed
        since = {watch.resource: watch.last_heard for watch in watches}
        if self._pulse is not None:
            unseen = self._pulse.unseen_since()
            since[_LEASE] = now if unseen is None else unseen
        untold = self._parts.cache.untold_since()
        # What was listed before kopf began, it has to tell from then on.
        since[_KOPF] = now if untold is None or now < self._kopf_since else max(untold, self._kopf_since)
        return sight.verdict(self._sight.look(now, self._api.requests.answered, since), watches)

    def _ready(self) -> dict[str, Any]:
        bus, controller, sink = self._parts.bus, self._parts.controller, self._parts.sink
        broker = bus is not None and bus.connected
        return {
            "ok": not self._starting and broker and controller is not None and controller.passes > 0,
            "starting": self._starting,
            "broker": "connected" if broker else (bus.trouble if bus else "not connected yet"),
            "trouble": controller.trouble if controller else "",
            "secrets": self._secrets_trouble,
            "analytics": "heard of" if bus and bus.judges.heard else "not heard of yet",
            "findings": sink.counters() if sink else {},
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
