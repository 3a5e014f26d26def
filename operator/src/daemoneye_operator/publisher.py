"""`daemoneye_operator identity`: the process of the identity publisher.

Responsible for signals and for its way to the broker; what it publishes is :mod:`daemoneye_operator.identity`'s affair.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

from daemoneye.broker.access import Access
from daemoneye_operator import identity, kube
from daemoneye_operator.settings import OperatorSettings

BROKER_DIR: Final = Path("/etc/daemoneye/broker")


async def serve(settings: OperatorSettings, directory: Path = BROKER_DIR) -> None:
    """Publish until SIGTERM or SIGINT; `directory` holds the role's Secret."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    authorities = directory / "ca.crt"
    access = Access(
        urls=(settings.nats.url,),
        user_file=directory / "user",
        password_file=directory / "password",
        inbox_prefix_file=directory / "inbox_prefix",
        tls_ca=authorities if authorities.exists() else None,
    )
    api = kube.client()
    try:
        await identity.serve(settings, access, api, stop)
    finally:
        api.rest_client.close()
