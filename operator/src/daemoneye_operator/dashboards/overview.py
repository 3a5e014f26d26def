"""Dashboard Overview: is everything up, is anything lost, is anything late, what does it cost."""

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
    bars,
    by_name,
    lines,
    stat,
    steps,
    table,
)
from daemoneye_operator.dashboards.queries import RANGE, gauge, increase, quantile, rate, series

_GOOD_ABOVE_0: Final = steps(RED, (1, GREEN))
_BAD_ABOVE_0: Final = steps(GREEN, (1, RED))
_FILL: Final = steps(GREEN, (0.7, YELLOW), (0.85, RED))


def _up(component: str, otherwise: str = "vector(0)") -> Query:
    matcher = f'component="{component}"'
    return Query(f"count({series(m.BUILD_INFO, matcher)}) or {otherwise}", component)


_WELL: Final = Row(
    "Is it well?",
    (
        stat(
            "Components",
            "Processes that Prometheus sees. 0: the pod is down, or nobody may scrape it: kubectl get pods, then the runbook DaemonEyeOperatorDown "
            "or its like. No callout with a broker of your own.",
            _up("operator"),
            _up("identity"),
            _up("analytics"),
            _up("callout", f"0 * {gauge(m.OPERATOR_STORE_MAX, how='max')}"),
            width=6,
            thresholds=_GOOD_ABOVE_0,
        ),
        stat(
            "Sensors",
            "Nodes that should have a sensor, sensors that run their configuration, that have not been heard of for three heartbeats, and that refuse a "
            "policy. kubectl get depol -o wide says why.",
            Query(gauge(m.OPERATOR_SENSORS, by="state"), "{{state}}"),
            width=6,
            overrides=(by_name("silent", thresholds=_BAD_ABOVE_0), by_name("refusing", thresholds=_BAD_ABOVE_0)),
            none="operator down",
        ),
        stat(
            "Policies by Ready",
            "False or Unknown: kubectl get depol -o wide, docs/troubleshooting.md has every reason.",
            Query(gauge(m.OPERATOR_POLICIES, by="ready"), "{{ready}}"),
            thresholds=steps(GREEN),
            overrides=(
                by_name("False", thresholds=_BAD_ABOVE_0),
                by_name("Unknown", thresholds=steps(GREEN, (1, ORANGE))),
            ),
            none="operator down",
        ),
        stat(
            "Connected to the broker",
            "1 when every process of the component has a connection. 0: runbook DaemonEyeBrokerUnreachable.",
            Query(gauge(m.BROKER_CONNECTED, by="component", how="min"), "{{component}}"),
            thresholds=_GOOD_ABOVE_0,
        ),
        stat(
            "Certificates end in",
            "They are renewed in the last third of their life. Less than 14 days: runbook DaemonEyeCertificateExpiry.",
            Query(
                f"({gauge(m.OPERATOR_CERTIFICATE, by='certificate', how='min')} - time()) / 86400", "{{certificate}}"
            ),
            unit="d",
            decimals=0,
            thresholds=steps(RED, (14, ORANGE), (30, GREEN)),
            none="your own broker",
        ),
        stat(
            "High and critical findings",
            "In the chosen time. kubectl get defind -A, kubectl daemoneye findings; more on the dashboard Findings.",
            Query(increase(m.OPERATOR_FINDINGS, 'severity=~"high|critical"', by="severity"), "{{severity}}"),
            width=6,
            decimals=0,
            thresholds=_BAD_ABOVE_0,
            none="none",
        ),
        stat(
            "Events lost",
            "In the chosen time, by sensors, and by the stream before analytics read them. Which node and stage: dashboard Nodes, runbook DaemonEyeEventLoss.",
            Query(increase(m.SENSOR_LOST, 'stage!="blob"'), "sensors"),
            Query(increase(m.ANALYTICS_LOST, 'stage="stream"'), "stream"),
            width=6,
            decimals=0,
            thresholds=_BAD_ABOVE_0,
            none="none",
        ),
        stat(
            "Findings waiting",
            "Findings that were read and whose object is not written. More than 0 for minutes: runbook DaemonEyeFindingsWaiting.",
            Query(gauge(m.OPERATOR_FINDINGS_WAITING), "waiting"),
            thresholds=steps(GREEN, (100, ORANGE)),
            none="operator down",
        ),
        stat(
            "Nodes that send events",
            "Nodes whose events analytics has seen.",
            Query(gauge(m.ANALYTICS_NODES), "nodes"),
            none="analytics down",
        ),
        stat(
            "Restarts",
            "Processes that were started anew in their pod, or on their node, in the chosen time. Again and again: kubectl get pods, kubectl logs --previous.",
            Query(f"sum(changes({series(m.PROCESS_START)}{RANGE}))", "restarts"),
            thresholds=steps(GREEN, (5, ORANGE)),
        ),
    ),
)

_EVENTS: Final = Row(
    "Events",
    (
        lines(
            "Events a second",
            "Rows that sensors made durable, by lane. A lane that falls to nothing on all nodes is a fault; a peak is somebody's work: dashboard Nodes.",
            Query(rate(m.SENSOR_EVENTS, by="lane"), "{{lane}}"),
            unit="eps",
            stacked=True,
        ),
        lines(
            "Lost a second, by stage",
            "ring: raise sensor.rings; lease: no sensor ran; spool: the broker was away too long; publish: refused; stream: analytics was away too long; "
            "blob: only strings were cut.",
            Query(rate(m.SENSOR_LOST, by="stage"), "{{stage}}"),
            Query(rate(m.ANALYTICS_LOST, 'stage="stream"', by="stage"), "{{stage}}"),
            unit="eps",
            stacked=True,
            overrides=(by_name("ring", color={"mode": "fixed", "fixedColor": RED}),),
        ),
        lines(
            "Analytics behind",
            "Age of the newest event that was processed, while messages wait. Above five minutes: runbook DaemonEyeAnalyticsBehind.",
            Query(gauge(m.ANALYTICS_BEHIND, how="max"), "behind"),
            unit="s",
            thresholds=steps(GREEN, (300, RED)),
        ),
        lines(
            "From the kernel to analytics",
            "Delay of a batch's newest event until it was processed. Half a second is a flush; more means that broker or analytics is slow.",
            Query(quantile(0.5, m.ANALYTICS_EVENT_DELAY), "p50"),
            Query(quantile(0.99, m.ANALYTICS_EVENT_DELAY), "p99"),
            unit="s",
        ),
        lines(
            "From the kernel to the finding",
            "Delay of a finding's event until the finding was stored. The goal is a second for p99.",
            Query(quantile(0.5, m.ANALYTICS_FINDING_DELAY), "p50"),
            Query(quantile(0.99, m.ANALYTICS_FINDING_DELAY), "p99"),
            unit="s",
            thresholds=steps(GREEN, (1, RED)),
        ),
        lines(
            "Messages that analytics has not read",
            "Batches that wait in the stream. It rises and does not fall: analytics is too slow, or gone.",
            Query(gauge(m.ANALYTICS_LAG), "waiting"),
        ),
    ),
)

_FINDINGS: Final = Row(
    "Findings",
    (
        lines(
            "Findings an hour, by severity",
            "Counted into objects and policies. What and where: kubectl get defind -A.",
            Query(f"3600 * {rate(m.OPERATOR_FINDINGS, by='severity')}", "{{severity}}"),
            width=12,
            stacked=True,
        ),
        lines(
            "Finding objects",
            "Bounded by findings.maxObjects and findings.maxAge: at the bound the one seen longest ago goes first.",
            Query(gauge(m.OPERATOR_FINDING_OBJECTS, how="max"), "objects"),
            width=12,
        ),
    ),
)

_STORES: Final = Row(
    "What is stored",
    (
        bars(
            "Fullest spools",
            "What waits for the broker on the nodes' disks, of the budget. Above half: runbook DaemonEyeSpoolFilling.",
            Query(
                f"topk(10, max by (node) ({series(m.SENSOR_SPOOL_UNSENT)} / {series(m.SENSOR_SPOOL_MAX)}))", "{{node}}"
            ),
            thresholds=steps(GREEN, (0.5, YELLOW), (0.8, RED)),
            none="no sensors",
        ),
        bars(
            "Streams",
            "Those that discard old are full sooner or later, which is no fault. Those that refuse the newest (new) must not be: runbook "
            "DaemonEyeStreamNearlyFull.",
            Query(
                f"{gauge(m.OPERATOR_STREAM, by='stream', how='max')} / on (stream) group_right () "
                f"{gauge(m.OPERATOR_STREAM_MAX, by='stream, discard', how='max')}",
                "{{stream}} ({{discard}})",
            ),
            thresholds=_FILL,
            none="not known",
        ),
        bars(
            "Broker's store",
            "Of nats.storeMaxBytes. Above 90 %: runbook DaemonEyeBrokerStoreNearlyFull. Not known of a broker of your own.",
            Query(f"{gauge(m.OPERATOR_STORE, how='max')} / {gauge(m.OPERATOR_STORE_MAX, how='max')}", "store"),
            thresholds=_FILL,
            none="not known",
        ),
    ),
)

_COST: Final = Row(
    "What it costs",
    (
        lines(
            "CPU by component",
            "Cores, the sensors' together. One node that stands out: dashboard Nodes.",
            Query(rate(m.PROCESS_CPU, by="component"), "{{component}}"),
            stacked=True,
        ),
        lines(
            "Resident memory by component",
            "The sensors' together.",
            Query(gauge(m.PROCESS_RSS, by="component"), "{{component}}"),
            unit="bytes",
            stacked=True,
        ),
        lines(
            "Most memory of one container",
            "Peak since its start. Near the limit (<component>.resources.limits.memory) the kernel ends it.",
            Query(gauge(m.PROCESS_PEAK, by="component", how="max"), "{{component}}"),
            unit="bytes",
        ),
        table(
            "Versions",
            "Processes of each version. Two of one component for longer than a rollout: an image could not be pulled, or a pod is stuck.",
            Query(f"count by (component, version) ({series(m.BUILD_INFO)})", "processes"),
            height=7,
        ),
    ),
)

_OPERATOR: Final = Row(
    "Operator, identity publisher, auth callout",
    (
        lines(
            "Passes of the operator a minute",
            "Reconciliations by result. Failures that do not end: the operator's log says `will be tried again`.",
            Query(f"60 * {rate(m.OPERATOR_PASSES, by='result')}", "{{result}}"),
        ),
        lines(
            "Duration of a pass",
            "Grows with nodes and policies, and when the API server is slow.",
            Query(quantile(0.5, m.OPERATOR_PASS_SECONDS), "p50"),
            Query(quantile(0.99, m.OPERATOR_PASS_SECONDS), "p99"),
            unit="s",
        ),
        lines(
            "Requests to the API server",
            "By method and status. 0: no answer; 403: a right is missing; 429: the API server slows it down.",
            Query(rate(m.OPERATOR_REQUESTS, by="method, code"), "{{method}} {{code}}"),
            unit="reqps",
            none="none",
        ),
        lines(
            "Silence of watches",
            "Seconds since a watch heard something or asked. It rises to five minutes where nothing changes; above that it hangs, and liveness ends it.",
            Query(gauge(m.OPERATOR_WATCH, by="resource", how="max"), "operator: {{resource}}"),
            Query(gauge(m.IDENTITY_WATCH, by="resource", how="max"), "identity: {{resource}}"),
            unit="s",
        ),
        lines(
            "Identity publisher",
            "Pods and namespaces that it knows, and documents that wait to be written. A backlog that stays: the broker is away or slow.",
            Query(gauge(m.IDENTITY_PODS), "pods"),
            Query(gauge(m.IDENTITY_NAMESPACES), "namespaces"),
            Query(gauge(m.IDENTITY_BACKLOG), "backlog"),
        ),
        lines(
            "Pod documents written",
            "Follows the cluster's own unrest: pods that come, change and go.",
            Query(rate(m.IDENTITY_WRITES), "written"),
            unit="wps",
        ),
        lines(
            "Heartbeats dropped a minute",
            "None, in good times. A node that floods its own subject, or sends what is no heartbeat: the operator's log names it. Look at that node.",
            Query(f"60 * {rate(m.OPERATOR_HEARTBEATS_DROPPED)}", "dropped"),
        ),
        lines(
            "Sensors that asked to connect, a minute",
            "By the auth callout's answer. Anything but granted: its log has node and reason, runbook DaemonEyeCalloutDown.",
            Query(f"60 * {rate(m.CALLOUT_DECISIONS, by='outcome')}", "{{outcome}}"),
            none="your own broker",
        ),
        lines(
            "Duration of a TokenReview",
            "What the API server takes to judge a sensor's token.",
            Query(quantile(0.5, m.CALLOUT_REVIEW), "p50"),
            Query(quantile(0.99, m.CALLOUT_REVIEW), "p99"),
            unit="s",
            none="your own broker",
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="overview",
    title="DaemonEye / Overview",
    description="Is everything up, is anything lost or late, what does it cost.",
    rows=(_WELL, _EVENTS, _FINDINGS, _STORES, _COST, _OPERATOR),
)
