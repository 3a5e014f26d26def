"""The sensor's metrics, out of what its parts count anyway.

Responsible for which counter is which metric; their names are declared in :mod:`daemoneye.metrics`. Every series is there from the first scrape
on, with 0 where a part does not exist (yet).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from daemoneye import metrics
from daemoneye.events.sockets import DropReason
from daemoneye.metrics import Sample
from daemoneye.nodeconfig import STATES, NodeAnswer
from daemoneye.subjects import LANES
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.opensockets import ROOM
from daemoneye_sensor.packets.arrivals import COUNTERS, SOCKET
from daemoneye_sensor.packets.taps import PODS
from daemoneye_sensor.pinned import RINGS
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.tally import FAULTS
from daemoneye_sensor.spool import Spool


def samples(
    settings: Settings,
    publisher: Publisher,
    losses: Losses,
    pipeline: Pipeline | None,
    *,
    spool: Spool | None,
    loaded: bool = True,
    answer: NodeAnswer | None = None,
    pods: int = 0,
) -> Iterator[Sample]:
    """Everything but the histograms, and evidence (`daemoneye_sensor.evidence.measures`).

    Args:
        settings: The sensor's.
        publisher: It is there from the start.
        losses: So are they.
        pipeline: What reads, if anything does.
        spool: It may be there without a pipeline.
        loaded: Whether the programs that are asked for are loaded.
        answer: The node's to its configuration; None on one machine.
        pods: Pods that are known.
    """
    yield metrics.BROKER_CONNECTED(publisher.connected, "sensor")
    for lane in LANES:
        yield metrics.SENSOR_EVENTS(pipeline.rows[lane] if pipeline else 0, lane)
    sources = pipeline.status()["sources"] if pipeline else {}
    yield from _of_kernel(sources.get("ebpf", {}))
    yield from _of_packets(sources.get("packets", {}))
    yield metrics.SENSOR_CAPTURE(answer.capture if answer else 1)
    for stage, count in losses.counts.items():
        yield metrics.SENSOR_LOST(count, stage)
    yield metrics.SENSOR_SPOOL(spool.bytes_used if spool else 0)
    yield metrics.SENSOR_SPOOL_MAX(settings.spool_bytes)
    yield metrics.SENSOR_SPOOL_UNSENT(spool.bytes_unsent if spool else 0)
    yield metrics.SENSOR_SPOOL_BATCHES(spool.entries_unsent if spool else 0)
    stats = publisher.stats
    yield metrics.SENSOR_PUBLISHED(stats.published)
    yield metrics.SENSOR_PUBLISHED_BYTES(stats.bytes)
    yield metrics.SENSOR_RETRIES(stats.retries)
    yield metrics.SENSOR_REFUSED(stats.refused)
    yield metrics.SENSOR_PROGRAMS(loaded)
    for state in STATES:
        answered = answer.policies if answer else ()
        yield metrics.SENSOR_POLICIES(sum(policy.state == state for policy in answered), state.lower())
    yield metrics.SENSOR_PODS(pods)


def _of_packets(facts: Mapping[str, Any]) -> Iterator[Sample]:
    """What the source `packets` says of itself; the interfaces of pods are one there."""
    interfaces = {PODS: {}, **facts.get("interfaces", {})}
    for counter in COUNTERS:
        mine = [one for one in interfaces.values() if one.get("counter", SOCKET) == counter]
        yield metrics.SENSOR_CAPTURE_INTERFACES(sum(one.get("captured", 0) for one in mine), counter)
    for name, one in interfaces.items():
        yield metrics.SENSOR_CAPTURE_PACKETS(one.get("packets", 0), name)
        yield metrics.SENSOR_CAPTURE_INSPECTED(one.get("exported", 0), name)
        yield metrics.SENSOR_CAPTURE_DROPS(one.get("drops", 0), name)
        yield metrics.SENSOR_CAPTURE_CUT(one.get("cut", 0), name)
    for kind, count in {**dict.fromkeys(FAULTS, 0), **facts.get("faults", {})}.items():
        yield metrics.SENSOR_CAPTURE_FAULTS(count, kind)
    yield metrics.SENSOR_CAPTURE_LEVEL(facts.get("governor", {}).get("level", 0))
    yield metrics.SENSOR_CAPTURE_CPU(facts.get("cpu_seconds", 0))
    yield metrics.SENSOR_CAPTURE_FLOWS(facts.get("conversations", 0))


def _of_kernel(facts: Mapping[str, Any]) -> Iterator[Sample]:
    """What the source `ebpf` says of itself."""
    for ring in RINGS:
        yield metrics.SENSOR_RECORDS(facts.get("records", {}).get(ring, 0), ring)
        yield metrics.SENSOR_PENDING(facts.get("pending", {}).get(ring, 0), ring)
    yield metrics.SENSOR_EXCLUDED(facts.get("excluded", 0))
    yield metrics.SENSOR_PROCESSES(facts.get("processes", 0))
    yield metrics.SENSOR_PROCESSES_EVICTED(facts.get("processes_evicted", 0))
    yield metrics.SENSOR_SOCKETS(facts.get("sockets", {}).get("open", 0))
    yield metrics.SENSOR_SOCKETS_MAX(ROOM)
    dropped = facts.get("sockets", {}).get("packets_dropped", {})
    for reason in list(DropReason)[1:]:
        yield metrics.SENSOR_DROPPED(dropped.get(reason.name.lower(), 0), reason.name.lower())
    yield metrics.SENSOR_CGROUPS(facts.get("cgroups", 0))
