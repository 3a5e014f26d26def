"""What Prometheus and Grafana get of the chart: objects of the Prometheus operator where their kinds are known, and ConfigMaps with dashboards."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from daemoneye_operator import settings
from daemoneye_operator.reconcile.daemonset import desired_daemonset
from tests.chart.chart import CHART, MONITORING, ROOT, notes, pods, render
from tests.chart.promql import promtool

F = "rel-daemoneye"
SERVICE_MONITOR, POD_MONITOR, RULE = (
    f"ServiceMonitor/{F}-components",
    f"PodMonitor/{F}-sensor",
    f"PrometheusRule/{F}-alerts",
)
ALL = {"ServiceMonitor": SERVICE_MONITOR, "PodMonitor": POD_MONITOR, "PrometheusRule": RULE}
VALUES = {"ServiceMonitor": "serviceMonitor", "PodMonitor": "podMonitor", "PrometheusRule": "prometheusRule"}
EXTERNAL = CHART / "ci" / "external-nats-values.yaml"

# Of the CRDs as the Prometheus operator publishes them (v0.82): what we use, and its type; a list's elements have that of its only item.
LABELS: dict[str, Any] = {"*": str}
SELECTOR: dict[str, Any] = {"matchLabels": LABELS}
RELABELING: dict[str, Any] = {"sourceLabels": [str], "targetLabel": str, "regex": str, "action": str}
ENDPOINT: dict[str, Any] = {
    "port": str, "path": str, "interval": str, "scrapeTimeout": str, "relabelings": [RELABELING],
}  # fmt: skip
ALERT: dict[str, Any] = {
    "alert": str, "record": str, "expr": str, "for": str, "labels": LABELS, "annotations": LABELS,
}  # fmt: skip
SPECS: dict[str, Any] = {
    "ServiceMonitor": {"selector": SELECTOR, "endpoints": [ENDPOINT]},
    "PodMonitor": {"selector": SELECTOR, "podMetricsEndpoints": [ENDPOINT]},
    "PrometheusRule": {"groups": [{"name": str, "rules": [ALERT]}]},
}


def misfits(value, shape, path="spec"):
    """Where a value is not of its shape."""
    if isinstance(shape, type):
        return [] if isinstance(value, shape) else [f"{path}: {value!r}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [wrong for number, item in enumerate(value) for wrong in misfits(item, shape[0], f"{path}[{number}]")]
    if not isinstance(value, dict):
        return [f"{path}: no mapping"]
    return [
        wrong
        for key, child in value.items()
        for wrong in (
            misfits(child, shape.get(key, shape.get("*")), f"{path}.{key}")
            if key in shape or "*" in shape
            else [f"{path}.{key}"]
        )
    ]


def named(kind, objects):
    return {name for name in objects if name.startswith(f"{kind}/")}


# ── when they are made ──────────────────────────────────────────────────────────────────────────────────────────────


def test_without_the_prometheus_operator_there_is_nothing_of_it():
    assert not set(ALL.values()) & set(render())
    assert set(render(apis=MONITORING)) - set(render()) == set(ALL.values())


@pytest.mark.parametrize("kind", ALL)
def test_each_is_made_for_its_own_kind_alone(kind):
    (api,) = (api for api in MONITORING if api.endswith(f"/{kind}"))
    assert set(render(apis=(api,))) - set(render()) == {ALL[kind]}


@pytest.mark.parametrize("kind", ALL)
def test_each_can_be_left_out(kind):
    without = render(f"metrics.{VALUES[kind]}.enabled=false", apis=MONITORING)
    assert set(render(apis=MONITORING)) - set(without) == {ALL[kind]}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("sets", [(), ("metrics.serviceMonitor.interval=30s", "metrics.podMonitor.scrapeTimeout=5s")])
def test_their_fields_are_those_of_the_crds(kind, sets):
    found = render(*sets, apis=MONITORING)[ALL[kind]]
    assert found["apiVersion"] == "monitoring.coreos.com/v1"
    assert misfits(found["spec"], SPECS[kind]) == []


def test_a_field_that_no_crd_has_would_be_seen():
    found = render(apis=MONITORING)[POD_MONITOR]["spec"]
    (endpoint,) = found["podMetricsEndpoints"]
    wrong = {**found, "jobs": 1, "podMetricsEndpoints": [{**endpoint, "port": 8080}]}
    assert sorted(misfits(wrong, SPECS["PodMonitor"])) == ["spec.jobs", "spec.podMetricsEndpoints[0].port: 8080"]


@pytest.mark.parametrize("kind", ALL)
def test_labels_choose_the_prometheus_and_ours_stay(kind):
    key = f"metrics.{VALUES[kind]}.labels"
    found = render(f"{key}.release=prometheus", rf"{key}.app\.kubernetes\.io/name=mine", apis=MONITORING)[ALL[kind]]
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert found["metadata"]["labels"]["app.kubernetes.io/name"] == "daemoneye"
    assert found["metadata"]["namespace"] == "security"


def test_intervals():
    def endpoint(*sets):
        objects = render(*sets, apis=MONITORING)
        (service,), (pod,) = (
            objects[SERVICE_MONITOR]["spec"]["endpoints"],
            objects[POD_MONITOR]["spec"]["podMetricsEndpoints"],
        )
        return service, pod

    for found in endpoint():
        assert {"interval", "scrapeTimeout"} & set(found) == set()
    sets = [
        f"metrics.{x}Monitor.{key}={value}"
        for x in ("service", "pod")
        for key, value in (("interval", "30s"), ("scrapeTimeout", "5s"))
    ]
    for found in endpoint(*sets):
        assert (found["interval"], found["scrapeTimeout"]) == ("30s", "5s")


# ── what they select ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("values", "broker"), [(None, {"callout"}), (EXTERNAL, set())], ids=["own", "external"])
def test_the_service_monitor_selects_everything_that_has_metrics_but_sensors(values, broker):
    objects = render(values=values, apis=MONITORING)
    spec = objects[SERVICE_MONITOR]["spec"]
    (endpoint,) = spec["endpoints"]
    wanted = spec["selector"]["matchLabels"].items()
    found = {
        name
        for name in named("Service", objects)
        if wanted <= objects[name]["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in objects[name]["spec"]["ports"]}
    }
    assert found == {f"Service/{F}-{x}" for x in {"operator", "identity", "analytics"} | broker}
    # Its Service leads to pods whose container has the port on which health and metrics are answered.
    for name in found:
        selector = objects[name]["spec"]["selector"].items()
        (pod,) = (
            pod
            for where, pod in pods(objects)
            if where.startswith("Deployment/") and selector <= pod["metadata"]["labels"].items()
        )
        assert {"name": "health", "containerPort": 8080, "protocol": "TCP"} in pod["spec"]["containers"][0]["ports"]


def sensor(tmp_path):
    """The sensors' pod, as the operator makes it from what the chart tells it."""
    path = tmp_path / "operator.json"
    path.write_text(render()[f"ConfigMap/{F}-operator"]["data"]["operator.json"])
    return desired_daemonset(settings.load(path), [], None)["spec"]["template"]


def test_the_pod_monitor_selects_sensors_and_nothing_else(tmp_path):
    objects = render(apis=MONITORING)
    spec = objects[POD_MONITOR]["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    wanted = spec["selector"]["matchLabels"].items()
    pod = sensor(tmp_path)
    assert wanted <= pod["metadata"]["labels"].items()
    assert not [name for name, other in pods(objects) if wanted <= other["metadata"]["labels"].items()]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0].get("ports", ())}
    assert ports.get(endpoint["port"]) == 8080


def test_a_sensors_series_are_named_after_its_node_and_outlive_its_pod():
    (endpoint,) = render(apis=MONITORING)[POD_MONITOR]["spec"]["podMetricsEndpoints"]
    node = ["__meta_kubernetes_pod_node_name"]
    assert endpoint["relabelings"] == [
        {"sourceLabels": node, "targetLabel": "node"},
        {"sourceLabels": node, "targetLabel": "instance"},
        {"action": "labeldrop", "regex": "pod"},
    ]


# ── alerts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_alerts_are_the_rule_files():
    found = render(apis=MONITORING)[RULE]["spec"]
    assert found == yaml.safe_load((CHART / "rules" / "daemoneye.yaml").read_text())


@pytest.mark.parametrize("base", ["https://wiki.example.com/eye", "https://wiki.example.com/eye/"])
def test_runbooks_are_where_they_are_said_to_be(base):
    found = render(f"metrics.prometheusRule.runbookBaseUrl={base}", apis=MONITORING)[RULE]["spec"]
    urls = {
        rule["alert"]: rule["annotations"]["runbook_url"]
        for group in found["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert len(urls) > 15
    assert urls == {name: f"https://wiki.example.com/eye/{name}.md" for name in urls}


# ── who may scrape ──────────────────────────────────────────────────────────────────────────────────────────────────


def scrapers(objects, component):
    rules = objects[f"NetworkPolicy/{F}-{component}"]["spec"].get("ingress", [])
    return [
        peer
        for rule in rules
        if {"port": 8080, "protocol": "TCP"} in rule["ports"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]


@pytest.mark.parametrize("component", ["operator", "identity", "analytics", "callout", "sensor"])
def test_prometheus_may_reach_each(component, tmp_path):
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert scrapers(render(), component) == [monitoring]
    values = tmp_path / "values.yaml"
    peer = {**monitoring, "podSelector": {"matchLabels": {"app": "prometheus"}}}
    values.write_text(yaml.safe_dump({"metrics": {"networkPolicy": {"from": [peer]}}}))
    assert scrapers(render(values=values), component) == [peer]
    assert scrapers(render("metrics.networkPolicy.from=null"), component) == []


def test_nobody_else_may(tmp_path):
    objects = render()
    open_to_prometheus = {
        name.removeprefix(f"NetworkPolicy/{F}-")
        for name in named("NetworkPolicy", objects)
        if scrapers(objects, name.removeprefix(f"NetworkPolicy/{F}-"))
    }
    assert open_to_prometheus == {"operator", "identity", "analytics", "callout", "sensor"}


# ── dashboards ──────────────────────────────────────────────────────────────────────────────────────────────────────


def dashboards(*sets):
    objects = render(*sets)
    return {name: objects[name] for name in objects if name.startswith(f"ConfigMap/{F}-dashboard-")}


def test_dashboards_are_config_maps_for_the_sidecar():
    found = dashboards()
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert set(found) == {f"ConfigMap/{F}-dashboard-{path.stem}" for path in files}
    for path in files:
        value = found[f"ConfigMap/{F}-dashboard-{path.stem}"]
        assert value["data"] == {f"daemoneye-{path.name}": path.read_text().rstrip("\n")}
        assert value["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert value["metadata"]["annotations"] == {"grafana_folder": "DaemonEye"}
        # kubectl apply without --server-side keeps a copy in an annotation, which ends at 256 KiB.
        assert len(path.read_text()) < 200_000


def test_a_sidecar_of_other_names():
    names = ("label=dash", "labelValue=yes", "folderAnnotation=k8s-sidecar-target-directory", "folder=Security")
    for value in dashboards(*(f"grafana.dashboards.{name}" for name in names)).values():
        assert value["metadata"]["labels"]["dash"] == "yes"
        assert "grafana_dashboard" not in value["metadata"]["labels"]
        assert value["metadata"]["annotations"] == {"k8s-sidecar-target-directory": "Security"}
    for value in dashboards("grafana.dashboards.folder=").values():
        assert "annotations" not in value["metadata"]
    assert dashboards("grafana.dashboards.enabled=false") == {}


# ── what is said about it ───────────────────────────────────────────────────────────────────────────────────────────


def said(text):
    part = text.partition("Monitoring (docs/monitoring.md):\n")[2]
    return [line.strip() for line in part.splitlines() if line.startswith("  ")]


def test_notes_say_what_was_made_or_why_not(tmp_path):
    assert said(notes(tmp_path, apis=MONITORING)) == [
        "PodMonitor of the sensors: made.",
        "PrometheusRule with the alerts: made.",
        "ServiceMonitor of operator, identity publisher, analytics and auth callout: made.",
        "Dashboards: ConfigMaps with the label grafana_dashboard=1, for the sidecar of Grafana's chart.",
    ]
    for line in said(notes(tmp_path))[:3]:
        assert re.match(r"\w+: left out, the cluster does not know the kind", line)
    off = (
        "metrics.podMonitor.enabled=false",
        "metrics.serviceMonitor.labels.release=prom",
        "grafana.dashboards.enabled=false",
    )
    assert [line for line in said(notes(tmp_path, *off, apis=MONITORING)) if "alerts" not in line] == [
        "PodMonitor: left out, metrics.podMonitor.enabled is false.",
        'ServiceMonitor of operator, identity publisher, analytics and auth callout: made, with the labels {"release":"prom"}.',
        "Dashboards: left out, grafana.dashboards.enabled is false.",
    ]


def test_the_docs_scrape_configuration_finds_and_names_as_the_monitors_do(tmp_path):
    """For a Prometheus without the operator. Debian's has no Kubernetes discovery: targets are given as it would find them."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    (block,) = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", text, re.DOTALL)
    config = yaml.safe_load(block)
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["daemoneye"]}}]

    def pod(address, app="daemoneye", component="sensor", port="health", phase="Running"):
        meta = {
            "namespace": "daemoneye", "pod_name": f"pod-{address}", "pod_node_name": "n1", "pod_phase": phase,
            "pod_container_port_name": port, "pod_label_app_kubernetes_io_name": app,
            "pod_label_app_kubernetes_io_component": component,
        }  # fmt: skip
        labels = {f"__meta_kubernetes_{key}": value for key, value in meta.items()}
        return {"targets": [f"{address}:8080"], "labels": labels}

    job["static_configs"] = [
        pod("sensor"), pod("operator", component="operator"), pod("nats", component="nats", port="monitor"), pod("other", app="x"),
        pod("gone", phase="Failed"),
    ]  # fmt: skip
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [promtool(), "check", "service-discovery", "--timeout=1s", path, "daemoneye"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [target["labels"] for target in json.loads(done.stdout) if target["labels"]]
    named = {target["__address__"]: {k: v for k, v in target.items() if not k.startswith("__")} for target in found}
    assert named == {
        "sensor:8080": {"job": "daemoneye", "namespace": "daemoneye", "node": "n1", "instance": "n1"},
        "operator:8080": {"job": "daemoneye", "namespace": "daemoneye", "instance": "pod-operator"},
    }
