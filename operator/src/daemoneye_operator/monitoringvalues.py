"""The Helm chart's values for Prometheus and Grafana.

Responsible for what `daemoneye_operator.chartvalues` is for the rest: names, defaults, bounds and descriptions. Not for alerts (charts/daemoneye/rules)
nor dashboards (:mod:`daemoneye_operator.dashboards`). Not read at run time.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from daemoneye_operator.settings import OperatorSettings

_PERIOD: Final = r"^$|^([0-9]+(ms|s|m|h))+$"


class _Group(BaseModel):
    model_config = ConfigDict(**OperatorSettings.model_config)


class _Monitor(_Group):
    """How Prometheus scrapes."""

    enabled: bool = True
    interval: str = Field(
        default="",
        description="How often it is scraped, such as 30s. Empty by default: Prometheus' own.",
        pattern=_PERIOD,
    )
    scrape_timeout: str = Field(
        default="",
        description="How long a scrape may take, at most the interval. Empty by default: Prometheus' own.",
        pattern=_PERIOD,
    )
    labels: dict[str, str] = Field(
        default={},
        description="Labels by which your Prometheus selects it, such as {release: prometheus}. None by default.",
    )


class ServiceMonitor(_Monitor):
    """ServiceMonitor of everything but the sensors."""

    enabled: bool = Field(
        default=True,
        description="Make one of operator, identity publisher, analytics and auth callout where the cluster has that CRD. On by default.",
    )


class PodMonitor(_Monitor):
    """PodMonitor of the sensors."""

    enabled: bool = Field(
        default=True, description="Make one of the sensors where the cluster has that CRD. On by default."
    )


class PrometheusRule(_Group):
    """PrometheusRule with the alerts."""

    enabled: bool = Field(
        default=True, description="Make one with the alerts where the cluster has that CRD. On by default."
    )
    labels: dict[str, str] = Field(
        default={},
        description="Labels by which your Prometheus selects it, such as {release: prometheus}. None by default.",
    )
    runbook_base_url: str = Field(
        default="",
        description="Where you serve docs/runbooks, the beginning of the alerts' runbook_url. Empty by default: that path of the repository.",
        pattern=r"^$|^https?://\S+$",
        max_length=1024,
    )


class MetricsNetworkPolicy(_Group):
    """Who may reach /metrics where networkPolicy.enabled closes everything else."""

    peers: list[dict[str, Any]] = Field(
        alias="from",
        default=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        description="NetworkPolicyPeers. All pods of the namespace monitoring by default; an empty list lets nobody in from other namespaces.",
        max_length=16,
    )


class Metrics(_Group):
    """What Prometheus gets. The first three need the Prometheus operator's CRDs and are left out without them."""

    service_monitor: ServiceMonitor = Field(default=ServiceMonitor(), description="ServiceMonitor.")
    pod_monitor: PodMonitor = Field(default=PodMonitor(), description="PodMonitor.")
    prometheus_rule: PrometheusRule = Field(default=PrometheusRule(), description="PrometheusRule.")
    network_policy: MetricsNetworkPolicy = Field(default=MetricsNetworkPolicy(), description="Who may reach /metrics.")


class Dashboards(_Group):
    """Dashboards as ConfigMaps, which the sidecar of Grafana's chart takes up."""

    enabled: bool = Field(default=True, description="Make them. On by default.")
    label: str = Field(
        default="grafana_dashboard",
        description="Label by which the sidecar finds them. grafana_dashboard by default.",
        min_length=1,
        max_length=317,
    )
    label_value: str = Field(default="1", description='Its value. "1" by default.', max_length=63)
    folder_annotation: str = Field(
        default="grafana_folder",
        description="Annotation that names the folder, the sidecar's folderAnnotation. grafana_folder by default.",
        min_length=1,
        max_length=317,
    )
    folder: str = Field(
        default="DaemonEye",
        description="Folder in Grafana; empty: none is named. DaemonEye by default.",
        max_length=253,
    )


class Grafana(_Group):
    """What Grafana gets."""

    dashboards: Dashboards = Field(default=Dashboards(), description="Dashboards.")
