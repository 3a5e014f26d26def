"""The operator's metrics, out of the counters that its parts keep.

Responsible for which part has which value; names and help are :mod:`daemoneye.metrics`'.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemoneye import metrics
from daemoneye.metrics import Sample
from daemoneye.subjects import SEVERITIES
from daemoneye_operator import resources
from daemoneye_operator.brokerlook import BrokerLook
from daemoneye_operator.bus import Bus
from daemoneye_operator.cache import Cache
from daemoneye_operator.controller import Controller, Ledger, Watches
from daemoneye_operator.findingsink import FindingSink
from daemoneye_operator.kube import Kube
from daemoneye_operator.reconcile import census
from daemoneye_operator.reconcile.findings import Aggregation
from daemoneye_operator.reconcile.nodes import Heartbeats
from daemoneye_operator.reconcile.status import SILENT_AFTER
from daemoneye_operator.secretstore import Secrets
from daemoneye_operator.settings import OperatorSettings
from daemoneye_operator.watch import Watch

COMPONENT: Final = "operator"


@dataclass(slots=True)
class Parts:
    """The operator's parts, as they come up."""

    settings: OperatorSettings
    kube: Kube
    cache: Cache
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    ledger: Ledger = field(default_factory=Ledger)
    secrets: Secrets = field(default_factory=lambda: Secrets({}))
    watches: Watches | None = None
    followed: Sequence[Watch] = ()
    aggregation: Aggregation | None = None
    sink: FindingSink | None = None
    bus: Bus | None = None
    broker: BrokerLook | None = None
    controller: Controller | None = None


def samples(parts: Parts) -> Iterator[Sample]:
    """All that is known now."""
    bus = parts.bus
    yield metrics.BROKER_CONNECTED(bus is not None and bus.connected, COMPONENT)
    yield from _kubernetes(parts)
    yield from _reconciled(parts)
    yield from _findings(parts)
    for certificate, end in parts.secrets.expires.items():
        yield metrics.OPERATOR_CERTIFICATE(end, certificate)
    yield from _broker(parts)


def _kubernetes(parts: Parts) -> Iterator[Sample]:
    for (method, code), count in sorted(parts.kube.requests.by_method_and_code().items()):
        yield metrics.OPERATOR_REQUESTS(count, method, str(code))
    for watch in parts.followed:
        yield metrics.OPERATOR_WATCH(watch.silence, watch.resource)


def _reconciled(parts: Parts) -> Iterator[Sample]:
    controller = parts.controller
    passes, failed = (controller.passes, controller.failed) if controller is not None else (0, 0)
    yield metrics.OPERATOR_PASSES(passes - failed, "ok")
    yield metrics.OPERATOR_PASSES(failed, "failed")
    for ready, count in census.policies(parts.cache.of(resources.POLICIES).values()).items():
        yield metrics.OPERATOR_POLICIES(count, ready)
    if controller is not None and parts.bus is not None:
        patience = SILENT_AFTER * parts.settings.sensor.status_interval_seconds
        counts = census.sensors(
            controller.plan, parts.heartbeats.reports, time.time() - patience, listening_since=parts.bus.listening_since
        )
        for state, count in counts.items():
            yield metrics.OPERATOR_SENSORS(count, state)
    yield metrics.OPERATOR_HEARTBEATS_DROPPED(parts.heartbeats.dropped)


def _findings(parts: Parts) -> Iterator[Sample]:
    sink, aggregation = parts.sink, parts.aggregation
    for severity in SEVERITIES:
        yield metrics.OPERATOR_FINDINGS(sink.counted[severity] if sink else 0, severity)
    yield metrics.OPERATOR_FINDINGS_SILENCED(parts.ledger.exceptions.silenced)
    yield metrics.OPERATOR_FINDINGS_SUPPRESSED(aggregation.suppressed if aggregation else 0)
    yield metrics.OPERATOR_FINDINGS_LOST(sink.lost if sink else 0)
    yield metrics.OPERATOR_FINDINGS_CORRUPT(sink.corrupt if sink else 0)
    yield metrics.OPERATOR_FINDINGS_WAITING(sink.waiting if sink else 0)
    if parts.watches is not None and parts.watches.findings.synced.is_set():
        yield metrics.OPERATOR_FINDING_OBJECTS(len(parts.watches.findings.objects))


def _broker(parts: Parts) -> Iterator[Sample]:
    look = parts.broker.look if parts.broker is not None else None
    if look is None:
        return
    for stream in look.streams:
        yield metrics.OPERATOR_STREAM(stream.bytes, stream.name)
        yield metrics.OPERATOR_STREAM_MESSAGES(stream.messages, stream.name)
        if stream.max_bytes >= 0:
            yield metrics.OPERATOR_STREAM_MAX(stream.max_bytes, stream.name, stream.discard)
    yield metrics.OPERATOR_STORE(look.store_bytes)
    nats = parts.settings.nats
    if not nats.external:
        yield metrics.OPERATOR_STORE_MAX(nats.store_max_bytes * nats.replicas)
