"""The chart installed on the test cluster as a user installs it, and what a test asks of it.

Responsible for images (built by scripts/images.sh), `helm install` and its end; not for the cluster (`tests.cluster.harness`).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.cluster.harness import images

T = TypeVar("T")

REPOSITORY: Final = Path(__file__).parents[2]
CHART: Final = REPOSITORY / "charts" / "daemoneye"
DISK_BYTES: Final = 512 << 20
"""Of the broker: more than its streams may hold, and soon full."""
KINDS: Final = ("daemoneyepolicies", "findings", "detectionexceptions", "federationpeers")
VICTIM: Final = "daemoneye-test/victim:1"
PINS: Final = Path("/sys/fs/bpf/daemoneye")
IMAGES: Final = ("operator", "analytics", "sensor", "nats")
COMPONENTS: Final = ("operator", "identity", "callout", "analytics", "nats")
# A chart of the commit before may not know the others.
_SMALL: Final = ("operator", "identity", "analytics", "nats", "sensor")


def wait(what: str, condition: Callable[[], T], seconds: float = 180.0, every: float = 0.25) -> T:
    """The condition's first true value; fails with `what` when the time is over. A condition that raises is not true yet."""
    deadline = time.monotonic() + seconds
    trouble: Exception | None = None
    while True:
        try:
            if value := condition():
                return value
            trouble = None
        except (AssertionError, KeyError, IndexError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            trouble = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}" + (f" (last: {trouble!r})" if trouble else ""))
        time.sleep(every)


@contextmanager
def revision(name: str, directory: Path) -> Iterator[Path | None]:
    """A tree of another revision of this repository; None where that has no chart, or where there is no history."""
    tree = directory / "tree"
    made = subprocess.run(["git", "worktree", "add", "--detach", str(tree), name], cwd=REPOSITORY, capture_output=True)
    try:
        yield tree if made.returncode == 0 and (tree / "charts" / "daemoneye").is_dir() else None
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=REPOSITORY, capture_output=True)


def build_images(*names: str, tree: Path = REPOSITORY) -> list[Path]:
    """Archives of the images; quick when nothing changed."""
    script = tree / "scripts" / "images.sh"
    done = subprocess.run([script, *(names or IMAGES)], check=True, stdout=subprocess.PIPE, text=True)
    return [Path(word) for line in done.stdout.splitlines() for word in line.split() if word.endswith(".tar")]


class Release:
    """One installation.

    Attributes:
        there: Whether this run began to install it, and neither uninstalled nor removed it since.
    """

    def __init__(self, cluster: Any, name: str = "daemoneye", namespace: str = "daemoneye") -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = namespace
        self.there = False

    # ── helm ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def fresh(self) -> None:
        """Nothing of a former installation, and what docs/install.md asks for before `helm install`: a namespace in which privileged pods may run, a volume."""
        self.remove()
        self.cluster.apply(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {
                        "name": self.namespace,
                        "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
                    },
                }
            )
        )
        self._volume()

    @property
    def spool(self) -> Path:
        """Where the node keeps the sensor's spool."""
        return self.cluster.state / "spool"

    @property
    def disk(self) -> Path:
        """The broker's volume."""
        return self.cluster.state / "broker"

    def values(self) -> tuple[str, ...]:
        """Small, so that several things fit a small machine, and the test cluster's own paths; nothing else differs from a user's installation."""
        tasks = self.cluster.state / "containerd-state" / "io.containerd.runtime.v2.task"
        small = 64 << 20
        return (
            "image.tag=dev", "image.pullPolicy=Never", "clusterName=test", f"sensor.hostPaths.runtimeTasks={tasks}",
            f"sensor.hostPaths.spool={self.spool}", f"streams.eventsMaxBytes={4 * small}", f"streams.findingsMaxBytes={small}",
            "nats.storeMaxBytes=1073741824", "nats.storage.size=1Gi", "nats.storage.storageClassName=by-hand", "nats.storage.keep=false",
            "sensor.statusIntervalSeconds=2", "operator.resyncSeconds=5", *(f"{one}.resources.requests.cpu=10m" for one in _SMALL),
        )  # fmt: skip

    def _volume(self) -> None:
        """A PersistentVolume for the broker, a small disk of its own: the test cluster has nothing that would make one."""
        value = {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "broker"},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": str(self.disk), "type": "Directory"},
            },
        }  # fmt: skip
        self.disk.mkdir(exist_ok=True)
        image = self.disk.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.disk], check=True)
        self.disk.chmod(0o777)  # kubelet gives a hostPath's owner to no pod
        self.cluster.apply(json.dumps(value))

    def install(self, *values: str, chart: Path = CHART) -> None:
        """`helm upgrade --install --wait`: returns when every pod is ready, which needs the Secrets that the operator makes."""
        self.there = True
        self._helm("upgrade", "--install", self.name, str(chart), *_sets(*self.values(), *values))

    def upgrade(self, *values: str, chart: Path = CHART) -> None:
        """`helm upgrade` as docs/upgrade.md says it: other values stay what they were."""
        self._helm("upgrade", self.name, str(chart), "--reset-then-reuse-values", *_sets(*values))

    def roll_back(self, number: int) -> None:
        """`helm rollback` to one of its revisions."""
        self._helm("rollback", self.name, str(number))

    def uninstall(self) -> None:
        """`helm uninstall`, with its hook."""
        self._helm("uninstall", self.name)
        self.there = False

    def idle(self) -> None:
        """As right after its installation: no policy, and nothing on the node. What was uninstalled stays so."""
        self.cluster.kubectl("delete", "depol", "--all", "--wait=true", "--timeout=90s", check=False)
        wait("no DaemonSet", lambda: not self.there or not self.items("daemonsets", self.namespace))

    def remove(self) -> None:
        """Leave nothing of it, in whatever state it is."""
        self.there = False
        delete = partial(self.cluster.kubectl, "delete", "--ignore-not-found", "--timeout=180s", check=False)
        self.cluster.helm("uninstall", self.name, "--namespace", self.namespace, "--wait", check=False)
        delete("namespace", self.namespace, "--wait=false")
        delete("crd", *(f"{kind}.daemoneye.io" for kind in KINDS))
        delete("namespace", self.namespace)
        delete("pv", "broker")
        while os.path.ismount(self.disk):
            wait(
                "the volume let go",
                lambda: not subprocess.run(["umount", self.disk], capture_output=True).returncode,
            )

    def _helm(self, *words: str) -> None:
        self.cluster.helm(*words, "--namespace", self.namespace, "--wait", "--timeout", "240s")

    # ── objects ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def items(self, kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        """Objects of one kind; those of all namespaces without one."""
        where = ["--namespace", namespace] if namespace else ["--all-namespaces"]
        chosen = ["--selector", selector] if selector else []
        return json.loads(self.cluster.kubectl("get", kind, *where, *chosen, "-o", "json"))["items"]

    def policy(self, name: str, **spec: Any) -> dict[str, Any]:
        """Apply a policy; the object."""
        value = {
            "apiVersion": "daemoneye.io/v1alpha1",
            "kind": "DaemonEyePolicy",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.cluster.apply(json.dumps(value))
        return value

    def condition(self, policy: str, kind: str) -> dict[str, Any]:
        """One condition of a policy, for the generation that it has now; empty while the operator has not seen it."""
        value = self.cluster.get("daemoneyepolicy", policy)
        for condition in value.get("status", {}).get("conditions", ()):
            if condition["type"] == kind and condition.get("observedGeneration") == value["metadata"]["generation"]:
                return condition
        return {}

    def wait_ready(self, policy: str, seconds: float = 180.0) -> None:
        """Wait until every selected node runs the policy as it is now."""
        wait(f"policy {policy} Ready", lambda: self.condition(policy, "Ready").get("status") == "True", seconds)

    def findings(self, namespace: str, **subject: str) -> list[dict[str, Any]]:
        """Finding objects of a namespace whose subject has these values."""
        found = self.items("findings.daemoneye.io", namespace)
        return [f for f in found if all(f["spec"]["subject"].get(k) == v for k, v in subject.items())]

    def sensor_pods(self) -> list[dict[str, Any]]:
        """The DaemonSet's pods."""
        return self.items("pods", self.namespace, "app.kubernetes.io/component=sensor")

    @contextmanager
    def pod(
        self, name: str, namespace: str, *command: str, labels: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """A running pod that does something of tests/cluster/victim.c; about to go afterwards, so that its name is not to be used again."""
        value = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {"name": "main", "image": VICTIM, "imagePullPolicy": "Never", "command": ["/victim", *command]}
                ],
            },
        }
        self.cluster.apply(json.dumps(value))
        try:
            self.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=180s")
            yield self.cluster.get("pod", name, namespace)
        finally:
            with suppress(Exception):
                self.cluster.kubectl("delete", "pod", name, "-n", namespace, "--wait=false")

    @contextmanager
    def namespace_of_tests(self, name: str, labels: dict[str, str] | None = None) -> Iterator[str]:
        """A namespace, about to go afterwards."""
        with namespace_of_tests(self.cluster, name, labels):
            yield name


@contextmanager
def namespace_of_tests(cluster: Any, name: str, labels: dict[str, str] | None = None) -> Iterator[str]:
    """A namespace, about to go afterwards: nobody waits for the five seconds that Kubernetes takes before it begins with that."""
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=60s")
    cluster.apply(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
    )
    # The default service account is made a moment after the namespace.
    wait("service account default", lambda: cluster.get("serviceaccount", "default", name))
    try:
        yield name
    finally:
        with suppress(Exception):
            cluster.kubectl("delete", "namespace", name, "--wait=false")


def _sets(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def pids(word: bytes, pod_uid: str) -> list[int]:
    """Processes of a pod whose arguments have a word, by the node's numbers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inside = pod_uid in (entry / "cgroup").read_text()
                if inside and word in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def victim_image(directory: Path) -> Path:
    """Archive of the image that the test pods run."""
    binary = images.compile_static(Path(__file__).with_name("victim.c"), directory / "victim")
    return images.archive(directory / "victim.tar", VICTIM, {"/victim": binary}, ["/victim"])
