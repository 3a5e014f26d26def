"""``findings --suppressed``: what analytics kept to itself, out of its heartbeat; with a real broker, and with odd heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.events.flags import Flag
from daemoneye.findings import Finding, Subject
from daemoneye.streams import buckets, declared
from daemoneye_analytics.budget import Budget
from daemoneye_cli.main import main
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.suppressed import suppressed_lines, suppressed_objects
from daemoneye_cli.state import State
from daemoneye_cli.suppressed import Suppressed, together
from daemoneye_operator.reconcile import analytics as operator_analytics
from tests.support.analytics import Bench
from tests.support.broker import Broker, running, until
from tests.support.ports import free_port
from tests.unit.analytics import factory
from tests.unit.analytics.factory import Exec
from tests.unit.cli.fakekubectl import Kubectl, forwarded_to, started
from tests.unit.operator.factory import policy

NOTHING = "Suppressed: nothing; no policy's alertBudgetPerDay was spent, and nothing repeated what was told"
UNSAFE = ("\x1b", "\u202e", "\n\n")


def finding(number: int) -> Finding:
    return Finding(
        id="ab" * 16, detector="behavioral_anomaly", time=f"2026-01-02T03:{number:02}:00.000000000Z", severity="medium", score=0.91, title="An odd minute",
        subject=Subject(node="node-1", workload="shop/Deployment/till/main", pid=1, exe="/x"), key="k",
    )  # fmt: skip


def spent(findings: int, repeats: int = 0) -> dict[str, Any]:
    """The status of a budget of one a day after so many findings, and so many that repeat the first."""
    budget = Budget()
    budget.limits = {"everything": 1}
    for number in range(findings):
        budget.admit(finding(number), ["everything"])
    for number in range(repeats):
        budget.note(finding(10 + number), ["everything"])
    status: dict[str, Any] = json.loads(json.dumps(budget.status()))
    return status


def found(told: object) -> Suppressed:
    said = Suppressed.of({"suppressed": told})
    assert said is not None
    return said


def test_the_newest_is_last_and_the_sum_is_said():
    assert "\n".join(suppressed_lines(found(spent(4)), 2)).splitlines() == [
        "TIME                 REASON  DETECTOR            SCORE  WORKLOAD                   TITLE",
        "2026-01-02T03:02:00  budget  behavioral_anomaly  0.91   shop/Deployment/till/main  An odd minute",
        "2026-01-02T03:03:00  budget  behavioral_anomaly  0.91   shop/Deployment/till/main  An odd minute",
        "Suppressed: 3 beyond a budget (everything 3), 0 that repeat what was told; 2 shown of the newest 3 that analytics keeps",
    ]


def test_what_repeats_what_was_told_is_listed_too():
    assert "\n".join(suppressed_lines(found(spent(2, repeats=1)), 20)).splitlines()[1:] == [
        "2026-01-02T03:01:00  budget  behavioral_anomaly  0.91   shop/Deployment/till/main  An odd minute",
        "2026-01-02T03:10:00  repeat  behavioral_anomaly  0.91   shop/Deployment/till/main  An odd minute",
        "Suppressed: 1 beyond a budget (everything 1), 1 that repeat what was told; 2 shown of the newest 2 that analytics keeps",
    ]
    assert together([found(spent(1, repeats=2)), found(spent(1, repeats=3))]).repeats == 5


def test_what_several_parts_kept_is_one_list():
    both = together([found(spent(2)), found(spent(4))])
    assert (both.total, both.policies) == (4, {"everything": 4})
    times = [entry["time"] for entry in both.newest]
    assert len(times) == 4
    assert times == sorted(times)


def test_nothing_was_suppressed():
    assert list(suppressed_lines(found(spent(1)), 20)) == [NOTHING]


def test_the_objects_for_programs():
    total, only = suppressed_objects(found(spent(2)), 20)
    assert total == {"kind": "suppressed", "total": 1, "policies": {"everything": 1}, "repeats": 0}
    assert (only["kind"], only["reason"], only["score"]) == ("suppressed_finding", "budget", 0.91)
    assert only["policies"] == ["everything"]


@pytest.mark.parametrize("told", [None, 3, "x", []])
def test_a_heartbeat_that_says_nothing_of_it(told):
    assert Suppressed.of({"suppressed": told}) is None


@pytest.mark.parametrize(
    "told",
    [
        {}, {"total": "x", "policies": [], "newest": {}}, {"total": -1, "policies": {"a": None}, "newest": [3, None, {}]},
        {"total": 10**400, "policies": {"\x1b[31m\u202e": 10**5000}, "newest": [{"score": 1e400, "title": "\x1b\u202e" * 999, "policies": [1]}]},
    ],
    ids=range(4),
)  # fmt: skip
def test_odd_heartbeats_are_harmless(told):
    said = found(told)
    text = "".join(suppressed_lines(said, 20)) + "".join(map(json_line, suppressed_objects(said, 20)))
    assert not [mark for mark in UNSAFE if mark in text]
    assert len(text) < 20_000


@pytest.mark.parametrize(
    "arguments", [["-f"], ["--severity", "high"], ["--in", "shop"], ["--since", "1h"]], ids=" ".join
)
def test_what_does_not_go_together(installed, arguments, capsys):
    assert main(["-k", "findings", "--suppressed", *arguments]) == 2
    assert "it goes with --last and -o alone" in capsys.readouterr().err


def test_this_machine(tmp_path, capsys):
    assert main(["findings", "--suppressed", "-f", "--state", str(tmp_path)]) == 2
    assert "does not go with -f" in capsys.readouterr().err
    assert main(["findings", "--suppressed", "--state", str(tmp_path)]) == 3
    assert "no daemoneye runs with" in capsys.readouterr().err


@pytest.fixture
async def broker(installed: Kubectl, tmp_path) -> AsyncIterator[Broker]:
    """A broker behind a port-forward, of an installation whose heartbeats come ten times a second."""
    with running(tmp_path / "broker") as found:
        await found.ready()
        forwarded_to(installed, found)
        own = {"url": "tls://daemoneye-nats.security.svc:4222", "external": False}
        told = {"nats": own, "sensor": {"statusIntervalSeconds": 0.1}}
        installed.gives(
            "get configmap daemoneye-operator --namespace security*", {"data": {"operator.json": json.dumps(told)}}
        )
        yield found


@contextlib.asynccontextmanager
async def analytics(broker: Broker, said: dict[str, Any]) -> AsyncIterator[None]:
    client = await broker.onlooker()

    async def beat() -> None:
        while True:
            await client.publish(subjects.component("analytics"), json.dumps(said).encode())
            await asyncio.sleep(0.1)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


async def ask(*arguments: str) -> tuple[int | None, str, str]:
    async with started("findings", "--suppressed", *arguments) as (process, _, _):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.integration
async def test_the_next_heartbeat_is_shown(installed, broker):
    async with analytics(broker, {"state": "running", "suppressed": spent(4)}):
        status, out, err = await ask("-o", "json", "--last", "1")
    assert (status, err) == (0, "")
    total, newest = map(json.loads, out.splitlines())
    assert total["total"] == 3
    assert newest["time"].startswith("2026-01-02T03:03:00")
    assert not installed.running("port-forward")


ODD = """
from daemoneye_analytics.detectors.base import detector
from daemoneye_analytics.detectors.suspicious_exec import SuspiciousExec

@detector(name='odd', version=1, title='', severity='high', techniques=(), parameters=SuspiciousExec.declaration.parameters, behavioral=True, scored=True)
class Odd(SuspiciousExec): pass
"""


def odd_site(directory: Path) -> Path:
    """A distribution with a detector that scores at once: the analyser's own would have to learn for days."""
    site = directory / "site"
    (site / "odd-1.dist-info").mkdir(parents=True)
    (site / "odd-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (site / "odd-1.dist-info" / "entry_points.txt").write_text("[daemoneye.detectors]\nodd = odd:Odd\n")
    (site / "odd.py").write_text(ODD)
    return site


@contextlib.asynccontextmanager
async def real_analytics(broker: Broker, directory: Path, client: Client) -> AsyncIterator[list[dict[str, Any]]]:
    """The process, as in a cluster; gives its heartbeats. It ends as a pod does, with a checkpoint."""
    access = broker.access("analytics")
    files = {name: str(getattr(access, name)) for name in ("user_file", "password_file", "inbox_prefix_file")}
    nats = {"url": access.url, **files, "tls": {"ca": str(access.tls_ca)}}
    config = directory / "analytics.json"
    config.write_text(
        json.dumps({"nats": nats, "shard": 0, "configuration": "broker", "status_interval_s": 0.1, "health_port": 0})
    )
    heartbeats: list[dict[str, Any]] = []

    async def note(message: Msg) -> None:
        heartbeats.append(json.loads(message.data))

    heard = await client.subscribe(subjects.component("analytics"), cb=note)
    paths = [str(directory / "site"), *sys.path]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemoneye_analytics", "--config", config, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    )  # fmt: skip
    try:
        yield heartbeats
    finally:
        process.terminate()
        assert await process.wait() == 0
        await heard.unsubscribe()


@pytest.mark.integration
async def test_a_budget_that_was_really_spent(installed, broker, tmp_path):
    """The operator's document, the real analytics that starts anew in between, the real command."""
    odd_site(tmp_path)
    said = {"enableBehavioralAnalysis": True, "enableMachineLearning": True, "anomalyThreshold": 0.1}
    off = [{"name": "suspicious_exec", "enabled": False}]
    policies = [
        policy(name, created, analytics={**said, "alertBudgetPerDay": budget, "detectors": off})
        for created, (name, budget) in enumerate({"everywhere": 1, "shop": 3}.items())
    ]
    client = await broker.onlooker()
    jetstream = client.jetstream(timeout=5)
    sized = declared(events_max_bytes=64 << 20, findings_max_bytes=8 << 20)
    await ensure_streams(jetstream, [*sized, *buckets(nodes_max_bytes=8 << 20, configs_max_bytes=8 << 20)])
    bucket = await jetstream.key_value(subjects.CONFIGS_BUCKET)
    await bucket.put(subjects.ANALYTICS_CONFIG, operator_analytics.encode(operator_analytics.document(policies)))

    async def executed(number: int, second: float, heartbeats: list[dict[str, Any]]) -> None:
        row = Exec(exe=b"/memfd:%d" % number, pid=1000 + number, start=second, time=second + 1, flags=Flag.MEMFD)
        pod = factory.pods({1: factory.CHECKOUT})
        data = factory.message([row], first=number, workloads={1: factory.WORKLOAD}, sections=[pod])
        await jetstream.publish(subjects.events(0, "n1", "urgent"), data)
        await until(
            f"execution {number} is judged",
            lambda: (
                heartbeats and heartbeats[-1]["watermarks"].get("n1", {}).get("7", {}).get("urgent", 0) == number + 1
            ),
        )

    async with real_analytics(broker, tmp_path, client) as heartbeats:
        await executed(0, 10, heartbeats)
        status, out, err = await ask()
        assert (status, out, err) == (0, f"{NOTHING}\n", "")
        for number in range(1, 4):
            await executed(number, 10 * number, heartbeats)
    async with real_analytics(broker, tmp_path, client) as heartbeats:
        await executed(4, 50, heartbeats)
        await executed(5, 86_400, heartbeats)
        status, out, err = await ask()
        assert (status, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].split() == ["TIME", "REASON", "DETECTOR", "SCORE", "WORKLOAD", "TITLE"]
        assert [line.split()[:3] for line in lines[1:-1]] == [
            ["2023-11-14T22:13:51", "budget", "odd"],
            ["2023-11-14T22:14:11", "budget", "odd"],
        ]
        assert "shop/Deployment/checkout/app" in lines[1]
        assert lines[-1] == (
            "Suppressed: 2 beyond a budget (everywhere 4, shop 2), 0 that repeat what was told; 2 shown of the newest 2 that analytics keeps"
        )
        status, out, _ = await ask("-o", "json", "--last", "1")
        total, newest = map(json.loads, out.splitlines())
        assert (status, total["total"], total["policies"]) == (0, 2, {"everywhere": 4, "shop": 2})
        assert newest["policies"] == ["everywhere", "shop"]
    told = [json.loads((await jetstream.get_msg(subjects.FINDINGS, n, direct=True)).data) for n in range(1, 5)]
    assert [one["policies"] for one in told] == [["everywhere", "shop"], ["shop"], ["shop"], ["everywhere", "shop"]]
    assert (await jetstream.stream_info(subjects.FINDINGS)).state.last_seq == 4
    await client.close()


@pytest.mark.integration
async def test_analytics_that_is_silent(broker):
    status, out, err = await ask()
    assert (status, out) == (1, "")
    assert "analytics was not heard within 3.2 s: doctor says what is wrong" in err


@pytest.mark.integration
async def test_analytics_that_is_older(broker):
    async with analytics(broker, {"state": "running"}):
        status, _, err = await ask()
    assert status == 1
    assert "analytics says nothing of suppressed findings" in err


@pytest.mark.integration
async def test_the_analytics_of_this_machine_itself(tmp_path):
    bench = Bench(tmp_path, free_port())
    await bench.start_broker()
    try:
        await bench.connect()
        await bench.add_streams()
        await bench.start()
        await bench.eventually(lambda: bench.status)  # the command waits for the next heartbeat, not for a start
        state = State.at(tmp_path / "state")
        access = {"url": f"nats://127.0.0.1:{bench.port}", "user": "", "password": "", "inbox_prefix": "_INBOX"}
        state.run.mkdir(parents=True)
        (state.run / "cli.json").write_text(json.dumps(access))
        command = (sys.executable, "-m", "daemoneye_cli", "findings", "--suppressed", "--state", str(state.path))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    finally:
        await bench.close()
    assert (process.returncode, out.decode()) == (0, f"{NOTHING}\n")
