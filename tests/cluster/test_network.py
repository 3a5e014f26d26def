"""Packets on a real cluster: a policy starts, changes and ends their capture, what two pods say to each other names both of them, and a finding's packets are
fetched by who may have them.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemoneye.events.addresses import packed
from daemoneye.events.community import community_id
from tests.cluster.cli import Cli
from tests.cluster.release import Release, pids, wait
from tests.support.issuing import Issuer

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
NAMESPACE = "market"
PYTHON = "/opt/daemoneye/bin/python"

SERVER = """
import http.server, os, ssl, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('content-length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *words): pass
def serve(port, context=None):
    server = http.server.ThreadingHTTPServer(('0.0.0.0', port), Handler)
    if context: server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()
open('/tmp/pair.pem', 'w').write(os.environ['PAIR'])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tmp/pair.pem')
serve(8080)
serve(8443, context)
"""
# Asks the way twice a second, by name, and tries doors once it is told so.
CALLER = """
import os, socket, ssl, time
name, address = os.environ['SERVICE'], os.environ['ADDRESS']
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
while True:
    try:
        socket.getaddrinfo(name, 8080, socket.AF_INET)
        with socket.create_connection((address, 8080), 5) as plain:
            plain.sendall(b'GET /prices?token=abcdef0123456789 HTTP/1.1\\r\\nHost: ' + name.encode() + b'\\r\\nConnection: close\\r\\n\\r\\n')
            while plain.recv(4096): pass
        with socket.create_connection((address, 8443), 5) as raw, context.wrap_socket(raw, server_hostname='shop.example') as tls:
            tls.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
            while tls.recv(4096): pass
        for port in range(2000, 2040):
            if not os.path.exists('/tmp/scan'): break
            with socket.socket() as one: one.connect_ex((address, port))
    except OSError as error:
        print(error, flush=True)
    time.sleep(0.5)
"""

# Asks once, as by way of a proxy, for what only the cloud's metadata service has.
ASKS_METADATA = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), 5) as one:
    one.sendall(b'GET /latest/meta-data/ HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\nConnection: close\\r\\n\\r\\n')
    while one.recv(4096): pass
"""
CAPTURE = {"enablePacketCapture": True, "captureInterface": "auto"}
EVIDENCE = {**CAPTURE, "evidence": {"enabled": True, "seconds": 5, "maxSizeMb": 4}}


@contextmanager
def running(
    release: Release, name: str, script: str, labels: dict[str, str], environment: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """A pod that runs a Python script; the operator's image has a Python."""
    image = next(
        container["image"]
        for pod in release.items("pods", release.namespace, "app.kubernetes.io/component=operator")
        for container in pod["spec"]["containers"]
    )
    container = {
        "name": "main", "image": image, "imagePullPolicy": "Never", "command": [PYTHON, "-c", script],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "securityContext": {"runAsUser": 65532, "runAsNonRoot": True},
    }  # fmt: skip
    value = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }  # fmt: skip
    release.cluster.apply(json.dumps(value))
    release.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", NAMESPACE, "--timeout=180s")
    try:
        yield release.cluster.get("pod", name, NAMESPACE)
    finally:
        release.cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, "--wait=true", "--timeout=60s", check=False)


@pytest.fixture(scope="module")
def market(release: Release) -> Iterator[str]:
    with release.namespace_of_tests(NAMESPACE, {"team": "market"}) as name:
        yield name


@pytest.fixture(scope="module")
def pods(release: Release, market: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A shop, and somebody who asks its prices."""
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop", "namespace": market},
        "spec": {"selector": {"app": "shop"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }  # fmt: skip
    release.cluster.apply(json.dumps(service))
    now = dt.datetime.now(dt.UTC)
    secret = Issuer("a market", now).secret(now, ["shop.example"])
    pair = (secret["tls.key"] + secret["tls.crt"]).decode()
    with running(release, "shop", SERVER, {"app": "shop"}, {"PAIR": pair}) as shop:
        where = {"SERVICE": f"shop.{market}.svc.cluster.local", "ADDRESS": shop["status"]["podIP"]}
        with running(release, "caller", CALLER, {"app": "caller"}, where) as caller:
            yield shop, caller


@pytest.fixture(scope="module")
def cli(release: Release) -> Cli:
    return Cli(release.cluster)


def events(cli: Cli, kind: str, matches: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Events of one kind that the broker has and that match."""
    status, said = cli.lines("events", "--event", kind, "--last", "100000")
    assert status == 0, said
    return [event for event in said if event["kind"] == "event" and matches(event)]


def sensor(release: Release) -> tuple[str, int]:
    """UID of the node's sensor pod, and how often its container was started anew."""
    (pod,) = release.sensor_pods()
    return pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]


def packet_sockets() -> int:
    """Packet sockets in the node's network namespace."""
    return len(Path("/proc/net/packet").read_text().splitlines()) - 1


def test_what_two_pods_say_to_each_other_names_both_and_their_processes(release: Release, pods: Any, cli: Cli):
    shop, caller = pods
    release.policy("watch")
    release.wait_ready("watch")
    before, sockets = sensor(release), packet_sockets()
    release.policy("watch", networkMonitoring={"enablePacketCapture": True, "captureInterface": "auto"})
    release.wait_ready("watch")
    assert release.condition("watch", "CaptureHealthy")["status"] == "True"
    assert packet_sockets() > sockets

    ours = lambda event: event.get("pod") == "caller"  # noqa: E731
    name = f"shop.{NAMESPACE}.svc.cluster.local"
    # What it says goes to the Service's address, which stands for a pod: there it is seen with the pod's own.
    asks = lambda event: ours(event) and event["query"] == name and "peer" in event  # noqa: E731
    asked = wait("its DNS query", lambda: events(cli, "dns_query", asks))[0]
    assert asked["answers"], asked
    assert "python" in asked["exe"], asked
    assert asked["peer"]["pod"].startswith("coredns"), asked
    assert asked["peer"]["exe"] == "/coredns", asked

    said = wait("its request", lambda: events(cli, "http_request", ours))[0]
    assert (said["method"], said["host"], said["status"]) == ("GET", name, 200)
    assert said["uri"] == "/prices?token=REDACTED"
    assert (said["namespace"], said["labels"]) == (NAMESPACE, {"app": "caller"})
    assert said["pid"] == _pid(caller)
    assert (said["peer"]["pod"], said["peer"]["labels"], said["peer"]["pid"]) == ("shop", {"app": "shop"}, _pid(shop))

    hello = wait("its hello", lambda: events(cli, "tls_client_hello", ours))[0]
    assert (hello["sni"], hello["peer"]["pod"]) == ("shop.example", "shop")
    flow = wait("its conversation", lambda: events(cli, "packet_flow", lambda e: ours(e) and e["dst_port"] == 8080))
    assert flow[0]["peer"]["pod"] == "shop"
    assert flow[0]["src_packets"] >= 4
    assert sensor(release) == before


def test_a_pod_that_tries_doors_is_a_finding_in_its_namespace(release: Release, pods: Any):
    release.cluster.kubectl("exec", "-n", NAMESPACE, "caller", "--", PYTHON, "-c", "open('/tmp/scan', 'w')")
    (scan,) = wait("Finding", lambda: _found(release, "network_scan"))
    assert "T1046" in json.dumps(scan["spec"]["techniques"])
    assert scan["spec"]["policies"] == ["watch"]
    release.cluster.kubectl("exec", "-n", NAMESPACE, "caller", "--", PYTHON, "-c", "import os; os.remove('/tmp/scan')")
    assert "caller" in release.cluster.kubectl("get", "defind", "-n", NAMESPACE)


def test_a_policy_changes_and_ends_the_capture_without_a_restart(release: Release, pods: Any, cli: Cli):
    before = sensor(release)
    capture = {"enablePacketCapture": True, "captureInterface": "auto", "captureFilter": "tcp port 8443"}
    release.policy("watch", networkMonitoring=capture)
    release.wait_ready("watch")
    # What was captured until now may still be on its way.
    changed = dt.datetime.now(dt.UTC).isoformat().removesuffix("+00:00")
    since = lambda event: event.get("pod") == "caller" and event["time"] > changed  # noqa: E731
    wait("hellos that go on", lambda: len(events(cli, "tls_client_hello", since)) > 2)
    assert not events(cli, "http_request", since), "what the filter leaves out is not inspected"

    release.policy("plain", networkMonitoring={**capture, "captureFilter": "tcp port 8080"})
    release.wait_ready("plain")
    wait("requests again", lambda: events(cli, "http_request", since))
    for kind, whose in (("http_request", ["plain"]), ("tls_client_hello", ["watch"])):
        assert all(event["policies"] == whose for event in events(cli, kind, since)), (
            "each has what its own filter took"
        )
    release.cluster.kubectl("delete", "depol", "plain", "--wait=true", "--timeout=30s")

    release.policy("watch", networkMonitoring={"enablePacketCapture": True, "captureInterface": "nope0"})
    lacking = wait("the reason", lambda: _reason(release, "NoSuchInterface"))
    assert "nope0" in lacking["message"]
    release.policy("watch")
    release.wait_ready("watch")
    assert release.condition("watch", "CaptureHealthy")["reason"] == "CaptureOff"
    wait("the sockets' end", lambda: packet_sockets() == 0)
    assert sensor(release) == before


def test_packets_of_a_finding_go_to_who_may_have_them_and_to_nobody_else(
    release: Release, pods: Any, cli: Cli, tmp_path: Path
):
    release.policy("watch", networkMonitoring=EVIDENCE)
    release.wait_ready("watch")
    inactive = lambda: release.cluster.get("daemoneyepolicy", "watch")["status"]["inactiveSettings"]  # noqa: E731
    (unused,) = wait("what is inactive", inactive)
    assert unused["path"].endswith("networkMonitoring.evidence")
    assert "evidence.enabled of the chart" in unused["reason"]
    assert "daemoneye-evidence" not in release.cluster.kubectl("get", "clusterroles", "-o", "name")
    before = sensor(release)

    release.upgrade("evidence.enabled=true", f"evidence.maxBytes={32 << 20}")
    wait("evidence allowed", lambda: not inactive())
    release.wait_ready("watch")
    assert sensor(release) == before, "a release that allows evidence starts no sensor anew"
    shop, caller = (pod["status"]["podIP"] for pod in pods)
    ask = ("exec", "-n", NAMESPACE, "caller", "--", PYTHON, "-c", ASKS_METADATA, shop)
    release.cluster.kubectl(*ask)
    # An object's status is written after the object.
    told = lambda: [f for f in _found(release, "cloud_metadata") if f["status"]["lastFindingID"]]  # noqa: E731
    (finding,) = wait("Finding", told)

    name, path = f"{NAMESPACE}/{finding['metadata']['name']}", tmp_path / "out.pcapng"
    reader, other = (_user(release, tmp_path, user, evidence=user == "reader") for user in ("reader", "other"))
    fetch = lambda who: cli("evidence", name, "-o", str(path), "--kubeconfig", str(who), "-n", release.namespace)  # noqa: E731
    status, _, said = fetch(other)
    assert status != 0
    assert f"may not get findings/evidence of daemoneye.io in namespace {NAMESPACE}" in said
    assert not path.exists()

    def fetched() -> bool:
        status, _, said = fetch(reader)
        assert status == 0, said
        return True

    wait("its packets", fetched, every=1)

    id_of = finding["status"]["lastFindingID"]
    assert id_of in subprocess.run(["capinfos", path], check=True, capture_output=True, text=True).stdout
    rows = _tshark(path, "ip.src", "tcp.srcport", "http.host", "frame.comment")
    requests = [row for row in rows if row[2] == "169.254.169.254"]
    assert requests, rows
    for source, port, _, comment in requests:
        assert source == caller
        assert comment == f"community id {community_id(packed(caller), packed(shop), int(port), 8080, 6)}"
    assert all(
        caller in (row[0], target) for row, (target,) in zip(rows, _tshark(path, "ip.dst"), strict=True) if row[0]
    )
    others = {row[1] for row in rows if row[0] == caller} - {row[1] for row in requests}
    assert others, "the whole pod was armed, and it went on asking"

    def written_down() -> list[tuple[str, bool, int]]:
        """Who asked for it and what he was answered, by the log."""
        logs = ("logs", "-n", release.namespace, f"deployment/{release.name}-analytics")
        lines = release.cluster.kubectl(*logs).splitlines()
        audit = [json.loads(line[line.index("{") :]) for line in lines if '"audit": "evidence"' in line]
        assert {one["namespace"] for one in audit} == {NAMESPACE}
        return [
            (one["user"].rpartition(":")[2], one["allowed"], one["status"]) for one in audit if one["finding"] == id_of
        ]

    wait("the last answer in the log", lambda: written_down()[-1] == ("reader", True, 200))
    assert written_down()[0] == ("other", False, 403)


def _user(release: Release, directory: Path, name: str, *, evidence: bool) -> Path:
    """kubectl's configuration of somebody with a token of his own, who sees findings, and may have their packets."""
    cluster, rbac = release.cluster, "rbac.authorization.k8s.io"
    cluster.kubectl("create", "serviceaccount", name, "-n", NAMESPACE)

    def bind(namespace: str, kind: str, role: str) -> None:
        binding = {
            "apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": {"name": f"{name}-{role}", "namespace": namespace},
            "roleRef": {"apiGroup": rbac, "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        }  # fmt: skip
        cluster.apply(json.dumps(binding))

    rules = [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]},
    ]
    where = {"name": "fetch", "namespace": release.namespace}
    cluster.apply(json.dumps({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": where, "rules": rules}))
    bind(release.namespace, "Role", "fetch")
    bind(NAMESPACE, "ClusterRole", "daemoneye-view")
    if evidence:
        bind(NAMESPACE, "ClusterRole", "daemoneye-evidence")
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    token = cluster.kubectl("create", "token", name, "-n", NAMESPACE).strip()
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    path = directory / f"{name}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def _tshark(path: Path, *fields: str) -> list[list[str]]:
    """Fields of every packet of a file."""
    words = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(["tshark", "-r", path, "-T", "fields", *words], check=True, capture_output=True, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def _found(release: Release, detector: str) -> list[dict[str, Any]]:
    """What a detector found in the caller."""
    return [one for one in release.findings(NAMESPACE, pod="caller") if one["spec"]["detector"] == detector]


def _reason(release: Release, reason: str) -> dict[str, Any]:
    condition = release.condition("watch", "CaptureHealthy")
    return condition if condition.get("reason") == reason else {}


def _pid(pod: dict[str, Any]) -> int:
    """The node's number of a pod's process."""
    (pid,) = pids(b"python", pod["metadata"]["uid"])
    return pid
