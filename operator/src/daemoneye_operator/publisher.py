"""`daemoneye_operator identity`: the process of the identity publisher.

Responsible for signals and for its way to the broker; what it publishes is :mod:`daemoneye_operator.identity`'s affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from daemoneye.broker.access import Access
from daemoneye_operator import identity, kube
from daemoneye_operator.ending import on_signals
from daemoneye_operator.settings import OperatorSettings

BROKER_DIR: Final = Path("/etc/daemoneye/broker")


async def serve(settings: OperatorSettings, directory: Path = BROKER_DIR) -> None:
    """Publish until SIGTERM or SIGINT; `directory` holds the role's Secret."""
    stop = on_signals()
    authorities = directory / "ca.crt"
    access = Access.mounted(settings.nats.url, directory, tls_ca=authorities if authorities.exists() else None)
    api = kube.client()
    try:
        await identity.serve(settings, access, api, stop)
    finally:
        api.rest_client.close()
