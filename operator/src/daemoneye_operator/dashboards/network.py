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
            "Healthy 0: runbook DaemonEyeCaptureDegraded. By XDP: interfaces at which XDP counts. "
            "Level above 0: the CPU budget made the sensor look at less. Dropped: runbook DaemonEyeCaptureDrops.",
            Query(gauge(m.SENSOR_CAPTURE, NODE, by="node", how="min"), "healthy"),
            Query(gauge(m.SENSOR_CAPTURE_INTERFACES, NODE, by="node"), "interfaces"),
            Query(gauge(m.SENSOR_CAPTURE_INTERFACES, NODE, 'counter!="socket"', by="node"), "by XDP"),
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
            "Frames cut a second",
            "maxPacketSize is less than they had: a message that begins in one and is not whole says partial.",
            Query(rate(m.SENSOR_CAPTURE_CUT, NODE, by="node, interface"), "{{node}} {{interface}}"),
            unit="ops",
        ),
        lines(
            "Faults a second, by kind",
            "Of the chosen nodes together. Malformed messages are news of who sends them; packets that were not counted mean that the kernel's table was full.",
            Query(rate(m.SENSOR_CAPTURE_FAULTS, NODE, by="kind"), "{{kind}}"),
            unit="ops",
            stacked=True,
        ),
        lines(
            "Packets that the nodes' kernels dropped, a second",
            "By reason, of all the node: packets for which nobody listens (no_socket), whose reader is too slow (receive_buffer), that a firewall refused.",
            Query(rate(m.SENSOR_DROPPED, NODE, by="reason"), "{{reason}}"),
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

_EVIDENCE: Final = Row(
    "Evidence",
    (
        lines(
            "Findings whose packets are kept",
            "Now, by node; 16 at once at most. Evidence is off unless the release and a policy allow it: all of this row is 0 then.",
            Query(gauge(m.SENSOR_EVIDENCE_ARMED, NODE, by="node"), "{{node}}"),
        ),
        lines(
            "Outcomes",
            "In the time range, of the chosen nodes together. Refused: nothing is captured there, or 16 are kept already. Failed: no packet was seen, or "
            "the file could not be written or sent; kubectl daemoneye evidence says which.",
            Query(increase(m.SENSOR_EVIDENCE, NODE, by="outcome"), "{{outcome}}"),
            Query(increase(m.ANALYTICS_EVIDENCE, 'outcome!="asked"', by="outcome"), "analytics: {{outcome}}"),
        ),
        lines(
            "Stored",
            "Bytes of the object store; full, it gives up the oldest files: evidence.maxBytes and evidence.maxAge of the chart.",
            Query(gauge(m.OPERATOR_STREAM, 'stream="OBJ_daemoneye_evidence"', by="stream"), "stored"),
            Query(gauge(m.OPERATOR_STREAM_MAX, 'stream="OBJ_daemoneye_evidence"', by="stream"), "most"),
            unit="bytes",
            none="none",
        ),
        lines(
            "Written and kept in memory",
            "Bytes a second of files that the broker took; memory of the look-back and of what is not sent yet, at most 72 MiB a node.",
            Query(rate(m.SENSOR_EVIDENCE_BYTES, NODE, by="node"), "{{node}} a second"),
            Query(gauge(m.SENSOR_EVIDENCE_MEMORY, NODE, by="node"), "{{node}} in memory"),
            unit="bytes",
        ),
        lines(
            "Who asked",
            "In the time range. Refused: somebody without the right, or without a token that the API server knows; analytics' log (daemoneye.audit) says who.",
            Query(increase(m.ANALYTICS_EVIDENCE_ANSWERS, by="outcome"), "{{outcome}}"),
        ),
        lines(
            "Odd packets and scapy's process",
            "In the time range. Packets that nobody could read or knows (packet_anomaly), chosen for scapy or skipped beyond 20 a second; starts of its "
            "process, and requests that it did not answer: whoever sends such packets decides how many.",
            Query(increase(m.SENSOR_ANOMALIES, NODE, by="outcome"), "{{outcome}}"),
            Query(increase(m.SENSOR_DISSECTOR_STARTS, NODE), "starts"),
            Query(increase(m.SENSOR_DISSECTOR_FAILURES, NODE), "failures"),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="network",
    title="DaemonEye / Network",
    description="What is captured of packets, what is lost of them, and what it costs.",
    rows=(_ALL, _SEEN, _LOST, _COST, _EVIDENCE),
    chooses_nodes=True,
)
