"""Metrics of evidence, out of what its parts count anyway; their names are declared in :mod:`daemoneye.metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from daemoneye import metrics
from daemoneye.metrics import Sample
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence.keeper import Keeper
from daemoneye_sensor.evidence.service import Service
from daemoneye_sensor.packets.oddities import Oddities


def samples(keeper: Keeper, service: Service, oddities: Oddities, dissector: Dissector) -> Iterator[Sample]:
    """Every series, from the first scrape on."""
    yield metrics.SENSOR_EVIDENCE_ARMED(keeper.armed)
    yield metrics.SENSOR_EVIDENCE_MEMORY(keeper.bytes)
    for outcome, count in (("sent", service.sent), ("refused", keeper.refused), ("failed", service.failed)):
        yield metrics.SENSOR_EVIDENCE(count, outcome)
    yield metrics.SENSOR_EVIDENCE_BYTES(service.bytes)
    for outcome, count in (("chosen", oddities.chosen), ("skipped", oddities.skipped)):
        yield metrics.SENSOR_ANOMALIES(count, outcome)
    yield metrics.SENSOR_DISSECTOR_STARTS(dissector.started)
    yield metrics.SENSOR_DISSECTOR_FAILURES(dissector.failed)
