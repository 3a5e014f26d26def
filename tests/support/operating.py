"""The operator's process beside an API server and a broker of the tests, with the rights that the chart gives it.

Its broker's Secrets are on the API server before it starts, as if a former operator had made them. What takes minutes in a cluster, until somebody is
taken for blind, takes seconds here; and kopf's watches can be made blind.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from daemoneye_operator import resources
from daemoneye_operator.kube import path_of
from tests.chart.chart import NAMESPACE, ROOT, render
from tests.support.apiserver import ApiServer
from tests.support.broker import Broker
from tests.support.page import fetch
from tests.support.ports import free_ports

ACCOUNT: Final = "daemoneye-operator"
BLIND_S: Final = 8.0
"""Seconds until kopf, or the watch of the Lease, is taken for blind here. Other watches are quiet for minutes where nothing happens."""
_MAIN: Final = """
import sys
from pathlib import Path
from daemoneye_operator import __main__, brokerlook, handlers, pulse, sight, watch
told, deaf = Path(sys.argv[1]), Path(sys.argv[2])
sight.LEASE_S = sight.UNTOLD_S = {blind}
sight._FRESH_S = 2.0
watch._LONGEST_WAIT_S, handlers._BACKOFFS = 0.5, (0.5,)
pulse.EVERY_S, brokerlook.EVERY_S, brokerlook._AGAIN_S = 0.5, 1.0, 0.2
put = handlers.Across.put
handlers.Across.put = lambda *told: None if deaf.exists() else put(*told)
load = __main__.load
__main__.load = lambda path: load(path).model_copy(update={{"resync_seconds": {resync}}})
sys.exit(__main__.main(["run", "--settings", str(told)]))
"""
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"


def install(api: ApiServer, *sets: str, apis: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """What the chart installs for the operator, in the namespace that is there: CRDs, account, rights, and the Deployment that owns what it makes.

    Returns:
        All that the chart renders with these values for a cluster with these kinds, by kind/name.
    """
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))
    named = render("fullnameOverride=daemoneye", *sets, apis=apis)
    for kind, plural, namespace in (
        ("ClusterRole", "clusterroles", ""), ("ClusterRoleBinding", "clusterrolebindings", ""),
        ("Role", "roles", NAMESPACE), ("RoleBinding", "rolebindings", NAMESPACE),
    ):  # fmt: skip
        api.create(path_of(_RBAC, plural, namespace=namespace), named[f"{kind}/{ACCOUNT}"])
    api.create(path_of(resources.CORE, "serviceaccounts", namespace=NAMESPACE), {"metadata": {"name": ACCOUNT}})
    deployment = named[f"Deployment/{ACCOUNT}"]
    deployment = {**deployment, "spec": {**deployment["spec"], "replicas": 0}}
    api.create(path_of(resources.APPS, "deployments", namespace=NAMESPACE), deployment)
    return named


class Operator:
    """One process; can be killed and started again."""

    def __init__(self, broker: Broker, api: ApiServer, directory: Path, resync_s: float, **nats: Any) -> None:
        self._directory = directory
        self._resync_s = resync_s
        self.deaf = directory / "deaf"
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        settings = broker.settings.model_dump(by_alias=True, mode="json", exclude_none=True)
        settings["nats"] |= {**nats, "url": broker.access("operator").url}
        settings["sensor"]["statusIntervalSeconds"] = 1
        (directory / "operator.json").write_text(json.dumps({**settings, "healthPort": self._port}))
        api.kubeconfig(directory / "kubeconfig", NAMESPACE, ACCOUNT)
        for name, data in broker.secrets.secrets.items():
            encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
            api.create(
                path_of(resources.CORE, "secrets", namespace=NAMESPACE), {"metadata": {"name": name}, "data": encoded}
            )

    def start(self) -> None:
        """Start it."""
        code = _MAIN.format(blind=BLIND_S, resync=self._resync_s)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, self._directory / "operator.json", self.deaf],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "KUBECONFIG": str(self._directory / "kubeconfig"), "DAEMONEYE_POD": "operator-0"},
            )  # fmt: skip

    def says(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and content of /healthz or /readyz; 0 without an answer."""
        status, data = self._ask(path)
        return status, json.loads(data or b"{}")

    def metrics(self) -> dict[str, Metric]:
        """What Prometheus reads, by name."""
        status, data = self._ask("/metrics")
        assert status == 200, data
        return {family.name: family for family in text_string_to_metric_families(data.decode())}

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        return process.wait(60)

    def signal(self, number: int) -> None:
        """Send it a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def log(self) -> str:
        """What it had to say."""
        path = self._directory / "log"
        return path.read_text()[-4000:] if path.exists() else ""

    def _ask(self, path: str) -> tuple[int, bytes]:
        assert self._process is not None
        assert self._process.poll() is None, f"the operator ended: {self.log()}"
        return fetch(self._port, path)


@contextmanager
def running(broker: Broker, api: ApiServer, directory: Path, resync_s: float = 5.0, **nats: Any) -> Iterator[Operator]:
    """One that was started, and looks at everything again so often; ended whatever happens. `nats` are settings beside those that the broker began with."""
    operator = Operator(broker, api, directory, resync_s, **nats)
    try:
        operator.start()
        yield operator
    finally:
        operator.stop(signal.SIGKILL)
