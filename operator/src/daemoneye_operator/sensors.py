"""The sensors' DaemonSet and ConfigMap on the API server.

Responsible for applying them when they are wanted and differ, and for taking them away once the nodes are empty; their form is
:mod:`daemoneye_operator.reconcile.daemonset`'s.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from daemoneye_operator import resources
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.reconcile import daemonset
from daemoneye_operator.settings import OperatorSettings

EMPTY_WITHIN_S: Final = 60.0
"""How long the nodes have to remove pins and spools before their sensors go anyway."""
NOTICED_WITHIN_S: Final = 60.0
"""How long Kubernetes has to notice that the DaemonSet is gone before it is made anew anyway."""
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
        self._left: frozenset[str] = frozenset()
        self._left_since = 0.0

    def forget(self) -> None:
        """Apply again at the next occasion, whatever was applied before."""
        self._applied = ""

    async def apply(
        self,
        tolerations: Sequence[Mapping[str, Any]],
        owner: Mapping[str, Any] | None,
        there: Mapping[str, Any] | None,
        controlled: Collection[str] = (),
    ) -> None:
        """Bring both to what is wanted; `there` is the DaemonSet as it is, `controlled` names the sensors' pods that some DaemonSet owns and nobody ends.

        Raises:
            ApiError: The API server did not take it.
        """
        self._leaving_since = None
        if there is None and not self._noticed(frozenset(controlled)):
            return
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
        self._left = frozenset()

    def _noticed(self, controlled: frozenset[str]) -> bool:
        """Whether Kubernetes has begun to end the pods of a DaemonSet that somebody deleted.

        One of the same name, made before that, can hide from its collector of garbage that the former is gone, when that has just lost its
        watches (seen a minute after the API server was started anew): the pods are then never ended, and keep the new ones out of their nodes. They
        go on watching meanwhile.
        """
        now = time.monotonic()
        if not controlled:
            self._left = controlled
        elif not self._left:
            self._left, self._left_since = controlled, now
            _log.info("the sensors' DaemonSet is gone: it is made anew as soon as its first pod ends")
        return not self._left or not self._left <= controlled or now - self._left_since >= NOTICED_WITHIN_S

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
