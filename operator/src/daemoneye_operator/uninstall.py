"""`daemoneye_operator uninstall`: what the chart's pre-delete hook runs.

Responsible for asking the operator, which still runs then, to empty the nodes, and for waiting until it did. It never fails an uninstallation:
what it could not have done it says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from daemoneye.errors import DaemonEyeError
from daemoneye_operator import kube, resources
from daemoneye_operator.controller import UNINSTALL_ANNOTATION
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.reconcile import daemonset
from daemoneye_operator.settings import OperatorSettings

WITHIN_S: Final = 80.0
_POLL_S: Final = 1.0
_log = logging.getLogger(__name__)


async def empty_nodes(settings: OperatorSettings, within: float = WITHIN_S) -> int:
    """Ask and wait; always 0."""
    try:
        api = Kube(kube.client(), at_once=1)
    except DaemonEyeError as error:
        _log.error("the nodes are not emptied: %s", error)
        return 0
    try:
        await _ask_and_wait(api, settings, time.monotonic() + within)
    finally:
        api.close()
    return 0


async def _ask_and_wait(api: Kube, settings: OperatorSettings, deadline: float) -> None:
    sensors = path_of(resources.APPS, "daemonsets", daemonset.name(settings), settings.namespace)
    operator = path_of(resources.APPS, "deployments", f"{settings.fullname}-operator", settings.namespace)
    asked, said = False, ""
    while time.monotonic() < deadline:
        try:
            if not asked:
                await api.merge(operator, {"metadata": {"annotations": {UNINSTALL_ANNOTATION: "requested"}}})
                asked = True
            if await api.get(sensors) is None:
                _log.info("the nodes are empty")
                return
        except DaemonEyeError as error:
            if str(error) != said:
                said = str(error)
                _log.warning("%s", said)
        await asyncio.sleep(_POLL_S)
    _log.warning(
        "not done in time: nodes may hold pins under /sys/fs/bpf/daemoneye/%s and a spool under %s/%s; both fall silent by themselves and may be "
        "removed",
        settings.fullname,
        settings.sensor.host_paths.spool,
        settings.fullname,
    )
