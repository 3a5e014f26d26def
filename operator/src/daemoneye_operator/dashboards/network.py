"""Dashboard Network: what is captured of packets, what is lost of them, and what it costs."""

from __future__ import annotations

from typing import Final

from daemoneye import metrics as m
from daemoneye_operator.dashboards.dashboard import Dashboard, Row
from daemoneye_operator.dashboards.panels import GREEN, RED, YELLOW, Query, by_name, lines, steps, table
from daemoneye_operator.dashboards.queries import NODE, gauge, increase, rate

_COLOUR: Final = {"custom.cellOptions": {"type": "color-text"}}

_ALL: Final = Row(
    "All nodes",
    (
        table(
            "Nodes",
            "Healthy 0: runbook DaemonEyeCaptureDegraded. Level above 0: the CPU budget made the sensor look at less. Dropped: runbook DaemonEyeCaptureDrops.",
            Query(gauge(m.SENSOR_CAPTURE, NODE, by="node", how="min"), "healthy"),
            Query(gauge(m.SENSOR_CAPTURE_INTERFACES, NODE, by="node"), "interfaces"),
            Query(rate(m.SENSOR_CAPTURE_PACKETS, NODE, by="node"), "packets/s"),
            Query(rate(m.SENSOR_CAPTURE_INSPECTED, NODE, by="node"), "inspected/s"),
            Query(increase(m.SENSOR_CAPTURE_DROPS, NODE, by="node"), "dropped"),
            Query(rate(m.SENSOR_CAPTURE_CPU, NODE, by="node"), "CPU"),
            Query(gauge(m.SENSOR_CAPTURE_LEVEL, NODE, by="node", how="max"), "level"),
            height=8,
            overrides=(
                by_name("healthy", thresholds=steps(RED, (1, GREEN)), **_COLOUR),
                by_name("packets/s", unit="ops"),
                by_name("inspected/s", unit="ops"),
                by_name("dropped", unit="short", thresholds=steps(GREEN, (1, RED)), **_COLOUR),
                by_name("CPU", unit="percentunit"),
                by_name("level", thresholds=steps(GREEN, (1, YELLOW), (4, RED)), **_COLOUR),
            ),
        ),
    ),
)

_SEEN: Final = Row(
    "What is seen",
    (
        lines(
            "Packets a second",
            "By interface, chosen nodes together; the interfaces of pods are one. None although packets flow: captureInterface means another interface.",
            Query(rate(m.SENSOR_CAPTURE_PACKETS, NODE, by="interface"), "{{interface}}"),
            unit="ops",
            stacked=True,
        ),
        lines(
            "Share that is looked at",
            "Of all packets, those that a parser sees: it decides what capturing costs. Above 5 % and 10,000 packets a second look at the budget.",
            Query(
                f"{rate(m.SENSOR_CAPTURE_INSPECTED, NODE, by='node')} / {rate(m.SENSOR_CAPTURE_PACKETS, NODE, by='node')}",
                "{{node}}",
            ),
            unit="percentunit",
        ),
        lines(
            "Rows a second",
            "Conversations, messages and sockets that became durable (lane bulk).",
            Query(rate(m.SENSOR_EVENTS, 'lane="bulk"', NODE, by="node"), "{{node}}"),
            unit="eps",
        ),
        lines(
            "Conversations open",
            "At most 65,536 a node are kept; when there are more, those that were silent longest are told early.",
            Query(gauge(m.SENSOR_CAPTURE_FLOWS, NODE, by="node"), "{{node}}"),
        ),
    ),
)

_LOST: Final = Row(
    "What is lost",
    (
        lines(
            "Frames dropped a second",
            "The ring had no room: raise bufferSizeMb, narrow captureFilter, or give the sensor more CPU. Counts of conversations are not touched by it.",
            Query(rate(m.SENSOR_CAPTURE_DROPS, NODE, by="node, interface"), "{{node}} {{interface}}"),
            unit="ops",
        ),
        lines(
            "Faults a second, by kind",
            "Of the chosen nodes together. Malformed messages are news of who sends them; packets that were not counted mean that the kernel's table was full.",
            Query(rate(m.SENSOR_CAPTURE_FAULTS, NODE, by="kind"), "{{kind}}"),
            unit="ops",
            stacked=True,
        ),
    ),
)

_COST: Final = Row(
    "What it costs",
    (
        lines(
            "CPU of capturing",
            "Of one core, without the kernel's part, which is about 0.4 microseconds a packet. captureCpuPercent of the policies bounds it.",
            Query(rate(m.SENSOR_CAPTURE_CPU, NODE, by="node"), "{{node}}"),
            unit="percentunit",
        ),
        lines(
            "Steps down",
            "What the CPU budget took away; docs/network.md says what each step leaves out. For long: raise captureCpuPercent or narrow captureFilter.",
            Query(gauge(m.SENSOR_CAPTURE_LEVEL, NODE, by="node", how="max"), "{{node}}"),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="network",
    title="DaemonEye / Network",
    description="What is captured of packets, what is lost of them, and what it costs.",
    rows=(_ALL, _SEEN, _LOST, _COST),
    chooses_nodes=True,
)
