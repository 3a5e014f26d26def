"""A real Prometheus (the distribution's) beside the test cluster, which scrapes what the chart's monitors select.

Responsible for carrying out ServiceMonitors and PodMonitors as the Prometheus operator would, as far as the chart uses them, for the process, and for
asking it; not for what is asked. Debian's build knows no Kubernetes: what its discovery would find is read by kubectl and written to files, under the
same labels.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.release import Release
from tests.support.ports import free_port

INTERVAL: Final = "2s"
_META: Final = "__meta_kubernetes_"


class Discovery:
    """What monitors select, written for Prometheus to read; `refresh` it when pods were replaced."""

    def __init__(self, release: Release, objects: Sequence[Mapping[str, Any]], directory: Path) -> None:
        self._release = release
        self._monitors = [obj for obj in objects if obj["kind"] in ("ServiceMonitor", "PodMonitor")]
        self._directory = directory

    def jobs(self) -> list[dict[str, Any]]:
        """What the Prometheus operator makes of the monitors: one job for each endpoint."""
        return [
            {
                "job_name": f"{monitor['kind']}/{monitor['metadata']['namespace']}/{monitor['metadata']['name']}/{number}",
                "metrics_path": endpoint.get("path", "/metrics"),
                "file_sd_configs": [{"files": [str(self._file(monitor))], "refresh_interval": "1s"}],
                "relabel_configs": _relabel(monitor, endpoint),
            }
            for monitor in self._monitors
            for number, endpoint in enumerate(_endpoints(monitor))
        ]

    def refresh(self) -> None:
        """Look again."""
        for monitor in self._monitors:
            namespace = monitor["metadata"]["namespace"]
            found = self._services(namespace) if monitor["kind"] == "ServiceMonitor" else self._pods(namespace)
            whole = self._file(monitor).with_suffix(".new")
            whole.write_text(json.dumps(list(found)))
            whole.replace(self._file(monitor))

    def _file(self, monitor: Mapping[str, Any]) -> Path:
        return self._directory / f"{monitor['kind']}-{monitor['metadata']['name']}.json"

    def _services(self, namespace: str) -> Iterator[dict[str, Any]]:
        """Role `endpoints`: an address and port each, with the labels of its Service."""
        services = {one["metadata"]["name"]: one for one in self._release.items("services", namespace)}
        for endpoints in self._release.items("endpoints", namespace):
            name = endpoints["metadata"]["name"]
            labels = _labels("service", services.get(name)) | {
                f"{_META}service_name": name,
                f"{_META}namespace": namespace,
            }
            for subset in endpoints.get("subsets") or ():
                for address in (*subset.get("addresses", ()), *subset.get("notReadyAddresses", ())):
                    pod = (address.get("targetRef") or {}).get("name", "")
                    for port in subset.get("ports") or ():
                        yield {
                            "targets": [f"{address['ip']}:{port['port']}"],
                            "labels": labels
                            | {f"{_META}endpoint_port_name": port.get("name", ""), f"{_META}pod_name": pod},
                        }

    def _pods(self, namespace: str) -> Iterator[dict[str, Any]]:
        """Role `pod`: a container's port each, with the labels of its pod."""
        for pod in self._release.items("pods", namespace):
            labels = _labels("pod", pod) | {
                f"{_META}namespace": namespace,
                f"{_META}pod_name": pod["metadata"]["name"],
                f"{_META}pod_node_name": pod["spec"].get("nodeName", ""),
            }
            for container in pod["spec"]["containers"]:
                for port in container.get("ports") or ():
                    yield {
                        "targets": [f"{pod['status'].get('podIP', '')}:{port['containerPort']}"],
                        "labels": labels | {f"{_META}pod_container_port_name": port.get("name", "")},
                    }


def _endpoints(monitor: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(monitor["spec"]["endpoints" if monitor["kind"] == "ServiceMonitor" else "podMetricsEndpoints"])


def _relabel(monitor: Mapping[str, Any], endpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    service = monitor["kind"] == "ServiceMonitor"
    meta = f"{_META}service_label_" if service else f"{_META}pod_label_"
    port = f"{_META}endpoint_port_name" if service else f"{_META}pod_container_port_name"
    job: dict[str, Any] = {"target_label": "job"}
    if service:
        job["source_labels"] = [f"{_META}service_name"]
    else:
        job["replacement"] = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    return [
        *(
            {"source_labels": [meta + _sanitized(key)], "regex": value, "action": "keep"}
            for key, value in monitor["spec"]["selector"]["matchLabels"].items()
        ),
        {"source_labels": [port], "regex": endpoint["port"], "action": "keep"},
        {"source_labels": [f"{_META}namespace"], "target_label": "namespace"},
        {"source_labels": [f"{_META}pod_name"], "target_label": "pod"},
        job,
        *({_snake(key): value for key, value in rule.items()} for rule in endpoint.get("relabelings", ())),
    ]


def _labels(kind: str, obj: Mapping[str, Any] | None) -> dict[str, str]:
    found = ((obj or {}).get("metadata") or {}).get("labels") or {}
    return {f"{_META}{kind}_label_{_sanitized(key)}": value for key, value in found.items()}


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> dict[str, Any]:
        """The answer of its HTTP API, errors of a query included."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's series."""
        answer = self.ask("query", query=expression)
        assert answer["status"] == "success", f"{expression}\n{answer}"
        return answer["data"]["result"]

    def query_range(self, expression: str, seconds: float, step: float) -> list[dict[str, Any]]:
        """A range query's series, up to now."""
        now = time.time()
        answer = self.ask("query_range", query=expression, start=f"{now - seconds}", end=f"{now}", step=f"{step}")
        assert answer["status"] == "success", f"{expression}\n{answer}"
        return answer["data"]["result"]

    def targets(self) -> dict[str, str]:
        """Scraped address → its health: up, down or unknown, with the error."""
        active = self.ask("targets", state="active")["data"]["activeTargets"]
        return {target["scrapeUrl"]: f"{target['health']} {target['lastError']}".strip() for target in active}


@contextmanager
def running(directory: Path, discovery: Discovery, rules: Mapping[str, str]) -> Iterator[Prometheus]:
    """Prometheus with what is discovered and these rule files (name → text); gone afterwards."""
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: scripts/setup.sh tests installs it"
    for name, text in rules.items():
        (directory / name).write_text(text)
    discovery.refresh()
    configuration = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(directory / name) for name in rules],
        "scrape_configs": discovery.jobs(),
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    port = free_port()
    log = (directory / "prometheus.log").open("w")
    process = subprocess.Popen(
        [
            program, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 120
        while not _ready(found.url):
            assert process.poll() is None, (directory / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (directory / "prometheus.log").read_text()
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _ready(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _sanitized(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label)


def _snake(key: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in key)
