"""A large cluster, played by kwok on a real control plane: what the operator and the identity publisher need, and how soon a change arrives.

Both run as processes beside a real nats-server that syncs as production's does; nodes' heartbeats are one connection's (`tests.bench.beats`).
Every policy selects every node, which is the worst: each heartbeat then answers for each policy.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import nats
import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.nodeconfig import NodePointer
from daemoneye.podidentity import PodIdentity
from tests.bench import fleet, machine
from tests.bench.fleet import PODS_A_NODE, Fleet
from tests.bench.operatorstack import NAMES, USER, Processes, flow_schema
from tests.bench.stack import REPOSITORY
from tests.bench.tables import Outcome, Target
from tests.bench.workloads import workspace
from tests.cluster.conftest import CRDS
from tests.cluster.operatorprocess import NAMESPACE
from tests.cluster.release import wait

_POINTS: Final = ((100, 16), (300, 16), (1000, 16), (1000, 1), (1000, 64))
_REST_S: Final = 60.0
_SETTLE_S: Final = 12.0
_CHANGES: Final = 3
_PODS: Final = 40
_NEW: Final = 10
_WAIT_S: Final = 90.0
_MIB: Final = 1 << 20
_POLICIES: Final = "/apis/daemoneye.io/v1alpha1/daemoneyepolicies"


@dataclass(slots=True)
class Point:
    """What was found at one size.

    Attributes:
        started_s: From the operator's start until it says that it is ready.
        ready_s: From its start until every policy is Ready.
        rss, peak: MB of operator and publisher, at rest and at most.
        policy_s: From a policy's change (the request's beginning) until every node's pointer was written, a change each.
        acknowledged_s: The same until the policy is Ready again: nodes take up to half a second, and the status is written.
        pod_s: From a pod's new label to its document.
        new_pod_s: From a pod's making, bound to a node, to its document.
        cpu: CPU-s a minute at rest, of each.
        requests: Requests a minute at rest, of each.
        status_writes: Writes of statuses a minute at rest.
    """

    nodes: int
    pods: int
    policies: int
    started_s: float
    ready_s: float
    rss: dict[str, float]
    peak: dict[str, float]
    policy_s: list[float]
    acknowledged_s: list[float]
    pod_s: list[float]
    new_pod_s: list[float]
    cpu: dict[str, float]
    requests: dict[str, float]
    status_writes: float


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench: sizes in rising order, the operator started afresh at each."""
    columns = (
        "nodes", "pods", "policies", "operator RSS MB (peak)", "publisher RSS MB (peak)", "policy → all pointers s", "→ Ready s",
        "pod → KV ms", "new pod → KV ms", "start → all Ready s", "CPU-s/min operator", "publisher", "requests/min operator", "publisher",
        "status writes/min",
    )  # fmt: skip
    outcome = Outcome("scale", columns)
    points = sorted({(max(int(nodes * scale), 5), policies) for nodes, policies in _POINTS}, key=lambda p: p[0])
    rest = max(_REST_S * min(scale * 2, 1.0), 5.0)
    measured: list[Point] = []
    with workspace() as directory, fleet.running() as many:
        bench = _Bench(many, directory)
        try:
            bench.prepare()
            for nodes, policies in points:
                largest = (nodes, policies) == max(points)
                began = time.monotonic()
                measured.append(bench.point(nodes, policies, rest if largest else rest / 3))
                _add(outcome, measured[-1])
                sys.stderr.write(
                    f"bench: {nodes} nodes, {policies} policies measured in {time.monotonic() - began:.0f} s\n"
                )
        finally:
            bench.stop()
    outcome.data["points"] = [asdict(point) for point in measured]
    _slopes(outcome, measured)
    _targets(outcome, max(measured, key=lambda point: (point.nodes, point.policies)))
    outcome.notes += [
        f"{PODS_A_NODE} pods a node; every policy selects every node; kwok plays the kubelets",
        f"{_CHANGES} changes of a policy, {_PODS} of pods' labels and {_NEW} new pods at each size: median [least–most] and for pods median / p99",
    ]
    return outcome


class _Bench:
    """What runs meanwhile."""

    def __init__(self, many: Fleet, directory: Path) -> None:
        self.fleet = many
        self._directory = directory
        self._processes = Processes(many.cluster, directory)
        self._beats: subprocess.Popen[str] | None = None
        self._grown = 0

    def prepare(self) -> None:
        """CRDs, accounts, the broker."""
        cluster = self.fleet.cluster
        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        wait("our kinds", lambda: self.fleet.request("GET", _POLICIES))
        self._processes.prepare()
        self._processes.start_broker()

    def stop(self) -> None:
        """End everything but the cluster."""
        if self._beats is not None:
            self._beats.kill()
            self._beats.communicate()
        self._processes.end_all()

    def point(self, nodes: int, policies: int, rest: float) -> Point:
        """One size."""
        processes, many = self._processes, self.fleet
        if nodes != self._grown:
            processes.end("identity")
            many.grow(nodes)
            self._grown = nodes
            self._beat()
        self._policies(policies)
        began = time.monotonic()
        processes.start()
        started = time.monotonic() - began
        if "identity" not in processes.processes:
            processes.start_identity()
        wait("every policy Ready", lambda: self._ready() == policies, 180, every=0.5)
        ready = time.monotonic() - began
        wait("every sensor's pod", lambda: self._sensors() >= nodes, 180, every=0.5)
        # An operator that has just begun does not know yet that analytics is there, and a changed policy would wait for that.
        wait("analytics heard of", lambda: processes.ready()["analytics"] == "heard of", 30)
        point = asyncio.run(self._measure(nodes, policies))
        point.started_s, point.ready_s = started, ready
        self._rest(point, rest)
        processes.end("operator")
        return point

    def _beat(self) -> None:
        if self._beats is not None:
            self._beats.kill()
            self._beats.communicate()
        process = self._beats = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.beats"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({"url": self._processes.url, "user": USER, "nodes": self.fleet.nodes}) + "\n")
        process.stdin.flush()
        process.stdout.readline()

    def _policies(self, count: int) -> None:
        """Have so many policies: half of them with selectors of pods."""
        there = {item["metadata"]["name"] for item in self.fleet.request("GET", _POLICIES)["items"]}
        wanted = [f"policy-{number:02}" for number in range(count)]
        for number, name in enumerate(wanted):
            if name not in there:
                selector = {
                    "podSelector": {"matchLabels": {"app": f"service-{number:04}"}},
                    "namespaceSelector": {"matchLabels": {"environment": "production"}},
                }
                body = {
                    "apiVersion": "daemoneye.io/v1alpha1", "kind": "DaemonEyePolicy", "metadata": {"name": name},
                    "spec": {"selector": selector} if number % 2 else {},
                }  # fmt: skip
                self.fleet.request("POST", _POLICIES, body)
        for name in there - set(wanted):
            self.fleet.request("DELETE", f"{_POLICIES}/{name}")

    def _ready(self) -> int:
        return sum(_is_ready(item) for item in self.fleet.request("GET", _POLICIES)["items"])

    def _sensors(self) -> int:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/daemoneye-sensor"
        return int(self.fleet.request("GET", path)["status"]["numberReady"])

    async def _measure(self, nodes: int, policies: int) -> Point:
        client = await nats.connect(self._processes.url, user=USER[0], password=USER[1])
        try:
            following = _Following(client)
            await following.start()
            # Every pod is told before changes are.
            await following.until(lambda: len(following.pods) >= nodes * PODS_A_NODE, read=True)
            changes = [await self._change_policy(following, nodes) for _ in range(_CHANGES)]
            chosen = random.sample(self.fleet.pods, min(_PODS, len(self.fleet.pods)))
            labelled = [await self._label(following, *pod, number) for number, pod in enumerate(chosen)]
            made = [await self._new_pod(following, number) for number in range(_NEW)]
        finally:
            await client.close()
        return Point(
            nodes, nodes * PODS_A_NODE, policies, 0.0, 0.0, {}, {}, [pointers for pointers, _ in changes], [ready for _, ready in changes],
            labelled, made, {}, {}, 0.0,
        )  # fmt: skip

    async def _change_policy(self, following: _Following, nodes: int) -> tuple[float, float]:
        path = f"{_POLICIES}/policy-00"
        before = dict(following.pointers)
        began = time.monotonic()
        threshold = round(0.5 + random.random() / 3, 6)
        await asyncio.to_thread(self.fleet.merge, path, {"spec": {"analytics": {"anomalyThreshold": threshold}}})
        told = await following.until(
            lambda: sum(before.get(node) != now for node, now in following.pointers.items()) >= nodes
        )
        while not _is_ready(await asyncio.to_thread(self.fleet.request, "GET", path)):
            await asyncio.sleep(0.1)
            if time.monotonic() - began > _WAIT_S:
                raise RuntimeError("the policy did not become Ready again")
        return told - began, time.monotonic() - began

    async def _label(self, following: _Following, namespace: str, name: str, node: str, number: int) -> float:
        value = f"{number}-{time.time_ns()}"
        began = time.monotonic()
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await asyncio.to_thread(self.fleet.merge, path, {"metadata": {"labels": {"changed": value}}})
        return await following.until(lambda: following.changed.get(value)) - began

    async def _new_pod(self, following: _Following, number: int) -> float:
        node = random.choice(self.fleet.nodes)
        value = f"new-{number}-{time.time_ns()}"
        metadata = {"name": f"new-{value}", "labels": {"changed": value}}
        body = {"metadata": metadata, "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]}}
        path = "/api/v1/namespaces/scale-00/pods"
        began = time.monotonic()
        await asyncio.to_thread(self.fleet.request, "POST", path, body)
        took = await following.until(lambda: following.changed.get(value)) - began
        await asyncio.to_thread(self.fleet.request, "DELETE", f"{path}/{metadata['name']}", {"gracePeriodSeconds": 0})
        return took

    def _rest(self, point: Point, seconds: float) -> None:
        time.sleep(_SETTLE_S)  # more than a heartbeat: what follows from the changes is done
        pids = {name: self._processes.processes[name].pid for name in NAMES}
        before = {name: machine.usage([pid]) for name, pid in pids.items()}
        requests, writes, began = (
            self.fleet.requests(map(flow_schema, NAMES)),
            self.fleet.status_writes(),
            time.monotonic(),
        )
        time.sleep(seconds)
        after = {name: machine.usage([pid]) for name, pid in pids.items()}
        minutes = (time.monotonic() - began) / 60
        later, written = self.fleet.requests(map(flow_schema, NAMES)), self.fleet.status_writes()
        point.cpu = {name: (after[name].cpu_s - before[name].cpu_s) / minutes for name in NAMES}
        point.requests = {name: (later[flow_schema(name)] - requests[flow_schema(name)]) / minutes for name in NAMES}
        point.status_writes = (written - writes) / minutes
        point.rss = {name: after[name].rss / _MIB for name in NAMES}
        point.peak = {name: machine.peak_rss(pid) / _MIB for name, pid in pids.items()}


class _Following:
    """The bucket of nodes as a sensor of every node would see it."""

    def __init__(self, client: Client) -> None:
        self.pointers: dict[str, str] = {}
        self.pods: set[str] = set()
        self.changed: dict[str, float] = {}
        self._client = client
        self._news = asyncio.Event()

    async def start(self) -> None:
        await self._client.subscribe(subjects.key_value(subjects.NODES_BUCKET, ">"), cb=self._note)
        await self._client.flush()

    async def until(self, condition: Any, *, read: bool = False) -> float:
        """Monotonic time of the message that made a condition true; with `read`, keys that were there before count, too."""
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            if read:
                info = await self._client.jetstream().stream_info(
                    f"KV_{subjects.NODES_BUCKET}", subjects_filter="$KV.*.*.pod.*"
                )
                self.pods |= set(info.state.subjects or ())
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._news.wait()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {_WAIT_S:g} s; {len(self.pointers)} pointers, {len(self.pods)} pods")
        return self._last

    async def _note(self, message: Msg) -> None:
        data, key = values.value(message), message.subject.split(".")
        self._last = time.monotonic()
        if key[3] == "config":
            self.pointers[key[2]] = "" if data is None else NodePointer.decode(data).hash
        elif data is None:
            self.pods.discard(message.subject)
        else:
            self.pods.add(message.subject)
            if changed := PodIdentity.decode(data).labels.get("changed"):
                self.changed[changed] = self._last
        self._news.set()

    _last = 0.0


def _is_ready(policy: dict[str, Any]) -> bool:
    return any(
        c["type"] == "Ready"
        and c["status"] == "True"
        and c.get("observedGeneration") == policy["metadata"]["generation"]
        for c in policy.get("status", {}).get("conditions", ())
    )


# ── the report ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _add(outcome: Outcome, point: Point) -> None:
    rss = [f"{point.rss[name]:.0f} ({point.peak[name]:.0f})" for name in NAMES]
    pods = [f"{np.median(v) * 1000:.0f} / {np.percentile(v, 99) * 1000:.0f}" for v in (point.pod_s, point.new_pod_s)]
    outcome.rows.append(
        (
            f"{point.nodes:,}", f"{point.pods:,}", str(point.policies), *rss, point.policy_s, point.acknowledged_s, *pods, point.ready_s,
            *(point.cpu[name] for name in NAMES), *(point.requests[name] for name in NAMES), point.status_writes,
        )
    )  # fmt: skip


def _slopes(outcome: Outcome, points: list[Point]) -> None:
    """Least squares over all sizes: a constant, and what each node (with its sensor's pod), pod and policy adds."""
    if len(points) < 4:
        outcome.notes.append("too few sizes for slopes")
        return
    sizes = np.array([(1, p.nodes, p.policies) for p in points], float)
    alone = np.array([(1, p.pods) for p in points], float)

    def fit(matrix: np.ndarray, figures: list[float]) -> list[float]:
        return [float(value) for value in np.linalg.lstsq(matrix, np.array(figures), rcond=None)[0]]

    rss, peak = fit(sizes, [p.rss["operator"] for p in points]), fit(alone, [p.rss["identity"] for p in points])
    cpu, seconds = (
        fit(sizes, [p.cpu["operator"] for p in points]),
        fit(sizes, [float(np.median(p.policy_s)) for p in points]),
    )
    outcome.data["slopes"] = {"operator_rss": rss, "publisher_rss": peak, "operator_cpu": cpu, "policy_s": seconds}
    outcome.notes += [
        f"operator RSS: {rss[0]:.0f} MB + {rss[1] * 1024:.1f} KiB a node + {rss[2] * 1024:.0f} KiB a policy",
        f"publisher RSS: {peak[0]:.0f} MB + {peak[1] * 1024:.2f} KiB a pod",
        f"operator CPU at rest: {cpu[0]:.2f} CPU-s/min + {cpu[1] * 1000:.2f} ms a node + {cpu[2] * 1000:.1f} ms a policy",
        f"policy → all pointers: {seconds[0]:.2f} s + {seconds[1] * 1000:.2f} ms a node + {seconds[2] * 1000:.1f} ms a policy",
    ]


def _targets(outcome: Outcome, point: Point) -> None:
    both = sum(point.rss.values())
    at = f"{point.nodes:,} nodes, {point.pods:,} pods, {point.policies} policies"
    outcome.targets += [
        Target(f"operator and publisher together, RSS at {at}", both, 250, unit=" MB"),
        Target("their peaks together", sum(point.peak.values()), 250, unit=" MB"),
        Target("policy change → every node's pointer, slowest", max(point.policy_s), 5, unit=" s"),
        Target("pod change → document, p99", float(np.percentile([*point.pod_s, *point.new_pod_s], 99)), 2, unit=" s"),
    ]
