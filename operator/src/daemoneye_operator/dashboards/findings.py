"""Dashboard Findings: what was found, by what, how late, and what became of it."""

from __future__ import annotations

from typing import Final

from daemoneye import metrics as m
from daemoneye_operator.dashboards.dashboard import Dashboard, Row
from daemoneye_operator.dashboards.panels import GREEN, ORANGE, RED, Query, by_name, heatmap, lines, stat, steps, table
from daemoneye_operator.dashboards.queries import buckets, gauge, increase, quantile, rate

_BAD_ABOVE_0: Final = steps(GREEN, (1, RED))

_FOUND: Final = Row(
    "What was found",
    (
        lines(
            "Findings an hour, by severity",
            "Stored by analytics, repetitions included. What and where: kubectl get defind -A, kubectl daemoneye findings.",
            Query(f"3600 * {rate(m.ANALYTICS_FINDINGS, by='severity')}", "{{severity}}"),
            width=12,
            stacked=True,
            none="none yet",
        ),
        lines(
            "Findings an hour, by detector",
            "A detector that speaks all day is one to except (DetectionException) or to switch off in the policy.",
            Query(f"3600 * {rate(m.ANALYTICS_FINDINGS, by='detector')}", "{{detector}}"),
            width=12,
            stacked=True,
            none="none yet",
        ),
        table(
            "By detector and severity",
            "Findings in the chosen time.",
            Query(increase(m.ANALYTICS_FINDINGS, by="detector, severity"), "findings"),
            width=12,
            overrides=(by_name("findings", decimals=0),),
            none="none yet",
        ),
        table(
            "Detectors",
            "Share of a core that each takes, and batches on which it failed in the chosen time: a failure is a bug, analytics' log has it.",
            Query(rate(m.ANALYTICS_DETECTOR_SECONDS, by="detector"), "CPU"),
            Query(increase(m.ANALYTICS_DETECTOR_ERRORS, by="detector"), "failures"),
            width=12,
            overrides=(
                by_name("CPU", unit="percentunit"),
                by_name(
                    "failures", decimals=0, thresholds=_BAD_ABOVE_0, **{"custom.cellOptions": {"type": "color-text"}}
                ),
            ),
            none="no policy wants a detector",
        ),
    ),
)

_LATE: Final = Row(
    "How late",
    (
        lines(
            "From the kernel to the finding",
            "From the event to the finding being stored. The goal is a second for p99; while analytics is behind it cannot be met.",
            Query(quantile(0.5, m.ANALYTICS_FINDING_DELAY), "p50"),
            Query(quantile(0.99, m.ANALYTICS_FINDING_DELAY), "p99"),
            unit="s",
            width=12,
            thresholds=steps(GREEN, (1, ORANGE)),
        ),
        heatmap(
            "From the kernel to the finding",
            "The same, findings by delay.",
            buckets(m.ANALYTICS_FINDING_DELAY),
        ),
    ),
)

_BECAME: Final = Row(
    "What became of them",
    (
        stat(
            "Finding objects",
            "That exist. Bounded by findings.maxObjects.",
            Query(gauge(m.OPERATOR_FINDING_OBJECTS, how="max"), "objects"),
            none="operator down",
        ),
        stat(
            "Silenced",
            "In the chosen time, by a DetectionException: kubectl get deexc -A.",
            Query(increase(m.OPERATOR_FINDINGS_SILENCED), "silenced"),
            decimals=0,
            none="operator down",
        ),
        stat(
            "Suppressed",
            "In the chosen time: beyond findings.creationsPerMinute, counted in their policy all the same. Often: fix or except what makes so many.",
            Query(increase(m.OPERATOR_FINDINGS_SUPPRESSED), "suppressed"),
            decimals=0,
            thresholds=steps(GREEN, (1, ORANGE)),
            none="operator down",
        ),
        stat(
            "Unwanted",
            "In the chosen time: no policy of their subject wants their detector; or, of scored ones, beyond a policy's alertBudgetPerDay "
            "(its status lists the newest) or repeating within an hour what was told.",
            Query(increase(m.ANALYTICS_UNWANTED), "unwanted"),
            Query(increase(m.ANALYTICS_SUPPRESSED, by="reason"), "{{reason}}"),
            decimals=0,
            none="analytics down",
        ),
        stat(
            "Lost",
            "In the chosen time: refused for good by the broker or by the API server. Runbook DaemonEyeFindingsLost.",
            Query(increase(m.ANALYTICS_REFUSED), "by the broker"),
            Query(increase(m.OPERATOR_FINDINGS_LOST), "by the API server"),
            decimals=0,
            thresholds=_BAD_ABOVE_0,
            none="nobody to ask",
        ),
        stat(
            "Unreadable",
            "In the chosen time: messages that were no findings. Somebody else writes on that stream.",
            Query(increase(m.OPERATOR_FINDINGS_CORRUPT), "unreadable"),
            decimals=0,
            thresholds=_BAD_ABOVE_0,
            none="operator down",
        ),
        lines(
            "Waiting for their object",
            "Read and not acknowledged. It stays above 0: the API server refuses or is slow, runbook DaemonEyeFindingsWaiting.",
            Query(gauge(m.OPERATOR_FINDINGS_WAITING), "waiting"),
            width=12,
        ),
        lines(
            "Messages in the streams",
            "Findings stay for streams.findingsMaxAge, whether they became objects or not.",
            Query(gauge(m.OPERATOR_STREAM_MESSAGES, by="stream", how="max"), "{{stream}}"),
            width=12,
            none="not known",
        ),
    ),
)

_ANALYTICS: Final = Row(
    "Analytics",
    (
        lines(
            "Events judged a second",
            "Rows that took effect. Below what the sensors make for long: analytics falls behind.",
            Query(rate(m.ANALYTICS_EVENTS), "events"),
            unit="eps",
        ),
        lines(
            "Time of detectors",
            "Of one core. They run one after another: near 1 in sum, analytics cannot keep up (analytics.resources).",
            Query(rate(m.ANALYTICS_DETECTOR_SECONDS, by="detector"), "{{detector}}"),
            unit="percentunit",
            stacked=True,
            none="no policy wants a detector",
        ),
        lines(
            "Age of the checkpoint",
            "What came after it is processed again after a crash. It grows without end: the broker refuses it, runbook DaemonEyeStreamNearlyFull.",
            Query(gauge(m.ANALYTICS_CHECKPOINT, how="max"), "age"),
            unit="s",
        ),
        lines(
            "Told of losses, a second",
            "Lost records that analytics was told of or found by a jump, by stage: what findings may have missed.",
            Query(rate(m.ANALYTICS_LOST, by="stage"), "{{stage}}"),
            unit="eps",
            stacked=True,
            none="none",
        ),
        lines(
            "Batches passed over a minute",
            "corrupt: no batch, or not that node's; ignored: of a newer version: upgrade analytics before sensors; "
            "unread events: of records that only a newer version knows.",
            Query(f"60 * {rate(m.ANALYTICS_CORRUPT)}", "corrupt"),
            Query(f"60 * {rate(m.ANALYTICS_IGNORED)}", "ignored"),
            Query(f"60 * {rate(m.ANALYTICS_UNREAD)}", "unread events"),
        ),
        lines(
            "Policies with a problem",
            "Analytics left something out of them: a detector or a parameter that it does not know. Its log and the policy's status (BadDetector) say which.",
            Query(gauge(m.ANALYTICS_PROBLEMS, how="max"), "policies"),
            thresholds=steps(GREEN, (1, ORANGE)),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="findings",
    title="DaemonEye / Findings",
    description="What was found, by what, how late, and what became of it.",
    rows=(_FOUND, _LATE, _BECAME, _ANALYTICS),
)
