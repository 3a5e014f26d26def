"""The sensors' DaemonSet and ConfigMap on the API server.

Responsible for applying them when they are wanted and differ, and for taking them away once the nodes are empty; their form is
:mod:`daemoneye_operator.reconcile.daemonset`'s.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from daemoneye_operator import resources
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.reconcile import daemonset
from daemoneye_operator.settings import OperatorSettings

EMPTY_WITHIN_S: Final = 60.0
"""How long the nodes have to remove pins and spools before their sensors go anyway."""
_log = logging.getLogger(__name__)


class Sensors:
    """The two objects, as they were last applied."""

    def __init__(self, kube: Kube, settings: OperatorSettings, cluster_uid: str) -> None:
        self._kube = kube
        self._settings = settings
        self._cluster_uid = cluster_uid
        self._applied = ""
        self._generation: int | None = None
        self._leaving_since: float | None = None

    def forget(self) -> None:
        """Apply again at the next occasion, whatever was applied before."""
        self._applied = ""

    async def apply(
        self, tolerations: Sequence[Mapping[str, Any]], owner: Mapping[str, Any] | None, there: Mapping[str, Any] | None
    ) -> None:
        """Bring both to what is wanted; `there` is the DaemonSet as it is.

        Raises:
            ApiError: The API server did not take it.
        """
        self._leaving_since = None
        configmap = daemonset.desired_configmap(self._settings, self._cluster_uid, owner)
        wanted = daemonset.desired_daemonset(
            self._settings, tolerations, owner, config_hash=daemonset.checksum(configmap)
        )
        digest = hashlib.sha256(json.dumps([configmap, wanted], sort_keys=True).encode()).hexdigest()
        # Somebody who edits the DaemonSet raises its generation.
        untouched = there is not None and there["metadata"].get("generation") == self._generation
        if digest == self._applied and untouched:
            return
        namespace, name = self._settings.namespace, daemonset.name(self._settings)
        await self._kube.apply(path_of(resources.CORE, "configmaps", name, namespace), configmap)
        applied = await self._kube.apply(path_of(resources.APPS, "daemonsets", name, namespace), wanted)
        self._applied, self._generation = digest, applied["metadata"].get("generation")

    async def leave(self, *, emptied: bool) -> bool:
        """Delete the DaemonSet once the nodes are empty, or had their time; whether it was deleted.

        Raises:
            ApiError: The API server did not take it.
        """
        now = time.monotonic()
        if self._leaving_since is None:
            self._leaving_since = now
            _log.info("no policy is left: the nodes remove programs, pins and spools")
        if not emptied and now - self._leaving_since < EMPTY_WITHIN_S:
            return False
        if not emptied:
            _log.warning(
                "not every node said within %d s that it is empty: a node that comes back may hold pins under "
                "/sys/fs/bpf/daemoneye and a spool under %s",
                EMPTY_WITHIN_S,
                self._settings.sensor.host_paths.spool,
            )
        name = daemonset.name(self._settings)
        await self._kube.delete(path_of(resources.APPS, "daemonsets", name, self._settings.namespace))
        self._leaving_since, self._applied = None, ""
        return True
