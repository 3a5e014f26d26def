"""A control plane with as many nodes and pods as wanted: the test cluster's own, with kwok playing kubelets.

Responsible for bringing it up beside any other test cluster, for making nodes and pods fast, and for what the API server says of its requests; not
for what is measured (`tests.bench.scale`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from kubernetes.client import ApiClient, Configuration

from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import request
from tests.cluster.harness import binaries, configs
from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import wait

PODS_A_NODE: Final = 20
NAMESPACES: Final = 20
_AT_ONCE: Final = 24
_IMAGES: Final = 30
_CAPACITY: Final = {"cpu": "32", "memory": "256Gi", "pods": "110"}
_SAMPLE: Final = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
# Production's controllers go at twenty requests a second; what is measured is not theirs. Those that are not needed would look at every pod;
# nobody collects garbage, so that pods may have owners that are not there.
_QUICK: Final = ("--kube-api-qps=500", "--kube-api-burst=1000")
_CONTROLLERS: Final = "daemonset-controller,serviceaccount-controller,namespace-controller,node-lifecycle-controller"
_FLAGS: Final = {
    # The distribution's etcd is too old for lists by watch: without the gate clients are told so at once, and list.
    "kube-apiserver": ("--feature-gates=WatchList=false",),
    "kube-controller-manager": (*_QUICK, f"--controllers={_CONTROLLERS}", "--node-monitor-grace-period=600s"),
    "kube-scheduler": _QUICK,
}
# kwok runs the sensors' pods only: each pod that it runs costs the API server a second write, and whoever watches pods looks at bound ones.
_SENSORS_RUN: Final = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: sensor-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchLabels: {app.kubernetes.io/component: sensor}
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.podIP, operator: DoesNotExist}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      - {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
      - {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
      - {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
      containerStatuses:
      {{ range .spec.containers }}
      - {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, restartCount: 0, state: {running: {startedAt: {{ $now | Quote }}}}}
      {{ end }}
      hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
      podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
      phase: Running
      startTime: {{ $now | Quote }}
"""


class Fleet:
    """The cluster, its nodes and its pods."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.nodes: list[str] = []
        self.pods: list[tuple[str, str, str]] = []
        """Namespace, name and node."""
        configuration = Configuration()
        configuration.host = cluster.server
        pki = cluster.state / "pki"
        configuration.ssl_ca_cert = str(pki / "ca.crt")
        configuration.cert_file, configuration.key_file = str(pki / "admin.crt"), str(pki / "admin.key")
        configuration.connection_pool_maxsize = _AT_ONCE
        self.api = ApiClient(configuration)

    def request(self, method: str, path: str, body: object | None = None, **options: Any) -> dict[str, Any]:
        """One request as the cluster's administrator; RuntimeError if it is refused, which `wait` waits out."""
        try:
            value: dict[str, Any] = json.loads(request(self.api, method, path, body=body, **options).data)
        except ApiError as error:
            raise RuntimeError(str(error)) from error
        return value

    def merge(self, path: str, patch: object) -> dict[str, Any]:
        """A JSON merge patch."""
        return self.request("PATCH", path, patch, headers={"Content-Type": "application/merge-patch+json"})

    def counters(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Samples of one of the API server's metrics: labels and value."""
        response = request(self.api, "GET", "/metrics", headers={"Accept": "text/plain"})
        for line in response.data.decode().splitlines():
            if line.startswith(name) and (match := _SAMPLE.match(line)) and match[1] == name:
                yield dict(_LABEL.findall(match[2])), float(match[3])

    def requests(self, schemas: Iterable[str]) -> Counter[str]:
        """Requests so far of those whom a FlowSchema of ours names, by its name; watches that were begun are requests, too."""
        counted: Counter[str] = Counter(dict.fromkeys(schemas, 0))
        for labels, value in self.counters("apiserver_flowcontrol_dispatched_requests_total"):
            if labels["flow_schema"] in counted:
                counted[labels["flow_schema"]] += int(value)
        return counted

    def status_writes(self) -> int:
        """Writes of statuses of our kinds so far, by anybody: only the operator writes any."""
        return sum(
            int(value)
            for labels, value in self.counters("apiserver_request_total")
            if labels["group"] == "daemoneye.io" and labels["subresource"] == "status" and labels["verb"] != "GET"
        )

    def grow(self, nodes: int) -> None:
        """Have so many nodes in all, each with its pods, and wait until the nodes are Ready."""
        if not self.nodes:
            self._each(self._namespace, range(NAMESPACES))
            for number in range(NAMESPACES):
                path = f"/api/v1/namespaces/{_namespace(number)}/serviceaccounts/default"
                wait("service accounts", partial(self.request, "GET", path))
        new = range(len(self.nodes), nodes)
        self.nodes += [node_name(number) for number in new]
        self._each(self._node, new)
        self.pods += [pod for pods in self._each(self._pods, new) for pod in pods]
        wait("every node untainted", lambda: self._ready() >= nodes, 300, every=1.0)

    def _ready(self) -> int:
        # A node is made with a taint, which the controller takes off when it has seen that the node is Ready.
        items = self.request("GET", "/api/v1/nodes", query={"labelSelector": "type=kwok"})["items"]
        return sum(not node["spec"].get("taints") for node in items)

    def _each(self, work: Callable[[int], Any], numbers: Iterable[int]) -> list[Any]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(work, numbers))

    def _namespace(self, number: int) -> None:
        labels = {"team": f"team-{number % 4}", "environment": ("production", "staging")[number % 2]}
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": _namespace(number), "labels": labels}})

    def _node(self, number: int) -> None:
        name = node_name(number)
        images = [
            {"names": [f"team/service-{i}@sha256:{i:064x}", f"team/service-{i}:v1.{i}"], "sizeBytes": 10**8}
            for i in range(_IMAGES)
        ]  # fmt: skip
        labels = {
            "type": "kwok", "pool": f"pool-{number % 8}", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": f"zone-{number % 3}", "topology.kubernetes.io/region": "region", "node.kubernetes.io/instance-type": "large",
        }  # fmt: skip
        body = {
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            },
            # Ready from the start, as kwok would make it.
            "status": {
                "images": images,
                "phase": "Running",
                "capacity": _CAPACITY,
                "allocatable": _CAPACITY,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }
        self.request("POST", "/api/v1/nodes", body)

    def _pods(self, number: int) -> list[tuple[str, str, str]]:
        """The pods of one node, of one application, as a ReplicaSet makes them: bound, and on their way for ever."""
        namespace, application = _namespace(number % NAMESPACES), f"service-{number:04}"
        digest = f"{number * 7919 % 0xFFFFFFFF:010x}"
        labels = {
            "app": application,
            "pod-template-hash": digest,
            "version": "v1",
            "tier": ("front", "back")[number % 2],
        }
        owner = {
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{application}-{digest}", "uid": str(uuid.uuid4()), "controller": True,
            "blockOwnerDeletion": True,
        }  # fmt: skip
        metadata = {"labels": labels, "ownerReferences": [owner], "annotations": {"checksum/config": "0" * 64}}
        made = []
        for index in range(PODS_A_NODE):
            name = f"{application}-{digest}-{index:05}"
            body = {"metadata": {"name": name, **metadata}, "spec": _pod_spec(node_name(number))}
            self.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)
            made.append((namespace, name, node_name(number)))
        return made


def node_name(number: int) -> str:
    """Names of nodes as clouds give them."""
    return f"ip-10-{number >> 8}-{number & 255}-1.region.compute.internal"


def _namespace(number: int) -> str:
    return f"scale-{number:02}"


def _pod_spec(node: str) -> dict[str, Any]:
    """A pod of usual size: two containers, environment, probes."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    containers = [
        {
            "name": name, "image": f"team/{name}:v1.2.3",
            "env": [{"name": f"SETTING_{i}", "value": "value of a setting" * 2} for i in range(10)],
            "ports": [{"containerPort": 8080 + port}], "readinessProbe": probe, "livenessProbe": probe,
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        }
        for port, name in enumerate(("main", "proxy"))
    ]  # fmt: skip
    return {"containers": containers, "nodeName": node}


class ControlPlane(Cluster):
    """The test cluster without a node of its own: so it needs no cgroup, no rule of iptables, and goes well beside another that has one."""

    def up(self) -> None:
        """Bring it up, with kwok."""
        missing = [
            package
            for command, package in {"etcd": "etcd-server", "ip": "iproute2"}.items()
            if not shutil.which(command)
        ]
        if missing:
            raise RuntimeError(f"the bench needs packages: {' '.join(missing)} (scripts/setup.sh tests installs them)")
        self.down()
        programs = {name: binaries.tool(name) for name in (*binaries.KUBERNETES, "kwok")}
        (self.state / "etcd").mkdir(parents=True)
        self._ip("link", "add", self.bridge, "type", "bridge")
        self._ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        self._ip("link", "set", self.bridge, "up")
        self._certificates()
        for name, command in configs.control_plane(self, programs).items():
            self.processes.start(name, [*command, *_FLAGS.get(name, ())])
            if name == "kube-apiserver":
                wait("API server ready", lambda: self.kubectl("get", "--raw", "/readyz") == "ok", 60)
        (self.state / "kwok.yaml").write_text(_SENSORS_RUN)
        kwok: list[str | Path] = [
            programs["kwok"], "--kubeconfig", self.kubeconfig, "--config", self.state / "kwok.yaml", "--node-lease-duration-seconds=200",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        ]  # fmt: skip
        self.processes.start("kwok", kwok, {"KUBE_FEATURE_WatchListClient": "false"})

    def down(self) -> None:
        """Remove every trace."""
        if not self.state.exists():
            return
        for name in reversed(self.processes.names()):
            self.processes.end(name)
        subprocess.run(["ip", "link", "delete", self.bridge], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.state)


@contextmanager
def running(index: int = 7) -> Iterator[Fleet]:
    """A fleet, which is gone afterwards."""
    cluster = ControlPlane("scale", index)
    try:
        cluster.up()
        yield Fleet(cluster)
    finally:
        cluster.down()
