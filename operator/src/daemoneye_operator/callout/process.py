"""`daemoneye_operator callout`: the process of the callout.

Responsible for signals, files and its ways to broker and API server; what it answers is :mod:`daemoneye_operator.callout`'s affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from daemoneye.broker.access import Access
from daemoneye_operator import callout, kube
from daemoneye_operator.callout import claims
from daemoneye_operator.callout.reviews import AT_ONCE
from daemoneye_operator.ending import on_signals
from daemoneye_operator.settings import OperatorSettings

BROKER_DIR: Final = Path("/etc/daemoneye/broker")
ISSUER_DIR: Final = Path("/etc/daemoneye/issuer")


async def serve(
    settings: OperatorSettings, broker: Path = BROKER_DIR, issuer: Path = ISSUER_DIR, *, life: float = claims.LIFE_S
) -> None:
    """Answer until SIGTERM or SIGINT; `broker` holds the role's Secret, `issuer` the one with the seed."""
    stop = on_signals()
    access = Access.mounted(settings.nats.url, broker, tls_ca=broker / "ca.crt")
    api = kube.Kube(kube.client(), at_once=AT_ONCE)
    try:
        await callout.serve(settings, access, api, stop, seed=issuer / "seed", life=life)
    finally:
        api.close()
