"""The operator's heartbeat in the cluster: a Lease of its own, written every minute and watched like everything else.

Responsible for writing it and for knowing whether the watch showed what was written; what follows from a watch that does not is
:mod:`daemoneye_operator.sight`'s affair. It elects nobody: there is one operator at a time (the chart's Deployment is `Recreate`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from daemoneye_operator import resources
from daemoneye_operator.controller import Watches
from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.settings import OperatorSettings
from daemoneye_operator.watch import DELETED, Key, Watch

EVERY_S: Final = 60.0
# It is the oldest that counts.
_REMEMBERED: Final = 16
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)


class Pulse:
    """The Lease.

    Attributes:
        watch: What follows it.
    """

    def __init__(self, kube: Kube, settings: OperatorSettings, watches: Watches, holder: str) -> None:
        """Nothing happens before `run` and the watch's `run`.

        Args:
            kube: Where to write.
            settings: Name and namespace of the release.
            watches: Know the operator's Deployment, with which the Lease goes.
            holder: Name of the operator's pod.
        """
        self._kube = kube
        self._settings = settings
        self._watches = watches
        self._holder = holder
        self._path = path_of(resources.COORDINATION, "leases", self.name, settings.namespace)
        self._written: dict[int, float] = {}
        self._logged = float("-inf")
        self.watch = Watch(
            kube.api, path_of(resources.COORDINATION, "leases", namespace=settings.namespace), fields=f"metadata.name={self.name}",
            project=_version, on_event=self._shown,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Of the Lease."""
        return f"{self._settings.fullname}-operator"

    def unseen_since(self) -> float | None:
        """Since when, in monotonic seconds, there is a write that the watch has not shown, though it was not refused; None when there is not."""
        unseen = min(self._written.values(), default=None)
        return None if unseen is None else max(unseen, self.watch.last_refused)

    async def run(self) -> None:
        """Write for ever. Who may not write, or gets no answer, has nothing to wait for."""
        while True:
            try:
                if not self._watches.deserted():
                    await self.beat()
            except ApiError as error:
                if time.monotonic() - self._logged >= _HOUR:
                    self._logged = time.monotonic()
                    _log.warning("the operator's Lease is not written: %s", error)
            await asyncio.sleep(EVERY_S)

    async def beat(self) -> None:
        """Write once.

        Raises:
            ApiError: The API server did not take it.
        """
        began = time.monotonic()
        version = _version(await self._kube.apply(self._path, self._object()))
        # The watch may have been quicker than the answer.
        shown = self.watch.objects.get((self._settings.namespace, self.name), 0)
        if version > shown and len(self._written) < _REMEMBERED:
            self._written[version] = began

    def _shown(self, kind: str, _: Key, shown: int) -> None:
        if kind != DELETED:
            self._written = {version: at for version, at in self._written.items() if version > shown}

    def _object(self) -> dict[str, Any]:
        labels = {
            "app.kubernetes.io/name": "daemoneye",
            "app.kubernetes.io/instance": self._settings.release,
            "app.kubernetes.io/component": "operator",
            "app.kubernetes.io/part-of": "daemoneye",
            "app.kubernetes.io/managed-by": "daemoneye-operator",
        }
        metadata: dict[str, Any] = {"name": self.name, "namespace": self._settings.namespace, "labels": labels}
        if (owner := self._watches.owner()) is not None:
            metadata["ownerReferences"] = [owner]
        renewed = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._holder, "leaseDurationSeconds": int(3 * EVERY_S), "renewTime": renewed}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _version(lease: Mapping[str, Any]) -> int:
    """Versions of one kind are ordered numbers (KEP-5504); of an older server's that are none, nothing is waited for."""
    version = lease["metadata"].get("resourceVersion", "")
    return int(version) if version.isdigit() else 0
