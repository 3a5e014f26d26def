"""A real Kubernetes of one node on this machine: etcd, control plane, containerd, kubelet, kube-proxy, CoreDNS.

Responsible for bringing it up and for everything that a test asks of it; what is left when it goes is `leftovers`' affair. Several may
run side by side: `index` keeps their addresses, ports and names apart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import binaries, configs, images, leftovers
from tests.cluster.harness.pki import Authority, service_account_key
from tests.cluster.harness.processes import Processes

PAUSE: Final = "daemoneye-test/pause:1"
COREDNS: Final = "daemoneye-test/coredns:1"
NODE: Final = "node-1"
PACKAGES: Final = {
    "etcd": "etcd-server", "containerd": "containerd", "runc": "runc", "ctr": "containerd", "iptables": "iptables",
    "conntrack": "conntrack", "gcc": "gcc", "ip": "iproute2",
}  # fmt: skip
_STATE: Final = Path("/var/lib/daemoneye-cluster")
_SYSCTLS: Final = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}


class Cluster:
    """One cluster, by name; made and found again from its state directory."""

    def __init__(self, name: str = "test", index: int = 0) -> None:
        self.name = name
        self.index = index
        self.state = _STATE / name
        self.bridge, self.pod_bridge = f"dek{index}", f"dep{index}"
        self.address = f"10.250.{index}.1"
        self.pods, self.services = f"10.251.{index}.0/24", f"10.252.{index}.0/24"
        self.dns = f"10.252.{index}.10"
        self.port = 6443 + index
        self.server = f"https://{self.address}:{self.port}"
        self.kubeconfig = self.state / "admin.kubeconfig"
        self.containerd = self.state / "containerd.sock"
        self.processes = Processes(self.state)

    # ── what a test asks ────────────────────────────────────────────────────────────────────────────────────────────

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002 - subprocess' own name
        """Output of kubectl; with `check=False` output and error of one that may fail."""
        # What kubectl keeps in the home directory is by address, and another cluster had this one before.
        cache = f"--cache-dir={self.state / 'kubectl-cache'}"
        return self._run(
            [binaries.tool("kubectl"), "--kubeconfig", self.kubeconfig, cache, *arguments], input, check=check
        )

    def helm(self, *arguments: str, check: bool = True) -> str:
        """Output of helm."""
        return self._run([binaries.tool("helm"), "--kubeconfig", self.kubeconfig, *arguments], None, check=check)

    def apply(self, text: str) -> str:
        """Server-side apply of YAML or JSON."""
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """One object."""
        where = ["--namespace", namespace] if namespace else []
        value: dict[str, Any] = json.loads(self.kubectl("get", kind, name, *where, "-o", "json"))
        return value

    def load_image(self, path: Path) -> None:
        """Import an archive for the kubelet to use."""
        self._ctr("images", "import", "--no-unpack", str(path))

    def tag_image(self, name: str, tag: str) -> None:
        """Give an image that was loaded another tag beside its own, which the next one of that name takes."""
        self._ctr("images", "tag", "--force", f"docker.io/{name}", f"docker.io/{name.rpartition(':')[0]}:{tag}")

    def _run(self, command: Sequence[str | Path], text: str | None, *, check: bool = True) -> str:
        done = subprocess.run(list(map(str, command)), input=text, capture_output=True, text=True, timeout=300)
        if check and done.returncode:
            words = " ".join(str(c) for c in (*command[:1], *command[3:]))
            raise CommandError(f"{words}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def _ctr(self, *arguments: str) -> str:
        return self._run(["ctr", "--address", self.containerd, "--namespace", "k8s.io", *arguments], None)

    # ── up ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def up(self) -> None:
        """Bring it up and wait until the node is Ready and names resolve; an unclean former one is removed first.

        Raises:
            RuntimeError: A package is missing or something did not come up; the message holds the end of its log.
        """
        missing = sorted({package for command, package in PACKAGES.items() if not shutil.which(command)})
        if missing:
            raise RuntimeError(
                f"the test cluster needs packages: {' '.join(missing)} (scripts/setup.sh tests installs them)"
            )
        self.down()
        programs = {name: binaries.tool(name) for name in (*binaries.KUBERNETES, "coredns")}
        for directory in ("kubelet", "logs", "cni", "pods", "etcd"):
            (self.state / directory).mkdir(parents=True, exist_ok=True)
        leftovers.remember(self.state)
        self._network()
        self._certificates()
        configs.write(self)
        self._control_plane(programs)
        self._node(programs)
        self._wait("node Ready", self._node_ready, ("kubelet", "containerd"))
        self._dns(programs["coredns"])
        print(f"test cluster: up; export KUBECONFIG={self.kubeconfig}", file=sys.stderr)

    def _network(self) -> None:
        self._ip("link", "add", self.bridge, "type", "bridge")
        self._ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        self._ip("link", "set", self.bridge, "up")
        for key, value in _SYSCTLS.items():
            path = Path("/proc/sys") / key
            if path.exists():
                path.write_text(value)
        for kind, target in (("bpf", "/sys/fs/bpf"), ("tracefs", "/sys/kernel/tracing")):
            # What systemd does on a node.
            if not any(line.split()[1] == target for line in Path("/proc/mounts").read_text().splitlines()):
                subprocess.run(["mount", "-t", kind, kind, target], check=True)

    def _certificates(self) -> None:
        authority = Authority(self.state / "pki")
        service = str(self.services).rsplit(".", 1)[0] + ".1"
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
        authority.issue("apiserver", "kube-apiserver", addresses=(*names, self.address, "127.0.0.1", service))
        users = {
            "admin": ("admin", "system:masters"), "apiserver-kubelet": ("apiserver", "system:masters"),
            "kubelet": (f"system:node:{NODE}", "system:nodes"), "proxy": ("system:kube-proxy", ""),
            "controllers": ("system:kube-controller-manager", ""), "scheduler": ("system:kube-scheduler", ""),
        }  # fmt: skip
        for user, (name, organisation) in users.items():
            authority.issue(user, name, organisation)
            authority.kubeconfig(self.state / f"{user}.kubeconfig", user, self.server)
        service_account_key(self.state / "pki" / "service-accounts.key")

    def _control_plane(self, programs: dict[str, Path]) -> None:
        for name, command in configs.control_plane(self, programs).items():
            self.processes.start(name, command)
            if name == "kube-apiserver":
                self._wait(
                    "API server ready",
                    lambda: self.kubectl("get", "--raw", "/readyz") == "ok",
                    ("kube-apiserver", "etcd"),
                )

    def _node(self, programs: dict[str, Path]) -> None:
        self.processes.start("containerd", ["containerd", "--config", self.state / "containerd.toml"])
        self._wait("containerd", lambda: bool(self._ctr("version")), ("containerd",))
        source = Path(__file__).with_name("pause.c")
        pause = images.compile_static(source, self.state / "images" / "pause")
        self.load_image(images.archive(self.state / "images" / "pause.tar", PAUSE, {"/pause": pause}, ["/pause"]))
        for name, command in configs.node(self, programs).items():
            self.processes.start(name, command)

    def _dns(self, coredns: Path) -> None:
        tar = images.archive(self.state / "images" / "coredns.tar", COREDNS, {"/coredns": coredns}, ["/coredns"])
        self.load_image(tar)
        self.apply(configs.dns(self, COREDNS))
        self._wait("CoreDNS ready", self._dns_ready, ("kubelet", "containerd", "kube-controller-manager"))

    def _node_ready(self) -> bool:
        conditions = self.get("node", NODE)["status"]["conditions"]
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _dns_ready(self) -> bool:
        return self.get("deployment", "coredns", "kube-system")["status"].get("readyReplicas", 0) >= 1

    def _wait(self, what: str, condition: Callable[[], bool], logs: tuple[str, ...], seconds: float = 180.0) -> None:
        began = time.monotonic()
        trouble = ""
        while time.monotonic() - began < seconds:
            try:
                if condition():
                    print(f"test cluster: {what} after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
                    return
            except (CommandError, KeyError, ValueError) as error:
                trouble = str(error)
            time.sleep(0.2)
        ends = "\n".join(f"--- {name}\n{self.processes.tail(name)}" for name in logs)
        raise RuntimeError(f"test cluster: {what}: not within {seconds:g} s; {trouble}\n{ends}")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    # ── down ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def down(self) -> None:
        """Remove every trace; nothing happens when there is none. Also works on what a crash left."""
        if not self.state.exists():
            return
        # The kubelet first, or it would start what we end; containers after it; what they use last.
        for name in ("kubelet", "kube-proxy"):
            self.processes.end(name)
        leftovers.end_containers(self.state)
        for name in reversed(self.processes.names()):
            self.processes.end(name)
        leftovers.remove(self.state, self.bridge, self.pod_bridge)
        if os.path.ismount(self.state):
            raise RuntimeError(f"{self.state} is still a mount")
        shutil.rmtree(self.state)
        with suppress(OSError):  # others may be there
            self.state.parent.rmdir()


class CommandError(RuntimeError):
    """kubectl, helm or ctr ended with an error, which is the message."""
