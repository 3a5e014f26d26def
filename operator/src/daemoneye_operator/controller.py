"""The one level-based pass: from everything that is known to everything that is to be so.

Responsible for the order of a pass and for when there is one: every change wakes it, changes that come together cost one. What is decided is in
`reconcile`, what is written by whom in the modules that it calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemoneye.broker.link import TRANSIENT
from daemoneye.errors import DaemonEyeError
from daemoneye_operator import resources
from daemoneye_operator.bus import Bus
from daemoneye_operator.cache import Cache
from daemoneye_operator.configs import ConfigPublisher
from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import Kube
from daemoneye_operator.reconcile import analytics, daemonset, policies, selection, sensorpods
from daemoneye_operator.reconcile.exception import Exceptions
from daemoneye_operator.reconcile.findingobject import Ref
from daemoneye_operator.reconcile.merge import cluster_conflicts
from daemoneye_operator.reconcile.nodes import Heartbeats
from daemoneye_operator.reconcile.policies import Policies
from daemoneye_operator.reconcile.selection import Plan
from daemoneye_operator.reconcile.status import World
from daemoneye_operator.reconcile.tally import Tallies
from daemoneye_operator.sensors import Sensors
from daemoneye_operator.settings import OperatorSettings
from daemoneye_operator.statuses import Statuses
from daemoneye_operator.watch import DELETED, Watch

UNINSTALL_ANNOTATION: Final = "daemoneye.io/uninstall"
_PAUSE_S: Final = 0.1
_RETRY_S: Final = 2.0
_MINUTE: Final = 60.0
_log = logging.getLogger(__name__)


class Watches:
    """What is followed without kopf: nodes, Findings, and what is in the release's namespace.

    Attributes:
        finding_gone: Called with each Finding that was deleted, by whomever.
    """

    def __init__(self, kube: Kube, settings: OperatorSettings, changed: Callable[[], None]) -> None:
        self._installed = self._uninstalling = False
        self.finding_gone: Callable[[Ref], None] = lambda _: None
        base = f"{resources.APPS}/namespaces/{settings.namespace}"
        labels = ",".join(f"{key}={value}" for key, value in daemonset.selector_labels(settings).items())
        self.nodes = Watch(kube.api, f"{resources.CORE}/nodes", project=_node, on_change=changed)
        self.daemonset = Watch(
            kube.api, f"{base}/daemonsets", fields=f"metadata.name={daemonset.name(settings)}", on_change=changed
        )
        self.deployment = Watch(
            kube.api, f"{base}/deployments", fields=f"metadata.name={settings.fullname}-operator", project=_deployment,
            on_change=changed,
        )  # fmt: skip
        self.findings = Watch(
            kube.api, resources.ours(resources.FINDINGS), project=lambda _: None, on_event=self._finding
        )  # fmt: skip
        self.pods = Watch(
            kube.api, f"{resources.CORE}/namespaces/{settings.namespace}/pods", labels=labels,
            project=sensorpods.project, on_change=changed,
        )  # fmt: skip

    @property
    def all(self) -> tuple[Watch, ...]:
        """Every one of them."""
        return self.nodes, self.daemonset, self.deployment, self.pods, self.findings

    def _finding(self, kind: str, key: tuple[str, str], _: Any) -> None:
        if kind == DELETED:
            self.finding_gone(Ref(*key))

    def owner(self) -> dict[str, Any] | None:
        """The operator's Deployment as an ownerReference; None outside of a cluster."""
        found = next(iter(self.deployment.objects.values()), None)
        if found is None:
            return None
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": found["name"], "uid": found["uid"]}

    def uninstalling(self) -> bool:
        """Whether the release is about to go, or went while our pod has not ended yet."""
        found = list(self.deployment.objects.values())
        if found:
            self._installed, self._uninstalling = True, any(one["uninstall"] for one in found)
        return self._uninstalling

    def orphaned(self) -> bool:
        """Whether our Deployment is gone without a word: replaced, or removed without hooks. Then nothing is to be made or taken away."""
        return self.deserted() and not self.uninstalling()

    def deserted(self) -> bool:
        """Whether our Deployment was there and is gone: what is made now would be owned by nobody, and stay."""
        self.uninstalling()
        return self._installed and not self.deployment.objects


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a pass shares with who stores findings: exceptions that silence them, and the count of each policy."""

    exceptions: Exceptions = field(default_factory=Exceptions)
    tallies: Tallies = field(default_factory=Tallies)


class Controller:
    """Everything that a pass needs.

    Attributes:
        passes: How many there were.
        failed: How many of them failed at something.
        observe: Called with the seconds that each took.
        plan: What the last one wanted of each node.
        trouble: What the last one failed at; empty when it did not.
    """

    def __init__(
        self,
        kube: Kube,
        settings: OperatorSettings,
        *,
        cache: Cache,
        watches: Watches,
        bus: Bus,
        heartbeats: Heartbeats,
        sensors: Sensors,
        ledger: Ledger,
    ) -> None:
        self.passes = self.failed = 0
        self.observe: Callable[[float], None] = lambda _: None
        self.plan = Plan()
        self.trouble = ""
        self._settings = settings
        self._cache = cache
        self._watches = watches
        self._bus = bus
        self._heartbeats = heartbeats
        self._sensors = sensors
        self._exceptions = ledger.exceptions
        self._tallies = ledger.tallies
        self._configs = ConfigPublisher(bus)
        self._statuses = Statuses(kube, cache)
        self._policies, self._policies_of, self._exceptions_of = Policies(), -1, -1
        self._wake = asyncio.Event()
        self._logged = float("-inf")
        self._traced: set[tuple[type[Exception], str, int | None]] = set()

    def changed(self) -> None:
        """Something is not as it was: there is to be a pass."""
        self._wake.set()

    def resynced(self) -> None:
        """Everything was read anew: children are applied again, too."""
        self._sensors.forget()
        self.changed()

    async def finish(self) -> None:
        """Write what statuses have not said yet: counts wait up to a minute otherwise."""
        await self._statuses.write_counts(self._read()[0], self._tallies)

    async def run(self) -> None:
        """Pass after pass until cancelled. Without changes there is one a heartbeat: silence is news that nobody sends."""
        while True:
            self._wake.clear()
            began = time.monotonic()
            again = False
            try:
                await self.once(time.time())
                self.trouble = ""
            except (ApiError, DaemonEyeError, *TRANSIENT) as error:
                self._failed(error)
                again = True
            except Exception as error:  # noqa: BLE001 - one bad object must not end the operator; it is told and tried again
                self._failed(error, unexpected=True)
            self.passes += 1
            self.observe(time.monotonic() - began)
            await asyncio.sleep(_RETRY_S if self.trouble else _PAUSE_S)
            if again:
                self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.sensor.status_interval_seconds):
                    await self._wake.wait()

    async def once(self, now: float) -> None:
        """One pass.

        Raises:
            ApiError: The API server did not take something.
            TRANSIENT: The broker did not.
        """
        uninstalling = self._watches.uninstalling()
        if self._watches.orphaned():
            return
        read, known = self._read()
        there = next(iter(self._watches.daemonset.objects.values()), None)
        wanted = known and not uninstalling
        tolerations = selection.tolerations(read.valid)
        plan = self.plan = self._plan(read, tolerations) if wanted else self._removal(there)
        trouble: list[Exception] = []
        # A broker that is away must keep neither children nor statuses from being right.
        if self._bus.connected:
            await _tried(self._configs.publish(plan, self._analytics(read, now)), trouble)
        if wanted:
            await _tried(self._sensors.apply(tolerations, self._watches.owner(), there, self._controlled()), trouble)
        elif there is not None:
            await _tried(self._leave(plan), trouble)
        reports, world = self._heartbeats.reports, self._world(there)
        await _tried(self._statuses.write(read, plan, reports, world, self._tallies, now), trouble)
        await _tried(self._statuses.write_others(self._exceptions, now), trouble)
        if trouble:
            raise trouble[0]

    def _controlled(self) -> list[str]:
        """Names of the sensors' pods that a DaemonSet owns and that nobody ends."""
        pods = self._watches.pods.objects.items()
        return [name for (_, name), pod in pods if pod["controlled"] and not pod["leaving"]]

    def _read(self) -> tuple[Policies, bool]:
        """The policies, read once a change, and whether there is any object at all; exceptions likewise."""
        revision = self._cache.revision
        objects = self._cache.of(resources.POLICIES)
        if revision[resources.POLICIES] != self._policies_of:
            self._policies, self._policies_of = policies.read_all(objects.values()), revision[resources.POLICIES]
            self._tallies.know(self._policies.valid, lambda name: (self._cache.policy(name) or {}).get("status"))
        if revision[resources.EXCEPTIONS] != self._exceptions_of:
            self._exceptions.load(self._cache.of(resources.EXCEPTIONS).values())
            self._exceptions_of = revision[resources.EXCEPTIONS]
        return self._policies, bool(objects)

    def _plan(self, read: Policies, tolerations: list[dict[str, Any]]) -> Plan:
        sensor = self._settings.sensor
        tolerated = daemonset.all_tolerations(self._settings, tolerations)
        running = {pod["node"] for pod in self._watches.pods.objects.values()}
        able = selection.sensor_nodes(self._watches.nodes.objects.values(), sensor.node_selector, tolerated, running)
        self._heartbeats.keep({name for _, name in self._watches.nodes.objects})
        return selection.plan(read.valid, able)

    def _removal(self, there: Mapping[str, Any] | None) -> Plan:
        """Nodes with a sensor are emptied; when the DaemonSet is gone, nothing is said to anybody any more."""
        if there is None:
            return Plan()
        return selection.removal(sorted({pod["node"] for pod in self._watches.pods.objects.values() if pod["node"]}))

    async def _leave(self, plan: Plan) -> None:
        # Who was not heard of lately has no sensor that could remove anything.
        patience = 3 * self._settings.sensor.status_interval_seconds
        reports, since = self._heartbeats.reports, time.time() - patience
        heard = [node for node in plan.nodes if node in reports and reports[node].received > since]
        emptied = bool(plan.nodes) and len(heard) == len(plan.nodes) and self._heartbeats.removed(heard)
        if await self._sensors.leave(emptied=emptied or not plan.nodes):
            self._heartbeats.keep(())

    def _analytics(self, read: Policies, now: float) -> bytes:
        benign = self._exceptions.benign(now, self._settings.namespace)
        return analytics.encode(analytics.document(read.valid, cluster_conflicts(read.valid).keys(), benign))

    def _world(self, there: Mapping[str, Any] | None) -> World:
        judges = self._bus.judges
        return World(
            daemonset=sensorpods.state(there, self._watches.pods.objects.values(), time.time()),
            analytics_heard=judges.heard,
            analytics_named=judges.named,
            broker=self._bus.connected,
            listening_since=self._bus.listening_since,
            interval=float(self._settings.sensor.status_interval_seconds),
            analytics_problems=judges.problems,
            phases=judges.phases,
            uninstalling=self._watches.uninstalling(),
            evidence=self._settings.evidence.enabled,
        )

    def _failed(self, error: Exception, *, unexpected: bool = False) -> None:
        self.failed += 1
        self.trouble = str(error) or type(error).__name__
        if unexpected and (place := _place(error)) not in self._traced:
            self._traced.add(place)
            self._logged = time.monotonic()
            _log.error("a pass failed and will be tried again", exc_info=error)
        elif time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _log.warning("will be tried again: %s", repr(error) if unexpected else self.trouble)


def _place(error: Exception) -> tuple[type[Exception], str, int | None]:
    """What an error is and where it was raised: its text may be another one with each object, of these there are few."""
    (frame,) = traceback.extract_tb(error.__traceback__)[-1:]
    return type(error), frame.filename, frame.lineno


async def _tried(work: Any, trouble: list[Exception]) -> None:
    try:
        await work
    except (ApiError, DaemonEyeError, *TRANSIENT) as error:
        trouble.append(error)


def _node(node: dict[str, Any]) -> dict[str, Any]:
    """What `selection.sensor_nodes` reads of a node."""
    metadata = node["metadata"]
    return {
        "metadata": {"name": metadata["name"], "labels": metadata.get("labels") or {}},
        "spec": {"taints": (node.get("spec") or {}).get("taints") or []},
    }


def _deployment(obj: dict[str, Any]) -> dict[str, Any]:
    metadata = obj["metadata"]
    asked = (metadata.get("annotations") or {}).get(UNINSTALL_ANNOTATION)
    return {"name": metadata["name"], "uid": metadata["uid"], "uninstall": asked is not None}
