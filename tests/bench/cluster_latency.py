"""The chart on a real cluster: how long it takes from an event to the Finding that people see, and what all of it costs the machine.

Triggers are executions of an anonymous file by processes that are put into the cgroups of a pod's container, each time of another container, so that each
makes an object of its own. Time runs from the `execve` to the moment that a watch on the API server shows the Finding.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import urllib3

from tests.bench import machine
from tests.bench.agents import summary
from tests.bench.machine import Usage
from tests.bench.tables import Outcome, Target, median
from tests.bench.workloads import Counts, Workload, build, workspace
from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import VICTIM, Release, build_images, victim_image

_CONTAINERS: Final = 20
_TRIGGERS: Final = 200
_GAP_S: Final = 0.3
_EXECS: Final = 10_000
_SETTLE_S: Final = 3.0
_IDLE_S: Final = 60.0
_WAIT_S: Final = 20.0
_SILENT_S: Final = 5.0
_MIB: Final = 1 << 20
_FALCO: Final = 2.17
"""Falco's CPU-s per 10,000 executions on a like machine, its sensor alone."""
_SHOP: Final = "bench"
_FINDINGS: Final = "/apis/daemoneye.io/v1alpha1/findings?watch=true"
_PARTS: Final = {
    "sensor": "-m daemoneye_sensor",
    "nats": "nats-server",
    "analytics": "-m daemoneye_analytics",
    "operator": "-m daemoneye_operator run",
    "identity": "-m daemoneye_operator identity",
}
# As little as possible between the clock and the call; the copy of /bin/true ends at once.
_TRIGGER: Final = """
import os, sys, time
for path in sys.argv[2:]:
    with open(path, "w") as procs: procs.write("0")
fd = os.memfd_create("copy")
os.write(fd, open("/bin/true", "rb").read())
os.write(1, b"%d" % time.time_ns())
os.execve(fd, [sys.argv[1]], {})
"""


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    outcome = Outcome(
        "cluster_latency",
        ("part", "CPU-s/10k execs", "less what it uses idle", "idle CPU % of a core", "idle wake-ups/s", "RSS MB"),
    )
    triggers = max(int(_TRIGGERS * min(scale, 1.0)), 5)
    with workspace() as directory, _installed(directory) as release:
        workloads = build(directory, Counts(paced=max(int(_EXECS * scale), 100)))
        with _containers(release, triggers) as cgroups:
            time.sleep(_SETTLE_S)
            latencies = _latencies(release, cgroups, triggers)
        cpu, took = _load(workloads["paced"], rounds)
        idle, wakeups, rss = _idle(max(_IDLE_S * min(scale, 1.0), 3.0))
    for part in (*_PARTS, "all"):
        less = [used - idle[part] / 100 * took for used in cpu[part]]
        outcome.rows.append((part, cpu[part], less, idle[part], wakeups[part], rss[part]))
        outcome.data[part] = {
            "cpu_s_per_10k": summary(cpu[part]), "idle_percent": idle[part], "wakeups_per_s": wakeups[part], "rss_mb": rss[part],
        }  # fmt: skip
    found = np.array(sorted(latencies)) if latencies else np.array([float("nan")])
    p50, p99 = (float(np.percentile(found, q)) for q in (50, 99))
    outcome.data["latency_ms"] = {
        "triggers": triggers,
        "found": len(latencies),
        "p50": p50,
        "p99": p99,
        "all": latencies,
    }
    outcome.notes += [
        f"event → Finding on the API server: {len(latencies)} of {triggers} triggers",
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, least {found[0]:.0f} ms, most {found[-1]:.0f} ms",
        f"whole system {median(cpu['all']) or 0:.2f} CPU-s per 10,000 executions at a thousand a second; Falco's sensor alone: {_FALCO}",
    ]
    outcome.targets += [
        Target("event → Finding, p99", p99 / 1000 if latencies else None, 1.0, unit=" s"),
        Target("whole system per 10k execs against Falco's sensor", median(cpu["all"]), _FALCO, unit=" CPU-s"),
        Target("idle sensor, CPU of a core", idle["sensor"], 0.2, unit=" %"),
        Target("idle sensor, wake-ups a second", wakeups["sensor"], 5),
    ]
    return outcome


@contextlib.contextmanager
def _installed(directory: Path) -> Iterator[Release]:
    """A cluster with the chart and a policy that is Ready; gone afterwards."""
    cluster = Cluster()
    try:
        cluster.up()
        for archive in (*build_images(), victim_image(directory)):
            cluster.load_image(archive)
        release = Release(cluster)
        release.fresh()
        # Every trigger becomes an object, and sensors beat as they do by default.
        release.install(
            "findings.creationsPerMinute=6000", "findings.maxObjects=5000", "sensor.statusIntervalSeconds=10"
        )
        release.policy("default")
        release.wait_ready("default")
        yield release
    finally:
        cluster.down()


@contextlib.contextmanager
def _containers(release: Release, count: int) -> Iterator[dict[tuple[str, str], list[str]]]:
    """So many running containers: (pod, container) → the files that take a process into its cgroups."""
    with release.namespace_of_tests(_SHOP):
        names = [f"cart-{number}" for number in range(-(-count // _CONTAINERS))]
        for name in names:
            containers = [
                {"name": f"part-{i}", "image": VICTIM, "imagePullPolicy": "Never", "command": ["/victim", "hold"]} for i in range(_CONTAINERS)
            ]  # fmt: skip
            spec = {"terminationGracePeriodSeconds": 1, "containers": containers}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": _SHOP}, "spec": spec}
            release.cluster.apply(json.dumps(pod))
        release.cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", _SHOP, "--timeout=180s")
        there = _cgroups()
        yield {
            (pod["metadata"]["name"], status["name"]): there[status["containerID"].rpartition("//")[2]]
            for pod in release.items("pods", _SHOP)
            for status in pod["status"]["containerStatuses"]
        }


def _cgroups() -> dict[str, list[str]]:
    """Container's id → its cgroup.procs in every hierarchy that it has one in."""
    found: dict[str, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            lines = [line.split(":", 2) for line in path.read_text().splitlines()]
            places = [(controllers, group) for _, controllers, group in lines if "/kubepods" in group]
            if places:
                files = [str(_mount(controllers) / group.lstrip("/") / "cgroup.procs") for controllers, group in places]
                found.setdefault(places[0][1].rpartition("/")[2].rpartition("-")[2].removesuffix(".scope"), files)
    return found


def _mount(controllers: str) -> Path:
    """Where a hierarchy is mounted: of version 2 if it names no controllers."""
    root = Path("/sys/fs/cgroup")
    if not controllers:
        return root if (root / "cgroup.procs").exists() else root / "unified"
    return root / controllers.removeprefix("name=")


class _Findings(threading.Thread):
    """A watch on all Findings.

    Attributes:
        seen: (pod, container) → when its first was shown, ns since 1970.
        trouble: Why the watch ended before its time; the next one shows late what came between.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.seen: dict[tuple[str, str], int] = {}
        self.trouble: list[str] = []
        pki = cluster.state / "pki"
        self._pool = urllib3.PoolManager(
            ca_certs=str(pki / "ca.crt"), cert_file=str(pki / "admin.crt"), key_file=str(pki / "admin.key")
        )
        self._url = f"{cluster.server}{_FINDINGS}"
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow()
                self.trouble.append("it ended")
            except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
                continue  # nothing was said: time to see whether that is enough
            except (urllib3.exceptions.HTTPError, ValueError) as error:
                self.trouble.append(repr(error))

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _follow(self) -> None:
        response = self._pool.request("GET", self._url, preload_content=False, timeout=urllib3.Timeout(read=_SILENT_S))
        rest = b""
        try:
            for chunk in response.stream(65536):
                now = time.time_ns()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    subject = json.loads(line)["object"].get("spec", {}).get("subject", {})
                    self.seen.setdefault((subject.get("pod", ""), subject.get("container", "")), now)
        finally:
            response.close()


def _latencies(release: Release, cgroups: dict[tuple[str, str], list[str]], triggers: int) -> list[float]:
    """Milliseconds from each trigger to its Finding."""
    watching = _Findings(release.cluster)
    watching.start()
    began: dict[tuple[str, str], int] = {}
    try:
        for place in sorted(cgroups)[:triggers]:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _TRIGGER, "trigger", *cgroups[place]], check=True, stdout=subprocess.PIPE
            )  # fmt: skip
            began[place] = int(done.stdout)
            time.sleep(_GAP_S + random.random() * _GAP_S)  # not in step with the sensor's timer
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline and not began.keys() <= watching.seen.keys():
            time.sleep(0.1)
    finally:
        watching.end()
    for trouble in watching.trouble:
        sys.stderr.write(f"bench: the watch on Findings: {trouble}\n")
    return [(watching.seen[place] - at) / 1e6 for place, at in began.items() if place in watching.seen]


def _load(paced: Workload, rounds: int) -> tuple[dict[str, list[float]], float]:
    """CPU-s per 10,000 executions of each part, and seconds that this took: each part would have used its idle share of them anyway."""
    cpu: dict[str, list[float]] = {part: [] for part in (*_PARTS, "all")}
    time.sleep(_SETTLE_S)
    seconds = []
    for _ in range(rounds):
        before, began = _usage(), time.monotonic()
        paced.run()
        time.sleep(_SETTLE_S)
        seconds.append((time.monotonic() - began) * 10_000 / paced.execs)
        for part, used in _usage().items():
            cpu[part].append((used.cpu_s - before[part].cpu_s) * 10_000 / paced.execs)
    return cpu, sum(seconds) / len(seconds)


def _idle(seconds: float) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Per cent of a core, wake-ups a second and resident MB of each part."""
    time.sleep(_SETTLE_S)
    before, began = _usage(), time.monotonic()
    time.sleep(seconds)
    after, took = _usage(), time.monotonic() - began
    return (
        {part: (after[part].cpu_s - before[part].cpu_s) / took * 100 for part in after},
        {part: (after[part].wakeups - before[part].wakeups) / took for part in after},
        {part: after[part].rss / _MIB for part in after},
    )


def _usage() -> dict[str, Usage]:
    """What each part's processes used so far, and their sum."""
    each = {part: machine.usage(_pids(text)) for part, text in _PARTS.items()}
    names: tuple[Any, ...] = ("cpu_s", "wakeups", "rss")
    return {**each, "all": Usage(*(sum(getattr(used, name) for used in each.values()) for name in names))}


def _pids(text: str) -> list[int]:
    """Processes in pods whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if "/kubepods" in path.read_text() and text in machine.command(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found
