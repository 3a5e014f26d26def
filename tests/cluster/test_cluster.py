"""The test cluster itself: what the other tests rest on."""

from __future__ import annotations

import json
import os

import pytest

from tests.cluster.harness.cluster import NODE, Cluster
from tests.cluster.release import VICTIM, namespace_of_tests, victim_image, wait

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def victim(cluster: Cluster, tmp_path_factory):
    cluster.load_image(victim_image(tmp_path_factory.mktemp("victim")))
    return VICTIM


def _pod(name: str, image: str, *command: str) -> str:
    container = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["/victim", *command]}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
    )


def test_pod_runs_and_is_logged(cluster: Cluster, victim: str):
    cluster.apply(_pod("runs", victim, "spawn", "3"))
    try:
        wait("log line", lambda: "ready" in cluster.kubectl("logs", "runs"))
        assert cluster.get("pod", "runs", "default")["spec"]["nodeName"] == NODE
    finally:
        cluster.kubectl("delete", "pod", "runs", "--wait=true")


def test_names_resolve_to_services(cluster: Cluster):
    """Through kube-proxy and CoreDNS, as pods do it: the service's own address answers."""
    query = (
        bytes.fromhex("abcd01000001000000000000")
        + b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01"
    )
    import socket

    def answer() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(1)
            asking.sendto(query, (cluster.dns, 53))
            try:
                return asking.recv(512)
            except TimeoutError:
                return b""

    reply = wait("DNS answer", answer)
    assert socket.inet_aton(cluster.services.rsplit(".", 1)[0] + ".1") in reply


def test_token_of_an_own_audience_is_verified_by_the_api(cluster: Cluster):
    wait("service account", lambda: cluster.get("serviceaccount", "default", "default"))
    token = cluster.kubectl("create", "token", "default", "--audience=daemoneye-test").strip()
    for audience, expected in (("daemoneye-test", True), ("another", False)):
        review = {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [audience]},
        }  # fmt: skip
        answer = json.loads(cluster.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review)))
        assert bool(answer["status"].get("authenticated")) is expected


def test_pod_security_is_enforced(cluster: Cluster):
    with namespace_of_tests(cluster, "strict", {"pod-security.kubernetes.io/enforce": "restricted"}) as strict:
        refused = cluster.kubectl("-n", strict, "run", "x", "--image=x", check=False)
        assert "violates PodSecurity" in refused


def test_control_plane_belongs_to_root(cluster: Cluster):
    """Keys of a cluster that may run privileged pods are nobody else's."""
    for path in (
        cluster.kubeconfig,
        cluster.state / "pki" / "admin.key",
        cluster.state / "pki" / "service-accounts.key",
    ):
        assert os.stat(path).st_mode & 0o077 == 0
