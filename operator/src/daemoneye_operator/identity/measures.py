"""The identity publisher's metrics, out of what it knows anyway.

Responsible for which part has which value; names and help are :mod:`daemoneye.metrics`'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from daemoneye import metrics
from daemoneye.metrics import Sample
from daemoneye_operator.identity.publisher import Publisher

COMPONENT: Final = "identity"


def samples(publisher: Publisher) -> Iterator[Sample]:
    """All that is known now."""
    yield metrics.BROKER_CONNECTED(publisher.connected, COMPONENT)
    yield metrics.IDENTITY_PODS(len(publisher.pods.objects))
    yield metrics.IDENTITY_NAMESPACES(len(publisher.namespaces.objects))
    yield metrics.IDENTITY_BACKLOG(publisher.backlog)
    yield metrics.IDENTITY_WRITES(publisher.writes)
    for watch in (publisher.pods, publisher.namespaces):
        yield metrics.IDENTITY_WATCH(watch.silence, watch.resource)
