"""A real API server on loopback, with nothing behind it: etcd and kube-apiserver, no controller and no node.

Responsible for both processes and for what a test asks of them: objects, and tokens of service accounts as the kubelet would get them, or as nobody
would (expired, of another cluster). The whole cluster is `tests.cluster.harness`.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from kubernetes.client import ApiClient, Configuration

from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import path_of, request
from tests.cluster.harness import binaries
from tests.cluster.harness.pki import Authority, service_account_key
from tests.support.ports import free_ports

ISSUER: Final = "https://kubernetes.default.svc"
_READY_S: Final = 120.0


class ApiServer:
    """Both processes, in a directory; the API server can be ended and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self._etcd, self._peer = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        self.pki = directory / "pki"
        authority = Authority(self.pki)
        authority.issue("apiserver", "kube-apiserver", addresses=("localhost", "127.0.0.1"))
        authority.issue("admin", "admin", "system:masters")
        service_account_key(self.pki / "service-accounts.key")
        service_account_key(self.pki / "foreign.key")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        configuration = Configuration()
        configuration.host = self.url
        configuration.ssl_ca_cert = str(self.pki / "ca.crt")
        configuration.cert_file, configuration.key_file = (str(self.pki / f"admin.{kind}") for kind in ("crt", "key"))
        configuration.retries = False
        self._admin = ApiClient(configuration)

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start what does not run, and wait until the API server is ready."""
        etcd, peer = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peer}"
        key = self.pki / "service-accounts.key"
        self._start("etcd", [
            "etcd", f"--data-dir={self.directory / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}", "--unsafe-no-fsync",
        ])  # fmt: skip
        self._start("kube-apiserver", [
            binaries.tool("kube-apiserver"), f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.port}",
            "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.253.0.0/24", f"--client-ca-file={self.pki}/ca.crt",
            f"--tls-cert-file={self.pki}/apiserver.crt", f"--tls-private-key-file={self.pki}/apiserver.key",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}", f"--service-account-issuer={ISSUER}",
            "--authorization-mode=RBAC", "--endpoint-reconciler-type=none",
        ])  # fmt: skip
        deadline = time.monotonic() + _READY_S
        while not self._ready():
            process = self._processes["kube-apiserver"]
            assert process.poll() is None, f"kube-apiserver ended: {self.log()}"
            assert time.monotonic() < deadline, f"kube-apiserver is not ready: {self.log()}"
            time.sleep(0.1)

    def stop(self, name: str = "kube-apiserver") -> None:
        """End one."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(60)

    def close(self) -> None:
        """End both."""
        for name in ("kube-apiserver", "etcd"):
            self.stop(name)
        self._admin.rest_client.close()

    def log(self) -> str:
        """What the API server said last."""
        return (self.directory / "kube-apiserver.log").read_text()[-2000:]

    def _start(self, name: str, command: list[Any]) -> None:
        if name not in self._processes:
            with (self.directory / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

    def _ready(self) -> bool:
        try:
            return request(self._admin, "GET", "/readyz", timeout=(1, 5)).status == 200
        except ApiError:
            return False

    # ── objects ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        """POST as an administrator."""
        made: dict[str, Any] = json.loads(request(self._admin, "POST", path, body=obj).data)
        return made

    def get(self, path: str) -> dict[str, Any] | None:
        """GET as an administrator; None where there is nothing."""
        try:
            found: dict[str, Any] = json.loads(request(self._admin, "GET", path).data)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def merge(self, path: str, patch: dict[str, Any]) -> None:
        """JSON merge patch as an administrator."""
        request(self._admin, "PATCH", path, body=patch, headers={"Content-Type": "application/merge-patch+json"})

    def namespace(self, name: str, *accounts: str) -> None:
        """A namespace with service accounts; another test may have made the namespace."""
        try:
            self.create("/api/v1/namespaces", {"metadata": {"name": name}})
        except ApiError as error:
            if error.status != 409:
                raise
        for account in accounts:
            self.create(path_of("/api/v1", "serviceaccounts", namespace=name), {"metadata": {"name": account}})

    def pod(self, namespace: str, name: str, node: str, account: str) -> dict[str, Any]:
        """A pod that is bound to a node, which need not be there."""
        container = {"name": "main", "image": "none"}
        spec = {"nodeName": node, "serviceAccountName": account, "containers": [container]}
        return self.create(path_of("/api/v1", "pods", namespace=namespace), {"metadata": {"name": name}, "spec": spec})

    def delete(self, path: str) -> None:
        """DELETE as an administrator."""
        request(self._admin, "DELETE", path)

    def delete_pod(self, namespace: str, name: str) -> None:
        """Delete a pod at once."""
        request(self._admin, "DELETE", path_of("/api/v1", "pods", name, namespace), {"gracePeriodSeconds": "0"})

    def kubeconfig(self, path: Path, namespace: str, account: str) -> None:
        """A kubeconfig with a token of an account, for the API server itself."""
        cluster = {"server": self.url, "certificate-authority": str(self.pki / "ca.crt")}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "test", "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": account, "user": {"token": self.token(namespace, account)}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": account}}],
                }
            )
        )  # fmt: skip

    # ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def token(self, namespace: str, account: str, audience: str = "", pod: dict[str, Any] | None = None) -> str:
        """What the kubelet asks for: a token of an account for an audience (the API server's own without one), bound to a pod."""
        spec: dict[str, Any] = {"expirationSeconds": 3600}
        if audience:
            spec["audiences"] = [audience]
        if pod is not None:
            reference = {"kind": "Pod", "apiVersion": "v1", **{key: pod["metadata"][key] for key in ("name", "uid")}}
            spec["boundObjectRef"] = reference
        path = path_of("/api/v1", "serviceaccounts", account, namespace, "token")
        return str(
            self.create(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})[
                "status"
            ]["token"]
        )

    def resigned(self, token: str, *, key: str = "service-accounts", **claims: Any) -> str:
        """A token with other claims, signed with the cluster's own key or with `foreign`."""
        head, payload, _ = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
        signed = f"{_text(head)}.{_text(json.dumps({**json.loads(payload), **claims}).encode())}"
        private = serialization.load_pem_private_key((self.pki / f"{key}.key").read_bytes(), None)
        assert isinstance(private, rsa.RSAPrivateKey)
        return f"{signed}.{_text(private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def answers(self, token: str) -> int:
        """The status that the API server answers to whoever comes with this token."""
        context = ssl.create_default_context(cafile=self.pki / "ca.crt")
        asked = urllib.request.Request(f"{self.url}/api", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def serving(directory: Path) -> Iterator[ApiServer]:
    """One that is ready; ended whatever happens."""
    server = ApiServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.close()
