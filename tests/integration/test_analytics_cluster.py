"""Analytics as in a cluster: configured by the policies on the broker, with its role's permissions alone."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from daemoneye.broker.roles import inbox_prefix
from daemoneye.events.flags import Flag
from daemoneye_analytics import follower as module
from daemoneye_analytics import registry
from daemoneye_analytics.follower import Follower
from daemoneye_operator.reconcile import analytics
from tests.support.analytics import Bench, ignore
from tests.support.ports import free_port
from tests.unit.analytics import factory
from tests.unit.analytics.behaviour import traffic
from tests.unit.analytics.factory import CHECKOUT, WORKLOAD, Exec
from tests.unit.operator.factory import policy

pytestmark = pytest.mark.integration
QUICK = {"name": "first_seen", "parameters": {"learning_events": "10", "learning_seconds": "5"}}
OFF = {"name": "suspicious_exec", "enabled": False}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, free_port(), cluster=True, health=free_port())
    await made.start_broker()
    await made.connect()
    await made.add_cluster_streams()
    try:
        yield made
    finally:
        await made.close()


def document(**policies: list[dict[str, Any]]) -> bytes:
    """The operator's, of policies with their detectors."""
    made = [
        policy(name, created, analytics={"enableBehavioralAnalysis": True, "detectors": detectors})
        for created, (name, detectors) in enumerate(policies.items())
    ]
    return analytics.encode(analytics.document(made))


def memfd(number: int, pods: dict[int, dict[str, Any]] | None = None, cgroup: int = 1) -> bytes:
    """A message of one execution from memory, in a pod of policies `everywhere` and `shop`."""
    row = Exec(
        exe=b"/memfd:%d" % number, pid=1000 + number, start=number + 1, time=number + 2, flags=Flag.MEMFD, cgroup=cgroup
    )
    section = factory.pods({1: CHECKOUT} if pods is None else pods)
    return factory.message([row], first=number, workloads={cgroup: WORKLOAD}, sections=[section])


def executables(findings: list[dict[str, Any]]) -> list[str]:
    return [f["subject"]["exe"] for f in findings]


async def runs(bench: Bench, data: bytes) -> None:
    """Wait until the heartbeat says that it runs this configuration."""
    await bench.eventually(lambda: bench.status and bench.status[-1]["config"] == analytics.config_hash(data))


async def test_a_configuration_arrives_and_findings_name_pod_and_policies(bench: Bench) -> None:
    await bench.start()
    await bench.eventually(lambda: bench.status and bench.status[-1]["state"] == "waiting")
    assert bench.status[-1]["config"] == ""
    await bench.publish(memfd(0))
    data = document(everywhere=[OFF], shop=[], elsewhere=[])
    await bench.configure(data)
    await runs(bench, data)
    await bench.publish(memfd(1, {1: {"policies": ("everywhere",)}}))
    await bench.publish(memfd(2, {}))
    await bench.judged(3)
    (found,) = await bench.findings()
    assert found["policies"] == ["shop"]
    subject = found["subject"]
    assert (subject["exe"], subject["namespace"], subject["pod"]) == ("/memfd:0", "shop", "checkout-7d9f")
    assert (subject["container"], subject["image"]) == ("app", "shop/checkout:1.2")
    assert (subject["owner_kind"], subject["owner_name"]) == ("Deployment", "checkout")
    assert subject["labels"] == {"app": "checkout", "tier": ""}
    assert "in container app of pod shop/checkout-7d9f (Deployment checkout)" in found["title"]
    last = bench.status[-1]
    assert (last["state"], last["findings"], last["unwanted"], last["problems"]) == ("running", 1, 2, {})
    assert last["version"]
    assert await bench.end() == 0
    assert "ermissions" not in bench.log, "its role suffices"


async def test_who_speaks_for_another_node_is_not_believed(bench: Bench) -> None:
    data = document(shop=[])
    await bench.configure(data)
    await bench.start()
    await runs(bench, data)
    await bench.publish(memfd(0), node="n2")
    await bench.publish(memfd(0), lane="bulk")
    # A sensor of a later release has a lane more: that is nobody's lie.
    await bench.jetstream.publish("daemoneye.v1.events.0.n1.later", factory.message([Exec()], lane="later"))
    await bench.publish(memfd(1))
    await bench.judged(1)
    assert executables(await bench.findings()) == ["/memfd:1"]
    assert (bench.status[-1]["corrupt"], bench.status[-1]["ignored"]) == (2, 1)
    assert "daemoneye.v1.events.0.n2.urgent brought a batch of node 'n1', lane 'urgent'" in bench.log


async def test_a_change_takes_effect_and_what_was_learned_stays(bench: Bench) -> None:
    first = document(shop=[QUICK])
    await bench.configure(first)
    await bench.start()
    await runs(bench, first)
    pods = [factory.pods({1: CHECKOUT})]
    usual = [Exec(pid=1000 + i, start=10 + i, time=10.5 + i) for i in range(20)]
    await bench.publish(factory.message(usual, workloads={1: WORKLOAD}, sections=pods))
    await bench.judged(20)
    for number, (data, wanting) in enumerate(
        [
            (document(shop=[QUICK], everywhere=[]), ["everywhere", "shop"]),
            (document(everywhere=[QUICK]), ["everywhere"]),
        ]
    ):
        await bench.configure(data)
        await runs(bench, data)
        new = Exec(exe=b"/usr/bin/nc%d" % number, pid=7, start=50, time=51 + number)
        await bench.publish(factory.message([new], first=20 + number, workloads={1: WORKLOAD}, sections=pods))
        await bench.judged(21 + number)
        found = (await bench.findings())[-1]
        assert (found["subject"]["exe"], sorted(found["policies"])) == (f"/usr/bin/nc{number}", wanting)
        assert f"{20 + number} executions" in found["explanation"][0]
    await bench.configure(document())
    await runs(bench, document())
    await bench.publish(memfd(22))
    await bench.judged(23)
    assert len(await bench.findings()) == 2, "no policy, no finding"
    # It even survives that nobody wants it for a while, and a restart meanwhile.
    await bench.acknowledged()
    assert await bench.end() == 0
    await bench.configure(first)
    await bench.start()
    new = Exec(exe=b"/usr/bin/curl", pid=7, start=60, time=61)
    await bench.publish(factory.message([new], first=23, workloads={1: WORKLOAD}, sections=pods))
    await bench.judged(24)
    assert executables(await bench.findings())[2:] == ["/usr/bin/curl"]
    assert bench.status[-1]["events"] == 24


async def test_the_analyser_of_a_policy_changes_and_loses_no_baseline(bench: Bench) -> None:
    """Models, threshold and interval; wrong ones; switched off and on again: what was counted and calibrated goes on."""

    def asks(**about: Any) -> bytes:
        return analytics.encode(
            analytics.document([policy("shop", analytics={"enableBehavioralAnalysis": True, **about})])
        )

    async def configured(**about: Any) -> dict[str, Any] | None:
        await bench.configure(asks(**about))
        await runs(bench, asks(**about))
        found: dict[str, Any] | None = bench.status[-1]["detectors"].get("behavioral_anomaly")
        return found

    await bench.configure(asks())
    await bench.start()
    await runs(bench, asks())
    rows = traffic.usual(2.0, every=20.0)
    for first in range(0, len(rows), 500):
        part = rows[first : first + 500]
        await bench.publish(factory.message(part, context=traffic.ROOTS, workloads=traffic.WORKLOADS, first=first))
    await bench.judged(len(rows))
    before = await configured(anomalyThreshold=0.9)
    assert before
    windows, items = before["references"]["rarest"]["windows"], before["items"]
    assert set(before["models"]) == {"process_shape"}
    assert before["models"]["process_shape"]["model"] == 1
    assert before["counted"]["executions"] == 0, "of this detector; what it learned is that of the one before"
    assert items > 100
    trees = {
        "name": "trees",
        "features": ["tree_bits", "argc"],
        "detector": "IForest",
        "parameters": {"n_estimators": "50"},
    }
    after = await configured(models=[{"name": "process_rarity"}, trees], modelUpdateInterval=3600)
    assert after
    assert set(after["models"]) == {"trees"}
    assert (after["items"], after["references"]["rarest"]["windows"]) == (items, windows)
    wrong = await configured(models=[{"name": "trees", "features": ["tree_bits", "leaves"]}])
    assert wrong
    assert set(wrong["models"]) == {"process_shape"}, "the built-in ones run meanwhile"
    assert wrong["items"] == items
    told = bench.status[-1]["problems"]["shop"]
    assert told.startswith("Model 'trees': there is no feature 'leaves'; there are of window: rarest, ")
    assert await configured(enableMachineLearning=False) is None
    assert bench.status[-1]["detectors"]["first_seen"]["phase"], "the deterministic layer is left alone"
    again = await configured()
    assert again
    assert (again["items"], again["references"]["rarest"]["windows"]) == (items, windows)
    assert again["workloads"] == len(traffic.WORKLOADS)
    assert await bench.end() == 0


async def test_what_is_wrong_is_told_and_the_rest_runs(bench: Bench) -> None:
    bad = document(shop=[{"name": "nope"}, {"name": "first_seen", "parameters": {"max_items": "1"}}], everywhere=[])
    await bench.configure(b"{")
    await bench.start()
    await bench.eventually(lambda: bench.status and bench.status[-1]["config_error"])
    assert bench.status[-1]["state"] == "waiting"
    await bench.configure(bad)
    await runs(bench, bad)
    last = bench.status[-1]
    assert last["config_error"] == ""
    assert list(last["problems"]) == ["shop"]
    assert (
        "There is no detector 'nope', its entry is left out; there are beacon, behavioral_anomaly, cloud_metadata, dns_tunnel, first_seen, "
        "mining_pool, network_scan, suspicious_exec, tls_without_name." in last["problems"]["shop"]
    )
    assert "first_seen.max_items: 1 is less than 100" in last["problems"]["shop"]
    await bench.configure(b"[]")
    await bench.eventually(lambda: bench.status[-1]["config_error"])
    assert bench.status[-1]["config"] == analytics.config_hash(bad), "what was in force stays"
    await bench.publish(memfd(0))
    await bench.judged(1)
    (found,) = await bench.findings()
    assert found["policies"] == ["everywhere", "shop"]
    assert await bench.end() == 0


async def test_without_a_configuration_events_wait(bench: Bench) -> None:
    data = document(shop=[])
    await bench.configure(data)
    await bench.start()
    await runs(bench, data)
    await bench.publish(memfd(0))
    await bench.judged(1)
    await bench.configure(None)
    await bench.eventually(lambda: bench.status[-1]["state"] == "waiting")
    for number in range(1, 5):
        await bench.publish(memfd(number))
    await bench.eventually(lambda: bench.status[-1]["lag"] == 4)
    assert executables(await bench.findings()) == ["/memfd:0"]
    assert (await asyncio.to_thread(get, bench, "/readyz"))[0] == 200
    await bench.configure(data)
    await bench.judged(5)
    assert executables(await bench.findings()) == [f"/memfd:{i}" for i in range(5)]
    assert bench.status[-1]["events"] == 5
    await bench.acknowledged()
    assert await bench.end() == 0
    assert "lost in the stream" not in bench.log


async def test_many_changes_under_load_lose_nothing(bench: Bench) -> None:
    await bench.configure(document(shop=[]))
    await bench.start()
    total = 150
    for number in range(total):
        await bench.publish(memfd(number))
        if number % 10 == 0:
            await bench.configure(None if number % 30 == 0 else document(shop=[], **{f"p{number}": []}))
    await bench.configure(document(shop=[]))
    await bench.judged(total)
    assert executables(await bench.findings()) == [f"/memfd:{i}" for i in range(total)]
    assert (bench.status[-1]["events"], bench.status[-1]["unwanted"]) == (total, 0)
    assert await bench.end() == 0


async def test_a_change_behind_its_back_is_found_after_a_reconnection(bench: Bench) -> None:
    await bench.configure(document(shop=[]))
    await bench.start()
    await runs(bench, document(shop=[]))
    assert bench.server
    assert bench.analytics
    # Stopped while the broker comes back, it hears nothing of the change.
    bench.server.kill()
    await bench.server.wait()
    bench.analytics.send_signal(signal.SIGSTOP)
    await bench.start_broker()
    await bench.eventually(bench.ready)
    await bench.configure(document(everywhere=[]))
    bench.analytics.send_signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        await runs(bench, document(everywhere=[]))


async def test_a_policy_that_is_not_known_is_looked_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONFIRM_S", 600.0)
    client = await nats.connect(
        f"nats://127.0.0.1:{bench.port}", user="analytics", password="secret",
        inbox_prefix=inbox_prefix("analytics").encode(), error_cb=ignore,
    )  # fmt: skip
    try:
        follower = Follower(client, registry.available(), pytest.fail)
        await bench.configure(document(shop=[]))
        assert await follower.look()
        await bench.configure(document(shop=[], new=[]))
        follower.miss({"shop"})
        assert not await follower.look(), "it does not listen, and it has read a moment ago"
        follower.miss({"shop", "new"})
        assert await follower.look()
        assert follower.configuration
        assert follower.configuration.policies == {"shop", "new"}
        await bench.configure(document(shop=[]))
        follower.miss({"gone"})
        assert not await follower.look(), "the broker is not asked for every batch"
    finally:
        await client.close()


def get(bench: Bench, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{bench.health}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


async def test_health(tmp_path: Path) -> None:
    bench = Bench(tmp_path, free_port(), cluster=True, health=free_port())

    async def answers(path: str, status: int, reason: str = "") -> bool:
        code, body = await asyncio.to_thread(get, bench, path)
        return code == status and body.get("reason", "") == reason

    try:
        await bench.start()
        await bench.eventually(lambda: answers("/healthz", 200))
        assert await answers("/readyz", 503, "it has not reached the broker yet")
        await bench.start_broker()
        await bench.connect()
        await bench.eventually(
            lambda: answers("/readyz", 503, "it has not got the lease analytics.0 yet, which nobody has")
        )
        await bench.add_cluster_streams()
        await bench.eventually(lambda: answers("/readyz", 200))
        await bench.configure(document(shop=[]))
        await runs(bench, document(shop=[]))
        assert get(bench, "/readyz")[1]["config"] == analytics.config_hash(document(shop=[]))
        assert bench.server
        bench.server.kill()
        await bench.server.wait()
        await bench.eventually(lambda: answers("/readyz", 503, "it has no connection to the broker"))
        assert await answers("/healthz", 200)
        await bench.start_broker()
        await bench.eventually(lambda: answers("/readyz", 200))
        assert await bench.end() == 0
    finally:
        await bench.close()


async def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1, cluster=True, health=free_port())
    blocker = await asyncio.start_server(lambda _r, w: w.close(), "0.0.0.0", bench.health)
    async with blocker:
        await bench.start()
        assert bench.analytics
        assert await asyncio.wait_for(bench.analytics.wait(), 60) == 2
    assert bench.log.startswith(f"daemoneye-analytics: cannot serve on health_port {bench.health}: ")
    assert bench.log.count("\n") == 1
