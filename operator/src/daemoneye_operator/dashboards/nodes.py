"""Dashboard Nodes: what each sensor sees, loses, keeps and costs."""

from __future__ import annotations

from typing import Final

from daemoneye import metrics as m
from daemoneye_operator.dashboards.dashboard import Dashboard, Row
from daemoneye_operator.dashboards.panels import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Query,
    by_name,
    heatmap,
    lines,
    steps,
    table,
)
from daemoneye_operator.dashboards.queries import NODE, buckets, gauge, increase, quantile, rate, series

_SENSOR: Final = 'component="sensor"'
_OVERHEAD: Final = (_SENSOR, NODE)


def _cell(name: str, unit: str, *then: tuple[float, str]) -> dict[str, object]:
    """A column's unit and, with steps, its colour."""
    if not then:
        return by_name(name, unit=unit)
    return by_name(name, unit=unit, thresholds=steps(GREEN, *then), **{"custom.cellOptions": {"type": "color-text"}})


_ALL: Final = Row(
    "All nodes",
    (
        table(
            "Nodes",
            "Sort by a column's head. Lost: runbook DaemonEyeEventLoss. Unsent: the spool waits for the broker. Programs 0: the node is not watched.",
            Query(rate(m.SENSOR_EVENTS, 'lane!="loss"', NODE, by="node"), "events/s"),
            Query(increase(m.SENSOR_LOST, 'stage!="blob"', NODE, by="node"), "lost"),
            Query(rate(m.PROCESS_CPU, *_OVERHEAD, by="node"), "CPU"),
            Query(gauge(m.PROCESS_RSS, *_OVERHEAD, by="node"), "memory"),
            Query(gauge(m.PROCESS_PEAK, *_OVERHEAD, by="node", how="max"), "memory peak"),
            Query(gauge(m.SENSOR_SPOOL_UNSENT, NODE, by="node"), "unsent"),
            Query(gauge(m.SENSOR_PROGRAMS, NODE, by="node", how="min"), "programs"),
            Query(gauge(m.BROKER_CONNECTED, *_OVERHEAD, by="node", how="min"), "connected"),
            Query(f"time() - {gauge(m.PROCESS_START, *_OVERHEAD, by='node', how='max')}", "up"),
            height=10,
            overrides=(
                _cell("events/s", "eps"),
                _cell("lost", "short", (1, RED)),
                _cell("CPU", "percentunit", (0.5, YELLOW), (1, RED)),
                _cell("memory", "bytes"),
                _cell("memory peak", "bytes"),
                _cell("unsent", "bytes"),
                by_name(
                    "programs", thresholds=steps(RED, (1, GREEN)), **{"custom.cellOptions": {"type": "color-text"}}
                ),
                by_name(
                    "connected", thresholds=steps(RED, (1, GREEN)), **{"custom.cellOptions": {"type": "color-text"}}
                ),
                _cell("up", "dtdurations"),
            ),
        ),
    ),
)

_SEEN: Final = Row(
    "What is seen",
    (
        lines(
            "Events a second",
            "Rows that became durable. A node far above the others executes a lot: kubectl daemoneye events --node NODE shows what.",
            Query(rate(m.SENSOR_EVENTS, 'lane!="loss"', NODE, by="node"), "{{node}}"),
            unit="eps",
        ),
        lines(
            "Rows left out a second",
            "They belong to no policy and are dropped on purpose. Far more of them than events: the policies' selectors are narrow, which costs the same.",
            Query(rate(m.SENSOR_EXCLUDED, NODE, by="node"), "{{node}}"),
            unit="eps",
        ),
        lines(
            "Records from the kernel a second",
            "By ring, chosen nodes together. Chunks of long strings come by the ring blob.",
            Query(rate(m.SENSOR_RECORDS, NODE, by="ring"), "{{ring}}"),
            unit="eps",
            stacked=True,
        ),
        lines(
            "Policies by answer",
            "Of the chosen nodes together. refused: kubectl get depol -o wide, runbook DaemonEyeSensorRefusing.",
            Query(gauge(m.SENSOR_POLICIES, NODE, by="state"), "{{state}}"),
        ),
        lines(
            "Pods, cgroups and processes known",
            "Of the chosen nodes together: what names events. No pods while pods run: runbook DaemonEyeIdentityDown.",
            Query(gauge(m.SENSOR_PODS, NODE), "pods"),
            Query(gauge(m.SENSOR_CGROUPS, NODE), "cgroups"),
            Query(gauge(m.SENSOR_PROCESSES, NODE), "processes"),
        ),
        lines(
            "Processes forgotten a second",
            "The table of possible ancestors was full: rows below them lack that ancestor. More than 0 for long: a fork storm.",
            Query(rate(m.SENSOR_PROCESSES_EVICTED, NODE, by="node"), "{{node}}"),
            unit="ops",
        ),
    ),
)

_LOST: Final = Row(
    "What is lost",
    (
        lines(
            "Lost a second, by stage",
            "Of the chosen nodes together. ring: the node executes faster than it is read (sensor.rings, sensor.resources); lease: no sensor for a minute; "
            "decode: report it; spool: the broker was away longer than sensor.spoolMaxBytes lasts; publish: the broker refused; blob: only strings were cut.",
            Query(rate(m.SENSOR_LOST, NODE, by="stage"), "{{stage}}"),
            unit="eps",
            stacked=True,
        ),
        lines(
            "Lost a second, by node",
            "Without cut strings. One node alone: look at its load. All of them: look at the broker.",
            Query(rate(m.SENSOR_LOST, 'stage!="blob"', NODE, by="node"), "{{node}}"),
            unit="eps",
        ),
        lines(
            "Records waiting in the kernel",
            "The fullest ring of each kind. They are read four times a second; a value that stays high comes before losses of stage ring.",
            Query(gauge(m.SENSOR_PENDING, NODE, by="ring", how="max"), "{{ring}}"),
        ),
    ),
)

_COST: Final = Row(
    "What it costs",
    (
        lines(
            "CPU",
            "Of one core. sensor.resources.limits.cpu bounds it; at rest it is about 0.2 %.",
            Query(rate(m.PROCESS_CPU, *_OVERHEAD, by="node"), "{{node}}"),
            unit="percentunit",
        ),
        lines(
            "Resident memory and peak",
            "Peak is the most that the container ever used, page cache of its spool included. Near sensor.resources.limits.memory the kernel ends it.",
            Query(gauge(m.PROCESS_RSS, *_OVERHEAD, by="node"), "{{node}}"),
            Query(gauge(m.PROCESS_PEAK, *_OVERHEAD, by="node", how="max"), "{{node}} peak"),
            unit="bytes",
        ),
        lines(
            "Wake-ups a second",
            "What keeps a sleeping processor from sleeping. At rest below 5; under load it follows the flushes.",
            Query(rate(m.PROCESS_WAKEUPS, *_OVERHEAD, by="node"), "{{node}}"),
            unit="ops",
        ),
    ),
)

_SPOOL: Final = Row(
    "Spool and broker",
    (
        lines(
            "Waiting for the broker",
            "Of the spool's budget. It rises while the broker is away: runbook DaemonEyeSpoolFilling.",
            Query(
                f"max by (node) ({series(m.SENSOR_SPOOL_UNSENT, NODE)} / {series(m.SENSOR_SPOOL_MAX, NODE)})",
                "{{node}}",
            ),
            unit="percentunit",
            thresholds=steps(GREEN, (0.5, ORANGE), (0.8, RED)),
        ),
        lines(
            "Spool on disk",
            "Sent batches that are kept as flight recorder included: it grows to sensor.spoolMaxBytes and stays there, which is right.",
            Query(gauge(m.SENSOR_SPOOL, NODE, by="node"), "{{node}}"),
            unit="bytes",
        ),
        lines(
            "Batches not acknowledged",
            "One is on its way at a time. More that stay: the broker is away, slow or refuses.",
            Query(gauge(m.SENSOR_SPOOL_BATCHES, NODE, by="node"), "{{node}}"),
        ),
        lines(
            "Batches sent again a second",
            "The broker did not answer in time. A few at its restart are usual.",
            Query(rate(m.SENSOR_RETRIES, NODE, by="node"), "{{node}}"),
            unit="ops",
        ),
        lines(
            "Batches refused a minute",
            "For good: too large, or no right. Their rows are lost at the stage publish; the sensor's log has the broker's words.",
            Query(f"60 * {rate(m.SENSOR_REFUSED, NODE, by='node')}", "{{node}}"),
        ),
        lines(
            "Published",
            "Payload that the broker acknowledged, and batches, chosen nodes together.",
            Query(rate(m.SENSOR_PUBLISHED_BYTES, NODE), "bytes"),
            Query(rate(m.SENSOR_PUBLISHED, NODE), "batches"),
            unit="binBps",
            overrides=(by_name("batches", unit="ops", **{"custom.axisPlacement": "right"}),),
        ),
        lines(
            "From the kernel to the disk, p99",
            "From a batch's oldest event to the batch being durable. Above a second: the node's disk is slow, or the sensor gets no CPU.",
            Query(quantile(0.99, m.SENSOR_DELAY, NODE, by="node"), "{{node}}"),
            unit="s",
            width=12,
        ),
        heatmap(
            "From the kernel to the disk",
            "The same of all chosen nodes, batches by delay. A second band far above the first is one slow node.",
            buckets(m.SENSOR_DELAY, NODE),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="nodes",
    title="DaemonEye / Nodes",
    description="What each sensor sees, loses, keeps and costs.",
    rows=(_ALL, _SEEN, _LOST, _COST, _SPOOL),
    chooses_nodes=True,
)
