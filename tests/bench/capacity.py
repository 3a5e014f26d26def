"""What installations of several sizes need of the broker, computed from what one server was measured to take (`tests.bench.broker`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Final

from daemoneye import streams
from tests.bench.tables import Outcome

_NODES: Final = (10, 100, 300, 1000, 5000)
_EVENTS_S: Final = (1, 10, 100, 1000)
_MIB: Final = 1 << 20
_DAY_S: Final = 86_400
_BASE: Final = 20 * _MIB
"""What nats-server takes before anybody comes."""
# The sensor's own: one flush in 0.3 s, or in 0.6 s from 256 events a flush on.
_FLUSH_S: Final = 0.3
_BUSY_EVENTS_S: Final = 256 / _FLUSH_S


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured.

    Attributes:
        per_shard: Batches a second that one stream takes with ease.
        cpu_s: Processor seconds of the server for a batch.
        batch: Stored bytes of a batch without its events.
        event: Bytes of an event.
        remembered: Bytes of memory for the id of a batch, as long as the stream's duplicate window lasts.
        connection: Bytes of memory for a connection over TLS.
    """

    per_shard: float
    cpu_s: float
    batch: float
    event: float
    remembered: float
    connection: float


def batches(events_s: float) -> float:
    """Batches a second of a node on which events come independently of each other."""
    flush = _FLUSH_S * (2 if events_s >= _BUSY_EVENTS_S else 1)
    return (1 - math.exp(-events_s * flush)) / flush


def table(costs: Costs) -> Outcome:
    """A row for each size."""
    columns = (
        "nodes", "events/s a node", "batches/s a node", "batches/s", "shards", "NATS cores", "MB/s to disk", "GB/day", "NATS memory MB",
    )  # fmt: skip
    outcome = Outcome("capacity", columns, data=asdict(costs))
    window = streams.declared()[0].duplicate_window
    for nodes in _NODES:
        for events in _EVENTS_S:
            each = batches(events)
            rate = nodes * each
            stored = rate * (costs.batch + costs.event * events / each)
            memory = _BASE + nodes * costs.connection + rate * window * costs.remembered
            shards = max(math.ceil(rate / costs.per_shard), 1)
            outcome.rows.append(
                (
                    f"{nodes:,}", f"{events:,}", each, rate, str(shards), rate * costs.cpu_s, stored / 1e6, stored * _DAY_S / 1e9, memory / _MIB,
                )
            )  # fmt: skip
    outcome.notes = [
        f"a shard takes {costs.per_shard:,.0f} batches a second: two thirds of what one took at full speed",
        f"a batch costs {costs.cpu_s * 1000:.2f} ms of the server, {costs.batch:,.0f} stored bytes and {costs.event:.0f} for each of its events",
        f"memory: {costs.remembered:,.0f} bytes a batch for {window:g} s, {costs.connection / 1024:.0f} KiB a connection over TLS",
        f"a node flushes once in {_FLUSH_S:g} s in which anything happened, half as often from {_BUSY_EVENTS_S:,.0f} events a second on",
    ]
    return outcome
