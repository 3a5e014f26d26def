"""What a process of this image says of itself on the broker, for ``kubectl daemoneye top``.

Responsible for that message and its pace; nobody acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict

from nats.aio.client import Client

from daemoneye import subjects, usage
from daemoneye.broker.link import TRANSIENT
from daemoneye_operator import version


async def tell(component: str, client: Callable[[], Client | None], every: float) -> None:
    """Publish every so many seconds, as sensors do, until cancelled; while there is no connection nobody would hear it."""
    while True:
        connected = client()
        if connected is not None and connected.is_connected:
            with contextlib.suppress(*TRANSIENT):
                await connected.publish(subjects.component(component), message(component))
        await asyncio.sleep(every)


def message(component: str) -> bytes:
    """One message, as of now."""
    content = {
        "state": "running", "component": component, "version": version(), "time": time.time_ns(), "pid": os.getpid(),
        "self": asdict(usage.now()),
    }  # fmt: skip
    return json.dumps(content, separators=(",", ":")).encode()
