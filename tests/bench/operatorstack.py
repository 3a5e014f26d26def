"""Operator, identity publisher and broker as processes beside a test cluster, with production's settings, for benches.

Each of the two has an account of the API server of its own, which may do everything, so that the server's flow control counts its requests apart.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any, Final

from daemoneye.broker.roles import inbox_prefix
from tests.cluster.operatorprocess import NAMESPACE, PASSWORD, OperatorProcess
from tests.cluster.release import wait

NAMES: Final = ("operator", "identity")
USER: Final = ("bench", PASSWORD)
"""A user of the broker who may do everything."""
_IDENTITY: Final = (
    "import asyncio, sys; from pathlib import Path; from daemoneye_operator import publisher, settings; "
    "asyncio.run(publisher.serve(settings.load(Path(sys.argv[1])), Path(sys.argv[2])))"
)


def flow_schema(name: str) -> str:
    """Name of the account and of the FlowSchema that counts the requests of one of NAMES."""
    return f"scale-{name}"


class Processes(OperatorProcess):
    """Operator, publisher and broker with production's settings, each with an account of its own."""

    def prepare(self) -> None:
        super().prepare()
        settings = json.loads((self.directory / "operator.json").read_text())
        del settings["resyncSeconds"], settings["sensor"]["statusIntervalSeconds"]
        settings["sensor"]["nodeSelector"] = {"type": "kwok"}
        (self.directory / "operator.json").write_text(json.dumps(settings))
        identity = {**settings, "healthPort": settings["healthPort"] + 1}
        (self.directory / "identity.json").write_text(json.dumps(identity))
        (self.directory / "broker").mkdir()
        for key, value in {"user": "identity", "password": PASSWORD, "inbox_prefix": inbox_prefix("identity")}.items():
            (self.directory / "broker" / key).write_text(value)
        config = json.loads((self.directory / "nats.conf").read_text())
        config["jetstream"]["sync_interval"] = "always"
        config["authorization"]["users"].append({"user": USER[0], "password": USER[1]})
        (self.directory / "nats.conf").write_text(json.dumps(config))
        for name in NAMES:
            self._account(name)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "daemoneye_operator",
            "run",
            "--settings",
            str(self.directory / "operator.json"),
        ]
        self._start("operator", command, env=self._environment("operator"))
        wait("operator ready", self._answers, 120, every=0.1)

    def start_identity(self) -> None:
        command = [
            sys.executable,
            "-c",
            _IDENTITY,
            str(self.directory / "identity.json"),
            str(self.directory / "broker"),
        ]
        self._start("identity", command, env=self._environment("identity"))

    def end(self, name: str) -> None:
        if name in self.processes:
            self.kill(name, signal.SIGTERM)

    def end_all(self) -> None:
        for name in (*NAMES, "nats"):
            with suppress(subprocess.TimeoutExpired, OSError):
                self.end(name)

    def _answers(self) -> bool:
        if self.processes["operator"].poll() is not None:
            raise SystemExit(f"the operator ended; its log says: {self.log()[-3000:]}")
        return bool(self.ready()["ok"])

    def _environment(self, name: str) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.directory / f"{name}.kubeconfig")}

    def _account(self, name: str) -> None:
        """An account of the API server's that may do everything, and whose requests are counted apart."""
        account = flow_schema(name)
        subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        rule = {
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": account, "namespace": NAMESPACE}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }  # fmt: skip
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": NAMESPACE}},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": account},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [subject],
            },
            {
                "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": account},
                "spec": {"matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "workload-high"}, "rules": [rule]},
            },
        ]  # fmt: skip
        self.cluster.apply("\n---\n".join(map(json.dumps, objects)))
        token = self.cluster.kubectl("create", "token", account, "--namespace", NAMESPACE, "--duration", "2h").strip()
        authority = (self.cluster.state / "pki" / "ca.crt").read_bytes()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": self.cluster.server, "certificate-authority-data": base64.b64encode(authority).decode()}}],
            "users": [{"name": "bench", "user": {"token": token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        }  # fmt: skip
        (self.directory / f"{name}.kubeconfig").write_text(json.dumps(config))
