"""Statuses on the API server.

Responsible for writing those that say something new, each no more often than it may; what they say is decided in `reconcile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from daemoneye.api.v1alpha1.common import API_VERSION
from daemoneye_operator import resources
from daemoneye_operator.cache import Cache, Object, key_of
from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import Kube
from daemoneye_operator.reconcile import status
from daemoneye_operator.reconcile.exception import Exceptions
from daemoneye_operator.reconcile.nodes import NodeReport
from daemoneye_operator.reconcile.peer import peer_status
from daemoneye_operator.reconcile.policies import Policies
from daemoneye_operator.reconcile.selection import Plan
from daemoneye_operator.reconcile.status import World
from daemoneye_operator.reconcile.tally import Tallies
from daemoneye_operator.together import together

_KINDS: Final = {
    resources.POLICIES: "DaemonEyePolicy",
    resources.PEERS: "FederationPeer",
    resources.EXCEPTIONS: "DetectionException",
}


class Statuses:
    """Writes the statuses of policies, peers and exceptions."""

    def __init__(self, kube: Kube, cache: Cache) -> None:
        self._kube = kube
        self._cache = cache
        self._counts_written: dict[str, float] = {}

    async def write(
        self,
        read: Policies,
        plan: Plan,
        reports: Mapping[str, NodeReport],
        world: World,
        tallies: Tallies,
        now: float,
    ) -> None:
        """Those of all policies.

        Raises:
            ApiError: One of them was not taken; the others were written.
        """
        writes = []
        for policy in read.valid:
            obj = self._cache.policy(policy.name)
            if obj is None:
                continue
            new = status.policy_status(policy, plan, reports, world, tallies.of(policy), obj.get("status"), now)
            writes.append(self._write(resources.POLICIES, obj, new, now))
        for name, message in read.invalid.items():
            obj = self._cache.policy(name)
            if obj is not None:
                writes.append(self._write(resources.POLICIES, obj, status.invalid_status(obj, message, now), now))
        self._counts_written = {uid: at for uid, at in self._counts_written.items() if now - at < status.COUNTS_EVERY}
        await together(writes)

    async def write_others(self, exceptions: Exceptions, now: float) -> None:
        """Those of peers and exceptions.

        Raises:
            ApiError: One of them was not taken; the others were written.
        """
        peers = [(resources.PEERS, obj, peer_status(obj, now)) for obj in self._live(resources.PEERS)]
        silences = [
            (resources.EXCEPTIONS, obj, exceptions.status(obj, now)) for obj in self._live(resources.EXCEPTIONS)
        ]
        await together([self._write(plural, obj, new, now) for plural, obj, new in (*peers, *silences)])

    def _live(self, plural: str) -> list[Object]:
        return [obj for obj in self._cache.of(plural).values() if not obj["metadata"].get("deletionTimestamp")]

    async def write_counts(self, read: Policies, tallies: Tallies) -> None:
        """Findings that were counted since the last write, and nothing else: for the end, when nobody is heard of any more.

        Raises:
            ApiError: One of them was not taken; the others were written.
        """
        writes = []
        for policy in read.valid:
            obj = self._cache.policy(policy.name)
            old = (obj or {}).get("status")
            if (
                obj is not None
                and old
                and status.changed(old, new := {**old, "findings": tallies.of(policy).to_json()})
            ):
                writes.append(self._apply(resources.POLICIES, obj, new))
        await together(writes)

    async def _write(self, plural: str, obj: Object, new: dict[str, Any], now: float) -> None:
        old, uid = obj.get("status"), obj["metadata"]["uid"]
        if not status.changed(old, new):
            return
        important = status.important(old, new)
        if not status.due(self._counts_written.get(uid), now, important=important):
            return
        if not important:
            self._counts_written[uid] = now
        await self._apply(plural, obj, new)

    async def _apply(self, plural: str, obj: Object, new: dict[str, Any]) -> None:
        namespace, name = key_of(obj)
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        body = {"apiVersion": API_VERSION, "kind": _KINDS[plural], "metadata": metadata, "status": new}
        try:
            written = await self._kube.apply(resources.ours(plural, name, namespace, "status"), body)
        except ApiError as error:
            if error.status == 404:
                return  # deleted meanwhile; the watch will say so
            raise
        self._cache.written(plural, written)
