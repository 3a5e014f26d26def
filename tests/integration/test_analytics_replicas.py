"""Several analytics processes on one broker: one judges, whoever is killed, paused or asked to end, and each finding is there once."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemoneye.events.flags import Flag
from daemoneye_operator.reconcile import analytics
from tests.support.analytics import DEADLINE_S, SHARD_STREAM, Bench, judging
from tests.support.ports import free_port
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, WORKLOAD, Exec
from tests.unit.operator.factory import policy

pytestmark = pytest.mark.integration
QUICK = {"name": "first_seen", "parameters": {"learning_events": "10", "learning_seconds": "5"}}
STEP = 4
TERM_S = 8.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    shop = policy("shop", 1, analytics={"enableBehavioralAnalysis": True, "detectors": [QUICK]})
    document = analytics.encode(analytics.document([shop]))
    async with judging(tmp_path, document, lease_seconds=TERM_S) as made:
        yield made


def memfd(number: int) -> bytes:
    """Executions from memory, STEP of them, in a pod of policy `shop`; what they run in is learned by `first_seen`, too."""
    rows = [
        Exec(exe=b"/memfd:%d" % i, pid=1000 + i, start=i + 1, time=i + 2, flags=Flag.MEMFD, cgroup=1)
        for i in range(number, number + STEP)
    ]
    return factory.message(rows, first=number, workloads={1: WORKLOAD}, sections=[factory.pods({1: CHECKOUT})])


async def judge(bench: Bench) -> int:
    """The process that judges, as soon as one says so."""
    bench.status.clear()
    await bench.eventually(lambda: bench.status)
    return int(bench.status[-1]["pid"])


async def publish(bench: Bench, first: int, total: int) -> None:
    for number in range(first, first + total, STEP):
        await bench.publish(memfd(number))


async def once(bench: Bench, total: int) -> None:
    """Every execution was judged once: each is one finding, and no detector counted one twice."""
    await bench.judged(total)
    from_memory = [f for f in await bench.findings() if f["detector"] == "suspicious_exec"]
    assert sorted(f["subject"]["exe"] for f in from_memory) == sorted(f"/memfd:{i}" for i in range(total))
    assert bench.status[-1]["events"] == total
    new = Exec(exe=b"/usr/bin/nc", pid=7, start=5_000, time=5_001, cgroup=1)
    told = factory.message([new], first=total, workloads={1: WORKLOAD}, sections=[factory.pods({1: CHECKOUT})])
    await bench.publish(told)
    await bench.judged(total + 1)
    found = [f for f in await bench.findings() if f["subject"]["exe"] == "/usr/bin/nc"]
    assert [f["detector"] for f in found] == ["first_seen"]
    assert f"{total} executions" in found[0]["explanation"][0], "what was learned went over, and nothing twice"
    every = [f["id"] for f in await bench.findings()]
    assert len(set(every)) == len(every)


async def readiness(port: int) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
                return {"status": answer.status, **json.loads(answer.read())}
        except urllib.error.HTTPError as error:
            return {"status": error.code, **json.loads(error.read())}
        except OSError:
            return {"status": 0}

    return await asyncio.to_thread(ask)


async def page(port: int) -> str:
    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(ask)


async def test_one_of_two_that_is_killed_in_the_midst_loses_nothing_and_doubles_nothing(bench: Bench) -> None:
    ports = {pod: free_port() for pod in ("a", "b")}
    for pod, port in ports.items():
        await bench.start_replica(pod, port)
    owner = await judge(bench)
    (active,) = (pod for pod, process in bench.replicas.items() if process.pid == owner)
    (standby,) = ports.keys() - {active}

    async def stands_by() -> bool:
        said = await readiness(ports[standby])
        return said["status"] == 200 and said["reason"] == f"it stands by: {active} has the lease analytics.0"

    await bench.eventually(stands_by)
    assert 'daemoneye_analytics_part_owned{part="0"} 1' in await page(ports[active])
    metrics = await page(ports[standby])
    assert re.search(r"^daemoneye_process_broker_connected\S* 1", metrics, re.MULTILINE)
    assert 'daemoneye_analytics_part_owned{part="0"} 0' in metrics
    await publish(bench, 0, 200)
    await bench.judged(100)
    sending = asyncio.create_task(publish(bench, 200, 400))
    bench.replicas[active].kill()
    killed = time.monotonic()
    await sending
    await bench.judged(600)
    assert time.monotonic() - killed < TERM_S + DEADLINE_S
    assert bench.status[-1]["pid"] == bench.replicas[standby].pid
    await once(bench, 600)
    # Who comes back stands by; the pod's own name does not let it take what is another's.
    await bench.replicas[active].wait()
    await bench.start_replica(active, ports[active])

    async def stands_by_too() -> bool:
        return (await readiness(ports[active])).get("reason") == f"it stands by: {standby} has the lease analytics.0"

    await bench.eventually(stands_by_too)
    assert "ermissions" not in bench.log, "its role suffices"


async def test_who_was_paused_while_another_took_over_changes_nothing_and_ends(bench: Bench) -> None:
    first, second = await bench.start_replica("a"), await bench.start_replica("b")
    owner = await judge(bench)
    paused, other = (first, second) if first.pid == owner else (second, first)
    await publish(bench, 0, 200)
    await bench.judged(100)
    paused.send_signal(signal.SIGSTOP)
    await publish(bench, 200, 200)
    bench.status.clear()
    await bench.judged(400)
    assert {s["pid"] for s in bench.status} == {other.pid}
    consumer = await bench.jetstream.consumer_info(SHARD_STREAM, "analytics-0")
    bench.status.clear()
    paused.send_signal(signal.SIGCONT)
    await publish(bench, 400, 200)
    assert await asyncio.wait_for(paused.wait(), 60) != 0
    assert "lost the lease analytics.0 to" in bench.log
    await once(bench, 600)
    assert {s["pid"] for s in bench.status} == {other.pid}
    now = await bench.jetstream.consumer_info(SHARD_STREAM, "analytics-0")
    assert now.created == consumer.created, "the other one's consumer stayed in its place"
    # What the checkpoints hold is what a third one goes on with.
    await bench.acknowledged()
    other.kill()
    await other.wait()
    await bench.start_replica("c")
    new = Exec(exe=b"/usr/bin/curl", pid=8, start=6_000, time=6_001, cgroup=1)
    told = factory.message([new], first=601, workloads={1: WORKLOAD}, sections=[factory.pods({1: CHECKOUT})])
    await bench.publish(told)
    await bench.judged(602)
    assert bench.status[-1]["events"] == 602


async def test_who_is_still_sure_though_another_has_the_lease_places_nothing(bench: Bench) -> None:
    # The same pod takes its lease at once, while the former process believes in it for minutes: as after a halt of its virtual machine.
    bench.more["lease_seconds"] = 300.0
    former = bench.replicas["former"] = await bench.start_replica("a")
    assert await judge(bench) == former.pid
    await publish(bench, 0, 40)
    await bench.judged(40)
    later = await bench.start_replica("a")
    # That its consumer was taken away tells the former at once; its next renewal would be after 100 s.
    assert await asyncio.wait_for(former.wait(), 60) != 0
    assert bench.log.count("lost the lease analytics.0 to a") == 1
    await bench.eventually(lambda: bench.status[-1]["pid"] == later.pid)
    consumer = await bench.jetstream.consumer_info(SHARD_STREAM, "analytics-0")
    await publish(bench, 40, 40)
    await once(bench, 80)
    now = await bench.jetstream.consumer_info(SHARD_STREAM, "analytics-0")
    assert now.created == consumer.created


async def test_who_is_asked_to_end_hands_over_at_once(bench: Bench) -> None:
    bench.more["lease_seconds"] = term = 60.0
    first = await bench.start_replica("a")
    assert await judge(bench) == first.pid
    await publish(bench, 0, 40)
    await bench.judged(40)
    port = free_port()
    second = await bench.start_replica("b", port)

    async def stands_by() -> bool:
        return bool((await readiness(port)).get("ok"))

    await bench.eventually(stands_by)
    first.terminate()
    assert await first.wait() == 0
    ended = time.monotonic()
    await bench.eventually(lambda: bench.status[-1]["pid"] == second.pid)
    assert time.monotonic() - ended < term / 2
    await publish(bench, 40, 40)
    await once(bench, 80)
