"""Dashboard Analytics: whether the behavioural analyser keeps its word, how far it has learned, and what it costs."""

from __future__ import annotations

from typing import Final

from daemoneye import metrics as m
from daemoneye_operator.dashboards.dashboard import Dashboard, Row
from daemoneye_operator.dashboards.panels import GREEN, ORANGE, RED, Query, by_name, lines, stat, steps, table
from daemoneye_operator.dashboards.queries import gauge, increase, rate

_SCORED: Final = 'calibration="sufficient"'
_SILENT: Final = 'calibration="insufficient"'
_DRIFTED: Final = 'phase="Drifted"'
_JUDGED: Final = 'phase=~"Active|Drifted"'

_PROMISE: Final = Row(
    "Alarms, observed against nominal",
    (
        stat(
            "Windows judged",
            "That closed and got a score, in the chosen time. None: everything is being learned, or no policy has windows scored.",
            Query(increase(m.ANALYTICS_WINDOWS, _SCORED), "judged"),
            decimals=0,
            none="analytics down",
        ),
        stat(
            "Alarms",
            "Windows at or above the threshold, in the chosen time.",
            Query(increase(m.ANALYTICS_ALARMS), "alarms"),
            decimals=0,
            none="analytics down",
        ),
        stat(
            "Nominal",
            "Alarms that as many benign windows may raise if the calibration holds: windows judged times the p-value of the threshold (0.8: 1e-4).",
            Query(increase(m.ANALYTICS_NOMINAL), "nominal"),
            decimals=2,
            none="analytics down",
        ),
        stat(
            "Observed / nominal",
            "About 1 or less where nothing happens. Far above it for hours: an attack, a rollout that changes what everything does, or a broken "
            "calibration; runbook DaemonEyeAlarmRateHigh.",
            Query(f"{increase(m.ANALYTICS_ALARMS)} / ({increase(m.ANALYTICS_NOMINAL)} > 0)", "times"),
            decimals=1,
            thresholds=steps(GREEN, (20, ORANGE)),
            none="none",
        ),
        stat(
            "Suppressed findings",
            "In the chosen time. The status of analytics lists the newest. Often: raise the threshold, or except what makes so many.",
            Query(increase(m.ANALYTICS_SUPPRESSED), "suppressed"),
            decimals=0,
            thresholds=steps(GREEN, (1, ORANGE)),
            none="analytics down",
        ),
        stat(
            "Without a score",
            "Share of the windows that closed in the chosen time: too few like ones were seen, calibration is insufficient. Much of it in the first "
            "days is right.",
            Query(
                f"{increase(m.ANALYTICS_WINDOWS, _SILENT)} / {increase(m.ANALYTICS_WINDOWS)}",
                "insufficient",
            ),
            unit="percentunit",
            none="no window closed",
        ),
        lines(
            "Alarms an hour",
            "Observed and nominal. The first may jump for an hour when something happens; it must come back.",
            Query(f"3600 * {rate(m.ANALYTICS_ALARMS)}", "observed"),
            Query(f"3600 * {rate(m.ANALYTICS_NOMINAL)}", "nominal"),
            width=12,
        ),
        lines(
            "Suppressed findings an hour, by reason",
            "cooldown: they repeat what was told within the hour. budget: their policies' alertBudgetPerDay was spent, look at them before the day ends.",
            Query(f"3600 * {rate(m.ANALYTICS_SUPPRESSED, by='reason')}", "{{reason}}"),
            width=12,
            stacked=True,
            none="none yet",
        ),
    ),
)

_LIFE: Final = Row(
    "What is known",
    (
        lines(
            "Workloads by phase",
            "A new workload is in Learning and Calibrating, where only rules, allow-lists and models of the cluster speak. Stuck in Calibrating: too few "
            "windows like its own.",
            Query(gauge(m.ANALYTICS_WORKLOADS, by="phase"), "{{phase}}"),
            width=12,
            stacked=True,
            none="nothing is scored",
        ),
        lines(
            "Share that drifted",
            "Of the workloads that are judged: half of their windows have been unusual for a while. A rollout does that and passes with the next "
            "training (analytics.modelUpdateInterval); otherwise look at what changed.",
            Query(
                f"{gauge(m.ANALYTICS_WORKLOADS, _DRIFTED)} / ({gauge(m.ANALYTICS_WORKLOADS, _JUDGED)} > 0)",
                "drifted",
            ),
            unit="percentunit",
            width=12,
            none="none",
        ),
        lines(
            "Windows an hour, by calibration",
            "insufficient ones got no score: they are learned from, and nothing is guessed.",
            Query(f"3600 * {rate(m.ANALYTICS_WINDOWS, by='calibration')}", "{{calibration}}"),
            stacked=True,
            none="no window closed",
        ),
        lines(
            "Classes of references",
            "Groups of like windows that new ones are held against. /readyz of analytics says of each what it lacks.",
            Query(gauge(m.ANALYTICS_REFERENCES, by="calibration"), "{{calibration}}"),
            stacked=True,
            none="none yet",
        ),
        lines(
            "Entries in the tables",
            "At most max_items (detector behavioral_anomaly) are kept, those unseen for longest go first. At the bound for long: rare things are forgotten.",
            Query(gauge(m.ANALYTICS_ITEMS, by="table"), "{{table}}"),
            none="none yet",
        ),
    ),
)

_MODELS: Final = Row(
    "Fitted models",
    (
        table(
            "Models",
            "Number of the one in use and its age, and in the chosen time: promoted, rejected (the old one goes on), refused (runbook "
            "DaemonEyeModelRefused), batches that it could not score.",
            Query(gauge(m.ANALYTICS_MODEL, by="model", how="max"), "number"),
            Query(gauge(m.ANALYTICS_MODEL_AGE, by="model", how="max"), "age"),
            *(
                Query(increase(m.ANALYTICS_MODEL_OUTCOMES, f'outcome="{outcome}"', by="model"), outcome)
                for outcome in ("promoted", "rejected", "refused", "errors")
            ),
            width=16,
            overrides=(
                by_name("age", unit="s"),
                *(
                    by_name(
                        name,
                        decimals=0,
                        thresholds=steps(GREEN, (1, RED)),
                        **{"custom.cellOptions": {"type": "color-text"}},
                    )
                    for name in ("refused", "errors")
                ),
            ),
            none="no model is fitted",
        ),
        lines(
            "Age of models",
            "It falls to nothing with every training, each analytics.modelUpdateInterval (a day). It grows on: fits are rejected, analytics' log says why.",
            Query(gauge(m.ANALYTICS_MODEL_AGE, by="model", how="max"), "{{model}}"),
            unit="s",
            none="no model is fitted",
        ),
    ),
)

_COST: Final = Row(
    "What it costs",
    (
        lines(
            "Time of detectors",
            "Of one core. They run one after another: near 1 in sum, analytics cannot keep up (analytics.resources).",
            Query(rate(m.ANALYTICS_DETECTOR_SECONDS, by="detector"), "{{detector}}"),
            unit="percentunit",
            stacked=True,
            none="no policy wants a detector",
        ),
        lines(
            "Events and executions a second",
            "Rows that took effect, and executions among them that the analyser measured.",
            Query(rate(m.ANALYTICS_EVENTS), "events"),
            Query(rate(m.ANALYTICS_EXECUTIONS), "executions measured"),
            unit="eps",
        ),
        lines(
            "Analytics' memory and CPU",
            "Resident bytes; CPU is of one core. Memory grows with workloads and entries, which are bounded.",
            Query(gauge(m.PROCESS_RSS, 'component="analytics"', how="max"), "memory"),
            Query(rate(m.PROCESS_CPU, 'component="analytics"'), "CPU"),
            unit="bytes",
            overrides=(by_name("CPU", unit="percentunit", **{"custom.axisPlacement": "right"}),),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="analytics",
    title="DaemonEye / Analytics",
    description="Whether the behavioural analyser keeps its word, how far it has learned, and what it costs.",
    rows=(_PROMISE, _LIFE, _MODELS, _COST),
)
