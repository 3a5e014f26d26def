"""The operator as a process of this machine, beside the test cluster's API server and a nats-server of its own.

For tests of what it does without images: its broker is an external one, whose Secret the tests make, and a node is spoken for by a connection
with the sensor's own role (`Node`). The chart's tests run the real pods.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.broker.roles import ROLES, inbox_prefix, permissions
from daemoneye.nodeconfig import NodeAnswer, NodeConfig, NodePointer, PolicyAnswer
from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import wait
from tests.support.ports import free_port

NAMESPACE: Final = "daemoneye-process"
PASSWORD: Final = "a-password-of-the-tests"


class OperatorProcess:
    """Broker and operator; both can be killed and started again."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.port, self.health = free_port(), free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Namespace, the Deployment that owns what is made (without pods), the broker's Secret, settings."""
        labels = {"app.kubernetes.io/name": "daemoneye", "app.kubernetes.io/component": "operator"}
        container = {"name": "operator", "image": "daemoneye/operator:none"}
        users = {f"{role}.{what}": value for role in ROLES for what, value in (("user", role), ("password", PASSWORD))}
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "daemoneye-sensor", "namespace": NAMESPACE}},
            {
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "daemoneye-operator", "namespace": NAMESPACE},
                "spec": {
                    "replicas": 0, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
                },
            },
            {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broker", "namespace": NAMESPACE},
                "data": {key: base64.b64encode(value.encode()).decode() for key, value in users.items()},
            },
        ]  # fmt: skip
        self.cluster.apply("\n---\n".join(map(json.dumps, objects)))
        settings = {
            "release": "daemoneye", "namespace": NAMESPACE, "fullname": "daemoneye", "healthPort": self.health, "resyncSeconds": 5,
            "nats": {"url": self.url, "external": True, "credentialsSecretRef": {"name": "broker"}},
            "streams": {"eventsMaxBytes": 64 << 20, "findingsMaxBytes": 16 << 20},
            "sensor": {"image": "daemoneye/sensor:none", "imagePullPolicy": "Never", "statusIntervalSeconds": 2, "hostPaths": {
                "runtimeTasks": str(self.cluster.state / "containerd-state" / "io.containerd.runtime.v2.task"),
                "spool": str(self.cluster.state / "spool"),
            }},
        }  # fmt: skip
        (self.directory / "operator.json").write_text(json.dumps(settings))
        config = {
            "listen": f"127.0.0.1:{self.port}", "max_payload": 8 << 20,
            "jetstream": {"store_dir": str(self.directory / "js"), "max_file_store": 2 << 30},
            "authorization": {"users": [{"user": role, "password": PASSWORD, "permissions": permissions(role)} for role in ROLES]},
        }  # fmt: skip
        (self.directory / "nats.conf").write_text(json.dumps(config))

    def start_broker(self) -> None:
        self._start(
            "nats", [str(Path(sys.executable).with_name("nats-server")), "-c", str(self.directory / "nats.conf")]
        )

    def start(self) -> None:
        """The operator; returns when it says that it is ready."""
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        command = [
            sys.executable,
            "-m",
            "daemoneye_operator",
            "run",
            "--settings",
            str(self.directory / "operator.json"),
        ]
        self._start("operator", command, env=environment)
        try:
            wait("operator ready", lambda: self.ready()["ok"], 180)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.ready()}; its log: {self.log()[-3000:]}") from None

    def _start(self, name: str, command: list[str], **options: Any) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, **options)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(20)

    def log(self, name: str = "operator") -> str:
        return (self.directory / f"{name}.log").read_text("utf-8", "replace")

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz", timeout=5) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())
        except OSError:
            return {"ok": False}

    def close(self) -> None:
        for name in list(self.processes):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                self.kill(name, signal.SIGTERM if name == "operator" else signal.SIGKILL)
        kinds = "daemoneyepolicies,federationpeers,detectionexceptions,findings"
        self.cluster.kubectl("delete", kinds, "--all", "--all-namespaces", "--wait=true", check=False)
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=60s", check=False)

    # ── what a test asks ────────────────────────────────────────────────────────────────────────────────────────────

    async def connect(self, role: str) -> Client:
        return await nats.connect(
            self.url, user=role, password=PASSWORD, inbox_prefix=inbox_prefix(role).encode(), max_reconnect_attempts=-1,
            reconnect_time_wait=0.1, error_cb=_quiet,
        )  # fmt: skip


class Node:
    """A node as the operator sees one: reads its configuration and answers."""

    def __init__(self, client: Client, analytics: Client, name: str) -> None:
        self.client = client
        self.analytics = analytics
        self.name = name
        self.refuse: dict[str, tuple[str, str]] = {}
        self.state = "ready"
        self.mute = False

    async def config(self) -> NodeConfig | None:
        """The configuration that the pointer names; None while there is none."""
        pointer = await values.read(self.client, subjects.NODES_BUCKET, subjects.node_config(self.name))
        if pointer is None:
            return None
        data = await values.read(self.client, subjects.CONFIGS_BUCKET, NodePointer.decode(pointer).hash)
        return None if data is None else NodeConfig.decode(data)

    async def beat(self) -> None:
        """Heartbeats of the node and of analytics, for ever."""
        while True:
            with suppress(Exception):  # the broker may be away, or have no bucket yet
                await self.once()
            await asyncio.sleep(0.3)

    async def once(self) -> None:
        config = await self.config()
        if not self.mute:
            answer = NodeAnswer() if config is None else self._answer(config)
            state = "removed" if config is not None and config.remove else self.state
            said = {"state": state, "component": "sensor", "version": "0.1.0", "config": answer.to_json()}
            await self.client.publish(subjects.status(self.name), json.dumps(said).encode())
        await self.analytics.publish(subjects.component("analytics"), json.dumps({"state": "running"}).encode())

    def _answer(self, config: NodeConfig) -> NodeAnswer:
        answers = [
            PolicyAnswer(p.name, p.uid, p.generation, "Refused", *self.refuse[p.name]) if p.name in self.refuse
            else PolicyAnswer(p.name, p.uid, p.generation)
            for p in config.policies
        ]  # fmt: skip
        return NodeAnswer(config.hash, tuple(answers), programs=True)


async def _quiet(_: Exception) -> None:
    """Tests kill brokers; nats-py would log it."""


def elapsed(began: float) -> float:
    return time.monotonic() - began
