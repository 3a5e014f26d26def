"""Faults of every kind on a real cluster, one after the other, while events flow: after each of them, what was produced is watermarked or counted.

One generator for all tests of this module; each waits until everything is as before. The broker's volume is a small disk of its own, which one of
them fills. `-s` shows how long each recovery took.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemoneye_analytics.frame import text_hash
from tests.cluster.cli import Cli
from tests.cluster.harness import binaries, configs
from tests.cluster.harness.cluster import Cluster
from tests.cluster.load import COMMAND, EVERY_MS, all_there_once, nothing_lost, pids
from tests.cluster.oracle import Look, Oracle
from tests.cluster.release import PINS, Release, wait

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AWAY_S = 60
PROCESSES = {
    "operator": "daemoneye_operator run",
    "identity": "daemoneye_operator identity",
    "callout": "daemoneye_operator callout",
    "analytics": "daemoneye_analytics",
    "nats": "nats-server",
    "sensor": "daemoneye_sensor",
}


@pytest.fixture(scope="module")
def oracle(release: Release) -> Oracle:
    """What looks on, begun before the first sensor."""
    made = Oracle(release)
    made.begin()
    return made


@pytest.fixture(scope="module")
def busy(release: Release, oracle: Oracle) -> Iterator[dict[str, Any]]:
    """A pod that executes something every few milliseconds, as long as the module lasts."""
    release.policy("default")
    release.wait_ready("default")
    with (
        release.namespace_of_tests("recovery") as namespace,
        release.pod("busy", namespace, *COMMAND) as pod,
    ):
        oracle.settle()
        yield pod


@contextmanager
def fault(what: str, release: Release, oracle: Oracle, busy: dict[str, Any]) -> Iterator[None]:
    """What is done inside is recovered from: all is produced, stored, judged and ready again, and events kept coming."""
    before = oracle.executions[busy["metadata"]["uid"]]
    began = time.monotonic()
    yield
    now = oracle.settle()
    settled = time.monotonic() - began
    release.wait_ready("default")
    ready = time.monotonic() - began
    assert oracle.executions[busy["metadata"]["uid"]] > before
    nothing_lost(oracle)
    print(f"\nrecovery: {what}: nothing open after {settled:.1f} s, Ready after {ready:.1f} s, {now.produced} rows")


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("victims", [*((name,) for name in PROCESSES), tuple(PROCESSES)], ids="+".join)
def test_a_killed_process_loses_nothing(
    release: Release, oracle: Oracle, busy: dict[str, Any], victims: tuple[str, ...]
) -> None:
    before = _containers(release)
    with fault(f"kill -9 {'+'.join(victims)}", release, oracle, busy):
        _kill(release, *victims)
        if set(victims) == set(PROCESSES):
            with release.pod("meanwhile", "recovery", "fileless"):
                wait("the Finding of what happened meanwhile", lambda: release.findings("recovery", pod="meanwhile"))
        wait("started again", lambda: all(_containers(release)[name] > before[name] for name in victims))
        wait("all ready", lambda: _all_ready(release))
    after = _containers(release)
    others = set(PROCESSES) - set(victims)
    assert {name: after[name] for name in others} == {name: before[name] for name in others}, "nobody else restarts"


# ── the API server ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_an_api_server_for_a_minute_events_are_judged_and_findings_come_late(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    cluster = release.cluster
    restarted = _containers(release)
    (sensor,) = release.sensor_pods()
    with release.pod("late", "recovery", "every", "20000"):
        wait("its first Finding", lambda: release.findings("recovery", pod="late"))
        with fault(f"no API server for {AWAY_S} s", release, oracle, busy):
            looks = [oracle.look()]
            cluster.processes.end("kube-apiserver")
            until = time.monotonic() + AWAY_S
            while time.monotonic() < until:
                looks.append(oracle.look())
                assert looks[-1].sensor["broker"]["connected"]
            _api_server(cluster)
            wait("each of the minute's findings counts", lambda: _count(release, "late") >= 3)
        wait("all ready", lambda: _all_ready(release))
    epoch = looks[0].epoch
    assert looks[-1].produced - looks[0].produced > AWAY_S * 1000 / EVERY_MS, "events go on"
    assert looks[-1].watermark(epoch) > looks[1].watermark(epoch), "and are judged"
    assert _containers(release) == restarted, "no probe took it for a fault of ours"
    assert release.sensor_pods()[0]["metadata"]["uid"] == sensor["metadata"]["uid"]


# ── objects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_somebody_edits_or_deletes_comes_back(release: Release, oracle: Oracle, busy: dict[str, Any]) -> None:
    name, namespace = f"{release.name}-sensor", release.namespace
    wanted = _spec(release.cluster.get("daemonset", name, namespace))
    with fault("DaemonSet edited", release, oracle, busy):
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "sensor", "image": "nobody/nothing:1"}]}}}}
        release.cluster.kubectl("patch", "daemonset", name, "-n", namespace, "-p", json.dumps(patch))
        wait("restored", lambda: _spec(release.cluster.get("daemonset", name, namespace)) == wanted)
        wait("sensor", lambda: _all_ready(release))
    with fault("ConfigMap of the sensors deleted", release, oracle, busy):
        data = release.cluster.get("configmap", name, namespace)["data"]
        release.cluster.kubectl("delete", "configmap", name, "-n", namespace)
        wait("back", lambda: release.cluster.get("configmap", name, namespace)["data"] == data)
    with fault("DaemonSet deleted", release, oracle, busy):
        (pod,) = release.sensor_pods()
        release.cluster.kubectl("delete", "daemonset", name, "-n", namespace, "--wait=true", "--timeout=180s")
        wait("back", lambda: _spec(release.cluster.get("daemonset", name, namespace)) == wanted)
        wait("one sensor, another", lambda: _only_others(release, pod))
        wait("sensor", lambda: _all_ready(release))


def test_a_deleted_credential_is_made_anew_and_everybody_comes_back(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    name = f"{release.name}-broker-analytics"
    before = release.cluster.get("secret", name, release.namespace)
    with fault("a broker Secret deleted", release, oracle, busy):
        release.cluster.kubectl("delete", "secret", name, "-n", release.namespace)
        after = wait("another", lambda: release.cluster.get("secret", name, release.namespace))
        assert after["data"]["password"] != before["data"]["password"]
        wait("all ready", lambda: _all_ready(release))


def test_a_policy_deleted_while_the_operator_is_down_is_followed_when_it_is_back(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    release.policy("second")
    release.wait_ready("second")
    with fault("a policy deleted without an operator", release, oracle, busy), _without_operator(release):
        release.cluster.kubectl("delete", "depol", "second", "--wait=true", "--timeout=60s")
    wait("the node runs one policy", lambda: _policies(oracle.look()) == ["default"])


def test_a_namespace_goes_with_its_findings_and_holds_nobody_up(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    with fault("a namespace with findings deleted", release, oracle, busy):
        with release.namespace_of_tests("short-lived") as gone, release.pod("noisy", gone, "every", "200"):
            wait("a Finding", lambda: release.findings(gone))
            release.cluster.kubectl("delete", "namespace", gone, "--wait=true", "--timeout=180s")
        with release.pod("next", "recovery", "fileless"):
            wait("a Finding elsewhere", lambda: release.findings("recovery", pod="next"))
    # The operator of the test before may be about to go still.
    wait("the operator is ready", lambda: _all_ready(release, "operator"))


# ── the broker's disk ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_of_the_broker_is_waited_out(release: Release, oracle: Oracle, busy: dict[str, Any]) -> None:
    before = oracle.look()
    filler = release.disk / "filler"
    with fault("the broker's disk full", release, oracle, busy):
        try:
            _fill(filler)
            began = time.monotonic()
            wait("sensors spool", lambda: _spooling(oracle))
            print(
                f"\nrecovery: with the broker's disk full sensors spool; room again after {time.monotonic() - began:.1f} s"
            )
        finally:
            filler.unlink(missing_ok=True)
        wait("all ready", lambda: _all_ready(release), 240)
    after = oracle.look()
    assert after.sensor["spool"]["lost_rows"] == 0
    assert after.epoch == before.epoch


# ── several replicas ────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_two_analytics_the_other_takes_over_and_everything_is_found_once(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    release.install("analytics.replicas=2")
    every_one = {"name": "suspicious_exec", "parameters": {"repeats": "100000"}}  # not twenty an hour
    release.policy("default", analytics={"detectors": [every_one]})
    release.wait_ready("default")
    with fault("the analytics that judges lost with its pod", release, oracle, busy):
        owner, other = wait("one judges and one stands by", lambda: _judging(release))
        with release.pod("often", "recovery", "every", "50") as pod:
            wait("its first Finding", lambda: release.findings("recovery", pod="often"))
            name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
            victims = pids(uid, PROCESSES["analytics"])
            release.cluster.kubectl("delete", "pod", name, "-n", release.namespace, "--force", "--wait=false")
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            began, found = time.monotonic(), _count(release, "often")
            wait("the other judges", lambda: _judges(release, other))
            wait("it finds", lambda: _count(release, "often") > found + 100)
            print(
                f"\nrecovery: the other analytics took over and found 100 more within {time.monotonic() - began:.1f} s"
            )

    def once() -> bool:
        oracle.look()
        made, found = oracle.executions[pod["metadata"]["uid"]], _count(release, "often")
        assert found == made, f"{found} of {made}"
        return True

    wait("each found once", once)
    release.policy("default")


def test_two_analytics_divide_the_workloads_while_events_flow(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    # Of each part one, by the hash of its name.
    left, right = (
        next(name for name in map("part-{}".format, range(99)) if text_hash(f"recovery/Pod/{name}/main") % 2 == part)
        for part in range(2)
    )
    with fault("the workloads divided among two", release, oracle, busy):
        # The broker's small disk has room for one part more if it keeps fewer events.
        release.install("analytics.replicas=2", "analytics.parts=2", f"streams.eventsMaxBytes={100 << 20}")
        release.wait_ready("default")
        with release.pod(left, "recovery", "fileless"), release.pod(right, "recovery", "fileless"):
            for name in (left, right):
                (found,) = wait(f"Finding of {name}", partial(release.findings, "recovery", pod=name), 60)
                assert found["spec"]["subject"]["workload"] == f"recovery/Pod/{name}/main"
    both = lambda: [_judges(release, pod) for pod in _pods(release)["analytics"]] == [True, True]  # noqa: E731
    wait("both judge", both)
    status, costs = Cli(release.cluster).lines("top")
    assert status == 0
    assert {"analytics", "analytics-1"} <= {line["name"] for line in costs}


# ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_upgrade_under_load_reads_the_former_rings_out(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    """Other sizes of the rings are another layout, as another release's programs are; the records are the same."""
    before = oracle.look()
    with fault("upgrade with other rings", release, oracle, busy):
        release.install("sensor.rings.execBytes=2097152")
        wait("other rings", lambda: oracle.look().epoch != before.epoch)
    assert oracle.missing(before.epoch, before.produced) == []


def test_every_execution_of_the_whole_module_is_there_once(
    release: Release, oracle: Oracle, busy: dict[str, Any]
) -> None:
    all_there_once(release, oracle, busy)


def test_the_last_policy_deleted_without_an_operator_takes_everything_off_the_node(release: Release) -> None:
    with _without_operator(release):
        release.cluster.kubectl("delete", "depol", "--all", "--wait=true", "--timeout=60s")
    wait("DaemonSet gone", lambda: not release.items("daemonsets", release.namespace))
    assert not PINS.exists() or not list(PINS.glob("daemoneye*"))


# ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pods(release: Release) -> dict[str, list[dict[str, Any]]]:
    """The pods of each component that are to stay."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PROCESSES}
    for pod in release.items("pods", release.namespace):
        component = pod["metadata"]["labels"].get("app.kubernetes.io/component")
        if component in found and "deletionTimestamp" not in pod["metadata"]:
            found[component].append(pod)
    return found


def _containers(release: Release) -> dict[str, int]:
    """How often the containers of each component were started anew."""
    return {
        name: sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods)
        for name, pods in _pods(release).items()
    }


def _all_ready(release: Release, *names: str) -> bool:
    """Whether these components, or all of them, have pods, and these are ready."""
    pods = _pods(release)
    return all(
        pods[name] and all(pod["status"]["containerStatuses"][0]["ready"] for pod in pods[name])
        for name in names or PROCESSES
    )


def _kill(release: Release, *names: str) -> None:
    """SIGKILL to the processes of components, all at once."""
    pods = _pods(release)
    for pid in [pid for name in names for pod in pods[name] for pid in pids(pod["metadata"]["uid"], PROCESSES[name])]:
        os.kill(pid, signal.SIGKILL)


def _judges(release: Release, pod: dict[str, Any]) -> bool:
    """Whether it is the replica of analytics that judges, by its log."""
    return "holds the lease" in release.cluster.kubectl("logs", pod["metadata"]["name"], "-n", release.namespace)


def _judging(release: Release) -> tuple[dict[str, Any], dict[str, Any]]:
    """The replica of analytics that judges, and the one that stands by."""
    one, two = _pods(release)["analytics"]
    judges, other = _judges(release, one), _judges(release, two)
    assert judges is not other
    return (one, two) if judges else (two, one)


def _api_server(cluster: Cluster) -> None:
    """Start it as the harness did, and wait until it answers.

    Whoever watches it for Kubernetes starts anew: those watches would take up to a minute to come back, and until then nobody reaches the API server by its
    Service, and no controller sees what is deleted.
    """
    programs = {name: binaries.tool(name) for name in binaries.KUBERNETES}
    control = configs.control_plane(cluster, programs)
    cluster.processes.start("kube-apiserver", control["kube-apiserver"])
    wait("API server", lambda: cluster.kubectl("get", "--raw", "/readyz") == "ok")
    watching = {name: control[name] for name in ("kube-controller-manager", "kube-scheduler")}
    for name, command in {**watching, **configs.node(cluster, programs)}.items():
        cluster.processes.end(name)
        cluster.processes.start(name, command)


@contextmanager
def _without_operator(release: Release) -> Iterator[None]:
    scale: Callable[[int], str] = lambda n: release.cluster.kubectl(  # noqa: E731
        "scale", "deployment", f"{release.name}-operator", "-n", release.namespace, f"--replicas={n}"
    )
    scale(0)
    wait("operator gone", lambda: not _pods(release)["operator"])
    try:
        yield
    finally:
        scale(1)
    wait("operator back", lambda: _all_ready(release, "operator"))


def _only_others(release: Release, former: dict[str, Any]) -> bool:
    """Whether there is a sensor, and the former pod is gone."""
    uids = [pod["metadata"]["uid"] for pod in release.sensor_pods()]
    return bool(uids) and former["metadata"]["uid"] not in uids


def _spec(daemonset: dict[str, Any]) -> dict[str, Any]:
    return daemonset["spec"]


def _policies(look: Look) -> list[str]:
    return sorted(policy["name"] for policy in look.sensor["config"]["policies"])


def _count(release: Release, pod: str) -> int:
    """How often the findings of a pod were seen, over its objects."""
    return sum(int(f.get("status", {}).get("count", 1)) for f in release.findings("recovery", pod=pod))


def _fill(path: Path) -> None:
    """Leave nothing on its disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def _spooling(oracle: Oracle) -> bool:
    """Whether batches stay on the node, and none is lost."""
    spool = oracle.look().sensor["spool"]
    return spool["unsent"] > 5 and not spool["lost_rows"]
