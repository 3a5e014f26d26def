"""A kubectl that answers from files, the boundary at which a cluster is exchanged, and objects as a cluster has them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.support.broker import Broker

PROGRAM = """#!{python} -IS
import fnmatch, json, os, sys, time
folder = os.path.dirname(os.path.abspath(__file__))
arguments = sys.argv[1:]
with open(folder + "/calls", "a") as file:
    file.write(json.dumps(arguments) + "\\n")
if "--filename=-" in arguments:
    with open(folder + "/given", "a") as file:
        file.write(sys.stdin.read() + "\\n")
with open(folder + "/answers.json") as file:
    answers = json.load(file)
line = " ".join(arguments)
for pattern, answer in answers:
    if fnmatch.fnmatchcase(line, pattern):
        break
else:
    answer = dict(stderr="error: the test's kubectl has no answer for " + line, status=1)
sys.stdout.write(answer.get("stdout", ""))
sys.stdout.flush()
sys.stderr.write(answer.get("stderr", ""))
sys.stderr.flush()
while answer.get("stays") and os.getppid() > 1:
    time.sleep(0.05)
sys.exit(answer.get("status", 0))
"""


class Kubectl:
    """What the program answers; the answer given last to a pattern is the first to be looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._answers: list[tuple[str, dict[str, Any]]] = []
        program = folder / "kubectl"
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        self._write()

    def gives(
        self,
        pattern: str,
        value: Any = None,
        *,
        stdout: str = "",
        stderr: str = "",
        status: int = 0,
        stays: bool = False,
    ):
        """Answer a command line that matches (wildcards) with a value in JSON, or with text."""
        text = stdout if value is None else json.dumps(value)
        answer = {"stdout": text, "stderr": stderr, "status": status, "stays": stays}
        self._answers.insert(0, (f"*{pattern}*", answer))
        self._write()

    def lists(self, pattern: str, *objects: Any) -> None:
        """Answer with a list of objects."""
        self.gives(pattern, {"apiVersion": "v1", "kind": "List", "items": list(objects)})

    def fails(self, pattern: str, said: str) -> None:
        """Answer with an error."""
        self.gives(pattern, stderr=said + "\n", status=1)

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of every call so far."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def given(self) -> list[Any]:
        """Objects that it was given to read so far."""
        path = self.folder / "given"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def running(self, word: str = "") -> list[psutil.Process]:
        """Its processes that are asked for this."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if str(self.folder / "kubectl") in command and (word in command or not word):
                    found.append(process)
        return found

    def _write(self) -> None:
        temporary = self.folder / "answers.new"
        temporary.write_text(json.dumps(self._answers))
        temporary.rename(self.folder / "answers.json")


@contextlib.asynccontextmanager
async def started(
    *arguments: str,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamReader]]:
    """The command in a process of its own, with its output and its errors; ended whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemoneye_cli", "-k", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            yield process, process.stdout, process.stderr
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def definition(name: str, established: str = "True") -> dict[str, Any]:
    conditions = [{"type": "Established", "status": established}]
    return {"metadata": {"name": f"{name}.daemoneye.io"}, "status": {"conditions": conditions}}


def namespace(level: str | None) -> dict[str, Any]:
    labels = {} if level is None else {"pod-security.kubernetes.io/enforce": level}
    return {"kind": "Namespace", "metadata": {"name": "security", "labels": labels}}


def node(
    name: str, kernel: str = "6.1.0-25-amd64", runtime: str = "containerd://1.7.2", taints=(), **labels: str
) -> dict[str, Any]:
    info = {"kernelVersion": kernel, "operatingSystem": "linux", "containerRuntimeVersion": runtime}
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name, **labels}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": list(taints)},
        "status": {"nodeInfo": info},
    }


def labels(component: str, release: str = "eye") -> dict[str, str]:
    names = {"name": "daemoneye", "instance": release, "component": component, "version": "0.1.0"}
    return {f"app.kubernetes.io/{key}": value for key, value in names.items()}


def part(
    component: str, ready: int = 1, kind: str = "Deployment", release: str = "eye", where: str = "security"
) -> dict[str, Any]:
    metadata = {"name": f"{release}-daemoneye-{component}", "namespace": where, "labels": labels(component, release)}
    image = "operator" if component in ("identity", "callout") else component
    containers = [{"name": component, "image": f"daemoneye/{image}:0.1.0"}]
    spec = {"replicas": 1, "template": {"spec": {"containers": containers}}}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": {"readyReplicas": ready}}


def daemonset(desired: int = 2, ready: int = 2) -> dict[str, Any]:
    value = part("sensor", kind="DaemonSet")
    value["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/os": "linux"}
    value["status"] = {"desiredNumberScheduled": desired, "numberReady": ready}
    return value


def told(nats: Any = None, **more: Any) -> dict[str, Any]:
    """The operator's ConfigMap, with more settings: its release has a broker of its own unless something else is said."""
    own = {"url": "tls://eye-daemoneye-nats.security.svc:4222", "external": False}
    return {"kind": "ConfigMap", "data": {"operator.json": json.dumps({"nats": own if nats is None else nats, **more})}}


def pod(component: str, where: str = "node-1", waiting: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": f"eye-daemoneye-{component}-{where}", "namespace": "security", "labels": labels(component)}
    conditions = [{"type": "Ready", "status": "False" if waiting else "True"}]
    containers = [{"name": component, "state": {"waiting": waiting} if waiting else {"running": {}}}]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": containers}
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": where}, "status": status}


def parts() -> list[dict[str, Any]]:
    found = [part("operator"), part("identity"), part("analytics"), part("nats", kind="StatefulSet"), part("callout")]
    return [*found, daemonset(), *(pod("sensor", where) for where in ("node-1", "node-2"))]


def policy(
    name: str, ready: tuple[str, str, str] = ("True", "AsAsked", "All 2 selected nodes run it."), *, created: str = "2026-01-01T00:00:00Z",
    sensors: dict[str, Any] | None = None, inactive=(), **spec: Any,
) -> dict[str, Any]:  # fmt: skip
    conditions = [
        {"type": kind, "status": ready[0], "reason": ready[1], "message": ready[2], "observedGeneration": 1}
        for kind in ("Ready", "SensorsAvailable")
    ]
    conditions.append(
        {"type": "AnalyticsAvailable", "status": "True", "reason": "AsAsked", "message": "Analytics is heard of."}
    )
    status = {
        "observedGeneration": 1,
        "conditions": conditions,
        "sensors": sensors or {"desired": 2, "ready": 2, "display": "2/2", "refused": 0},
        "findings": {"total": 3, "last": "2026-01-02T03:04:05Z"},
        "inactiveSettings": list(inactive),
    }
    metadata = {"name": name, "generation": 1, "creationTimestamp": created}
    return {"kind": "DaemonEyePolicy", "metadata": metadata, "spec": spec, "status": status}


def finding(
    name: str, *, where: str = "shop", seen: str = "2026-01-02T03:04:05Z", count: int = 3, **spec: Any
) -> dict[str, Any]:
    subject = {
        "node": "node-1", "namespace": where, "pod": "till-1", "podUID": "u-1", "container": "main", "image": "shop/till:1",
        "workload": f"{where}/Deployment/till/main", "pid": 7, "exe": "/memfd:x", "argv": ["x"], "labels": {"tierName": "web"},
    }  # fmt: skip
    content = {
        "detector": "suspicious-exec", "severity": "high", "score": 0.9, "title": "A program that lies in memory was executed",
        "subject": subject, "techniques": [{"id": "T1620", "name": "Reflective Code Loading"}], "explanation": ["It has no file."],
        "policies": ["everything"], "processTree": [{"pid": 1, "exe": "/sbin/init", "argv": ["init"]}], **spec,
    }  # fmt: skip
    return {
        "apiVersion": "daemoneye.io/v1alpha1", "kind": "Finding",
        "metadata": {"name": name, "namespace": where, "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": content,
        "status": {"count": count, "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": seen, "lastFindingID": "ab" * 16},
    }  # fmt: skip


def secret(data: Mapping[str, bytes]) -> dict[str, Any]:
    return {"kind": "Secret", "data": {key: base64.b64encode(value).decode() for key, value in data.items()}}


def with_broker(kubectl: Kubectl, broker: Broker) -> None:
    """A release whose names are those in the broker's certificate; nothing leads to it yet."""
    operator = part("operator")
    operator["metadata"]["name"] = "daemoneye-operator"
    kubectl.lists("get deployments.apps --all-namespaces*", operator)
    data = broker.secrets.secrets["daemoneye-broker-cli"]
    kubectl.gives("get secret daemoneye-broker-cli --namespace security*", secret(data))


def forwarded_to(kubectl: Kubectl, broker: Broker) -> None:
    """The release's own broker, behind a port-forward."""
    with_broker(kubectl, broker)
    own = {"url": "tls://daemoneye-nats.security.svc:4222", "external": False}
    kubectl.gives("get configmap daemoneye-operator --namespace security*", told(own))
    begun = f"Forwarding from 127.0.0.1:{broker.clients[0]} -> 4222\n"
    where = "port-forward --namespace security --address 127.0.0.1 service/daemoneye-nats*:4222"
    kubectl.gives(where, stdout=begun, stays=True)
