"""The sensor in a cluster, on the running kernel: pods by name and label, exclusion, changes without loss, refusal, removal."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemoneye.podidentity import PodIdentity
from daemoneye_sensor.programs import BPFFS
from tests.kernel.conftest import BPF
from tests.support.nodebroker import NodeBroker, Sensor, broker_in, configuration, pod_rows, policy, until

pytestmark = pytest.mark.slow

# The hierarchy that names containers: v1's of the memory controller where there is one. Below a name of our own, for a kubelet that runs on
# this machine removes cgroups of pods that it does not know.
ROOT = (
    next(
        Path(line.split()[1])
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2] in {"cgroup", "cgroup2"}
        and ("memory" in line.split()[3].split(",") or line.split()[2] == "cgroup2")
    )
    / f"daemoneye-test-{os.getpid()}"
)


class Pod:
    """Cgroups named like a pod's container, and its bundle."""

    def __init__(self, tasks: Path, name: str, *, uid: str = "", sandbox: bool = False, bundle: bool = True) -> None:
        self.name = name
        self.uid = uid or str(uuid.uuid4())
        self.container = uuid.uuid4().hex * 2
        self._path = ROOT / "kubepods" / f"pod{self.uid}" / self.container
        self._path.mkdir(parents=True)
        if bundle:
            home = tasks / "k8s.io" / self.container
            home.mkdir(parents=True)
            annotations = {
                "io.kubernetes.cri.container-type": "sandbox" if sandbox else "container",
                "io.kubernetes.cri.container-name": "main",
                "io.kubernetes.cri.sandbox-name": name,
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "io.kubernetes.cri.image-name": "by-digest",
            }
            (home / "config.json").write_text(json.dumps({"annotations": annotations}))

    def identity(self, **labels: str) -> PodIdentity:
        return PodIdentity(
            "shop", self.name, self.uid, "Deployment", "till", "cashier", labels, {"team": "shop"}, {"main": "till:1"}
        )

    async def run(self, *arguments: str) -> None:
        """Execute /bin/true in it."""
        script = f"echo $$ > {self._path}/cgroup.procs; exec /bin/true {' '.join(arguments)}"
        done = await asyncio.create_subprocess_exec("/bin/sh", "-c", script)
        assert await done.wait() == 0

    def remove(self) -> None:
        self._path.rmdir()
        self._path.parent.rmdir()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NodeBroker]:
    async with broker_in(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
async def sensor(tmp_path: Path, broker: NodeBroker) -> AsyncIterator[Sensor]:
    instance = f"test-{os.getpid()}-cluster"
    bpf = tmp_path / "bpf"
    shutil.copytree(BPF, bpf)
    (tmp_path / "tasks").mkdir()
    sensor = Sensor(tmp_path, broker, instance, retry_s=2, runtime_tasks=str(tmp_path / "tasks"), bpf_dir=str(bpf))
    await sensor.start()
    yield sensor
    await sensor.stop()
    shutil.rmtree(BPFFS / "daemoneye" / instance, ignore_errors=True)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Any]:
    made: list[Pod] = []

    def make(name: str, **options: Any) -> Pod:
        made.append(Pod(tmp_path / "tasks", name, **options))
        return made[-1]

    yield make
    for pod in made:
        pod.remove()
    for path in (ROOT / "kubepods", ROOT):
        if path.is_dir():
            path.rmdir()


async def test_the_first_execution_of_a_new_pod_has_its_name_and_labels(
    broker: NodeBroker, sensor: Sensor, pods: Any
) -> None:
    config = configuration(policy("all"), policy("till", pod_selector={"matchLabels": {"app": "till"}}, host=False))
    await broker.configure(config)
    await broker.answered(config, lambda answer: answer.programs and answer.policies)
    pod = pods("till-1")
    await broker.pod(pod.uid, pod.identity(app="till"))
    await pod.run("first")
    event, row = await broker.executed("first")
    assert event["workload"] == "shop/Deployment/till/main"
    assert event["identity"] == "resolved"
    assert event["pod_uid"] == pod.uid
    assert row == {
        "policies": ["all", "till"], "labels": ["app=till"], "image": "till:1", "namespace": "shop", "pod": "till-1",
        "container": "main", "owner_kind": "Deployment", "owner_name": "till", "service_account": "cashier",
    }  # fmt: skip
    assert "ermissions" not in broker.heartbeats[-1][1]["broker"]["last_error"]

    # One whose document comes while its rows wait, and one of which nobody ever hears.
    late, silent = pods("till-2"), pods("till-3")
    await late.run("late")
    await broker.pod(late.uid, late.identity(app="till"))
    event, row = await broker.executed("late")
    assert (event["workload"], row["labels"]) == ("shop/Deployment/till/main", ["app=till"])
    await silent.run("silent")
    event, row = await broker.executed("silent")
    assert (event["identity"], event["workload"]) == ("partial", "shop/Pod/till-3/main")
    assert row["policies"] == ["all", "till"], "rather too much than nothing"
    await broker.pod(silent.uid, silent.identity(app="other"))
    await silent.run("known")
    event, row = await broker.executed("known")
    assert (event["identity"], row["policies"], row["labels"]) == ("resolved", ["all"], ["app=other"])

    # A deleted pod's last events; a sandbox; a static pod, whose cgroup bears the hash of its file.
    await broker.no_pod(pod.uid)
    await pod.run("last")
    event, row = await broker.executed("last")
    assert (event["identity"], row["pod"]) == ("resolved", "till-1")
    sandbox, static = pods("till-4", sandbox=True), pods("etcd-node", uid=uuid.uuid4().hex)
    for one in (sandbox, static):
        await broker.pod(one.uid, one.identity())
    await sandbox.run("pause")
    event, row = await broker.executed("pause")
    assert (event["workload"], row["container"]) == ("shop/Deployment/till/POD", "POD")
    await static.run("static")
    event, row = await broker.executed("static")
    assert (event["identity"], row["pod"], event["pod_uid"]) == ("resolved", "etcd-node", static.uid)


async def test_rows_of_pods_that_no_policy_selects_are_dropped_and_others_kept(
    broker: NodeBroker, sensor: Sensor, pods: Any
) -> None:
    wanted, other = pods("wanted"), pods("other")
    await broker.pod(wanted.uid, wanted.identity(app="till"))
    await broker.pod(other.uid, other.identity(app="other"))
    config = configuration(policy("till", pod_selector={"matchLabels": {"app": "till"}}, host=False))
    await broker.configure(config)
    await broker.answered(config, lambda answer: answer.programs and answer.policies)
    subprocess.run(["/bin/true", "on-the-host"], check=True)
    for n in range(5):
        await other.run(f"dropped-{n}")
        await wanted.run(f"kept-{n}")
    await broker.executed("kept-4")
    assert [a for a in broker.arguments() if a.startswith("kept-")] == [f"kept-{n}" for n in range(5)]
    assert not [a for a in broker.arguments() if a.startswith("dropped-") or a == "on-the-host"]
    last = len(broker.heartbeats)
    await until(lambda: len(broker.heartbeats) > last, "another heartbeat")
    status = broker.heartbeats[-1][1]
    assert status["source"]["excluded"] >= 10
    assert status["spool"]["lost_rows"] == 0
    await until(
        lambda: (
            status["sequences"]["urgent"] <= sum(b.envelope.rows for b in broker.batches if b.envelope.lane == "urgent")
        ),
        "every row",
    )
    for lane in ("urgent", "bulk"):
        batches = [batch.envelope for batch in broker.batches if batch.envelope.lane == lane]
        assert [b.first_sequence for b in batches[1:]] == [b.next_sequence for b in batches[:-1]]
    assert "loss" not in status["sequences"], "what was excluded is no loss"
    for batch in broker.batches:
        assert batch.envelope.rows
        named = set(pod_rows(batch))
        rows = [s for s in batch.sections if not s.record.name.endswith("identity")]
        referred = {int(r["cgroup_id"]) << 32 ^ int(r["cgroup_v1_id"]) for s in rows for r in s.rows}
        assert named == referred


async def test_a_policy_changes_without_restart_and_without_loss(broker: NodeBroker, sensor: Sensor) -> None:
    first = configuration(policy("host"))
    await broker.configure(first)
    await broker.answered(first, lambda answer: answer.programs and answer.policies)
    pid = sensor.pid

    async def execute() -> None:
        for number in range(300):
            process = await asyncio.create_subprocess_exec("/bin/true", f"n{number}")
            await process.wait()

    executing = asyncio.create_task(execute())
    for generation in range(2, 8):
        enough = 40 * (generation - 1)
        await until(lambda: len(broker.arguments()) > enough or executing.done(), "executions")  # noqa: B023 - awaited at once
        config = configuration(policy("host", generation=generation))
        await broker.configure(config)
        answer = await broker.answered(config)
        assert [p.generation for p in answer.policies] == [generation]
    await executing
    await broker.executed("n299")
    seen = [argument for argument in broker.arguments() if argument.startswith("n")]
    assert [a for a in seen if a[1:].isdigit()] == [f"n{number}" for number in range(300)]
    status = broker.heartbeats[-1][1]
    assert (status["pid"], status["source"]["dropped"]) == (
        pid,
        {"exec": 0, "process": 0, "blob": 0, "socket": 0, "lease": 0, "table": 0},
    )

    # Nothing wanted, and wanted again: what was missed meanwhile is known nevertheless.
    nothing = configuration()
    await broker.configure(nothing)
    await broker.answered(nothing)
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "read go; /bin/true unseen; read go; /bin/true seen; :", stdin=asyncio.subprocess.PIPE
    )
    assert shell.stdin
    shell.stdin.write(b"go\n")
    await broker.configure(first)
    await broker.answered(first)
    shell.stdin.write(b"go\n")
    await shell.wait()
    event, _ = await broker.executed("seen")
    assert event["parent"]["pid"] == shell.pid
    assert event["parent"]["argv"][0] == "/bin/sh"


async def test_leaving_a_node_leaves_nothing_and_the_process_can_come_back(broker: NodeBroker, sensor: Sensor) -> None:
    config = configuration(policy("host"))
    await broker.configure(config)
    await broker.answered(config, lambda answer: answer.programs and answer.policies)
    assert (BPFFS / "daemoneye" / sensor.instance).is_dir()
    assert (sensor.state / "spool").is_dir()
    leave = configuration(remove=True)
    await broker.configure(leave)
    await until(lambda: broker.heartbeats[-1][1]["state"] == "removed", "the node is left")
    assert broker.answer.hash == leave.hash
    assert not (BPFFS / "daemoneye" / sensor.instance).exists()
    assert not sensor.state.exists()
    assert sensor.returncode is None
    await broker.configure(config)
    await broker.answered(config, lambda answer: answer.programs and answer.policies)
    subprocess.run(["/bin/true", "back-again"], check=True)
    await broker.executed("back-again")
    assert broker.heartbeats[-1][1]["state"] == "ready"
    assert sensor.returncode is None


async def test_rows_that_wait_for_a_document_go_out_before_a_change_and_before_the_node_is_left(
    broker: NodeBroker, sensor: Sensor, pods: Any
) -> None:
    first = configuration(policy("first"))
    await broker.configure(first)
    await broker.answered(first, lambda answer: answer.programs and answer.policies)
    last = configuration(policy("last"))
    for n, config in enumerate((last, configuration(remove=True))):
        # A second at most lies between: nobody ever hears of this pod.
        await pods(f"till-{n}").run(f"waiting-{n}")
        await broker.configure(config)
        await broker.answered(config)
        event, row = await broker.executed(f"waiting-{n}")
        assert event["identity"] == "partial"
        assert row["policies"] == [("first", "last")[n]], "judged by the configuration of its time"
    await until(lambda: broker.heartbeats[-1][1]["state"] == "removed", "the node is left")
    assert broker.arguments().count("waiting-0") == 1


async def test_programs_that_cannot_run_are_refused_and_the_sensor_heals(
    broker: NodeBroker, sensor: Sensor, tmp_path: Path
) -> None:
    source = tmp_path / "bpf" / "programs" / "process_fork.bpf.c"
    good = source.read_text()
    source.write_text("int process_fork(struct bpf_raw_tracepoint_args *ctx) { return nonsense; }")
    config = configuration(policy("host"))
    await broker.configure(config)
    answer = await broker.answered(config, lambda answer: answer.policies)
    (refused,) = answer.policies
    assert (refused.state, refused.reason) == ("Refused", "BadProgram")
    assert "nonsense" in refused.message
    assert not answer.programs
    assert answer.problem[0] == "BadProgram"
    assert sensor.returncode is None
    again = configuration(policy("host", generation=2))
    await broker.configure(again)
    answer = await broker.answered(again)
    assert [(p.generation, p.reason) for p in answer.policies] == [(2, "BadProgram")], "a new configuration, a new try"
    source.write_text(good)
    answer = await broker.answered(again, lambda answer: answer.programs)
    assert [p.state for p in answer.policies] == ["Active"]
    assert answer.problem == ("", "")
    subprocess.run(["/bin/true", "healed"], check=True)
    await broker.executed("healed")


async def test_a_bad_filter_is_refused_in_libpcaps_words_and_processes_are_still_watched(
    broker: NodeBroker, sensor: Sensor
) -> None:
    bad = policy(
        "filter", network={"enable_packet_capture": True, "capture_filter": "tcp prot 80", "max_packet_size": 96}
    )
    fine = policy("fine", network={"enable_packet_capture": True, "capture_filter": "tcp port 80"})
    config = configuration(bad, fine)
    await broker.configure(config)
    answer = await broker.answered(config, lambda answer: answer.programs and answer.policies)
    assert [(p.state, p.reason) for p in answer.policies] == [("Refused", "BadFilter"), ("Active", "")]
    assert "tcp prot 80" in answer.policies[0].message
    assert "syntax error" in answer.policies[0].message
    subprocess.run(["/bin/true", "still-watched"], check=True)
    await broker.executed("still-watched")


async def test_a_restart_without_the_broker_goes_on_with_the_last_configuration(
    broker: NodeBroker, sensor: Sensor
) -> None:
    config = configuration(policy("host"))
    await broker.configure(config)
    await broker.answered(config, lambda answer: answer.programs and answer.policies)
    await until((sensor.state / "configuration.json").exists, "the configuration is kept")
    await broker.stop()
    await sensor.stop(9)
    subprocess.run(["/bin/true", "nobody-there"], check=True)  # the pinned rings hold it
    await sensor.start()
    subprocess.run(["/bin/true", "without-broker"], check=True)
    await until((sensor.state / "spool").is_dir, "the spool")
    await broker.start()
    await broker.executed("nobody-there")
    await broker.executed("without-broker")
    assert len([a for a in broker.arguments() if a == "nobody-there"]) == 1
    assert broker.answer.hash == config.hash
