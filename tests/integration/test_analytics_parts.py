"""Several analytics that divide the workloads, over several event streams: each row is judged once, by whoever has its part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from daemoneye import subjects
from daemoneye.events.flags import Flag
from daemoneye_analytics.frame import text_hash
from daemoneye_operator.reconcile import analytics
from tests.support.analytics import Bench, judging
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, Exec
from tests.unit.operator.factory import policy

pytestmark = pytest.mark.integration
QUICK: Final = {"name": "first_seen", "parameters": {"learning_events": "10", "learning_seconds": "5"}}
SHARDS: Final = 2
STEP: Final = 4
TERM_S: Final = 8.0
"""More than a process that has just begun, on a busy machine, may be without a turn."""
NODES: Final = ("n1", "n2")
WORKLOADS: Final = (
    "shop/Deployment/cart/app",
    "shop/Deployment/search/app",
    "shop/Deployment/pay/app",
    "shop/Deployment/web/app",
)
OF: Final = {name: text_hash(name) % 2 for name in WORKLOADS}
"""Part of each."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    shop = policy("shop", 1, analytics={"enableBehavioralAnalysis": True, "detectors": [QUICK]})
    document = analytics.encode(analytics.document([shop]))
    async with judging(tmp_path, document, shards=SHARDS, lease_seconds=TERM_S, parts=2) as made:
        yield made


class Load:
    """Executions from memory, of every workload on every node; each is a finding of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.following = dict.fromkeys(NODES, 0)

    @property
    def total(self) -> int:
        return sum(self.following.values())

    async def send(self, rounds: int, exe: str = "/memfd:{node}-{number}", flags: int = Flag.MEMFD) -> None:
        """So many batches of each node, in each of which every workload executes something."""
        for _, node in product(range(rounds), NODES):
            first = self.following[node]
            rows = [
                Exec(
                    exe=exe.format(node=node, number=first + at).encode(), pid=1000 + first + at, start=first + at + 1, time=first + at + 2, flags=flags,
                    cgroup=at + 1,
                )
                for at in range(STEP)
            ]  # fmt: skip
            named = {at + 1: name.encode() for at, name in enumerate(WORKLOADS)}
            known = factory.pods(dict.fromkeys(named, CHECKOUT))
            self.following[node] = first + STEP
            await self.bench.publish(
                factory.message(rows, first=first, workloads=named, sections=[known], node=node), node=node
            )


def newest(bench: Bench, part: int) -> Mapping[str, Any]:
    return next((said for said in reversed(bench.status) if said["part"] == part), {})


async def judged(bench: Bench, load: Load, parts: Collection[int] = (0, 1)) -> None:
    """Both parts have read everything of both nodes."""

    def reached() -> bool:
        marks = [newest(bench, part).get("watermarks", {}) for part in parts]
        return all(
            said.get(node, {}).get("7", {}).get("urgent", -1) >= following for said in marks for node, following in load.following.items()
        )  # fmt: skip

    await bench.eventually(reached)


async def from_memory(bench: Bench) -> list[str]:
    return sorted(f["subject"]["exe"] for f in await bench.findings() if f["detector"] == "suspicious_exec")


async def learned(bench: Bench, load: Load, executions: int) -> None:
    """Each workload was learned in one place, on whatever node it executed something: what is new to it is told once, with so many executions before."""
    bench.status.clear()
    await load.send(1, "/usr/bin/nc", flags=0)
    await judged(bench, load)
    new = [f for f in await bench.findings() if f["subject"]["exe"] == "/usr/bin/nc"]
    assert sorted(f["subject"]["workload"] for f in new) == sorted(WORKLOADS)
    assert all(f" in {executions} executions since" in f["explanation"][0] for f in new)


def test_what_these_tests_need_is_so() -> None:
    assert {subjects.shard_of(node, SHARDS) for node in NODES} == {0, 1}
    assert sorted(OF.values()) == [0, 0, 1, 1]


async def test_of_three_two_judge_and_the_third_goes_on_for_one_that_is_killed(bench: Bench) -> None:
    for pod in ("a", "b", "c"):
        await bench.start_replica(pod)
    load = Load(bench)
    await load.send(10)
    await judged(bench, load)
    owners = [newest(bench, part)["pid"] for part in (0, 1)]
    assert len({*owners} & {process.pid for process in bench.replicas.values()}) == 2
    sending = asyncio.create_task(load.send(40))
    (killed,) = (process for process in bench.replicas.values() if process.pid == owners[1])
    killed.kill()
    await sending
    await bench.eventually(lambda: newest(bench, 1)["pid"] != owners[1])
    await judged(bench, load)
    assert newest(bench, 0)["pid"] == owners[0], "who judges the other part is not disturbed"
    assert await from_memory(bench) == sorted(f"/memfd:{node}-{at}" for node in NODES for at in range(50 * STEP))
    assert [newest(bench, part)["events"] for part in (0, 1)] == [load.total // 2] * 2, "each row was looked at once"
    await learned(bench, load, 100)
    every = [f["id"] for f in await bench.findings()]
    assert len({*every}) == len(every)
    assert "ermissions" not in bench.log, "its role suffices"


async def test_parts_that_are_added_go_on_with_what_was_learned_whenever_they_begin(bench: Bench) -> None:
    load = Load(bench)
    bench.more["parts"] = 1
    alone = await bench.start_replica("a")
    await load.send(10)
    await judged(bench, load, [0])
    alone.terminate()
    assert await alone.wait() == 0
    bench.status.clear()
    bench.more["parts"] = 2
    # The first one is far ahead when the second one begins.
    await bench.start_replica("a")
    await load.send(10)
    await judged(bench, load, [0])
    assert newest(bench, 0)["events"] == 30 * STEP
    await bench.acknowledged(0)
    await bench.start_replica("b")
    await judged(bench, load)
    assert await from_memory(bench) == sorted(f"/memfd:{node}-{at}" for node in NODES for at in range(20 * STEP))
    await learned(bench, load, 40)


async def test_of_fewer_parts_the_first_judges_what_those_that_are_gone_had_not(bench: Bench) -> None:
    load = Load(bench)
    for pod in ("a", "b"):
        await bench.start_replica(pod)
    await load.send(10)
    await judged(bench, load)
    first, second = (
        process
        for pid in (newest(bench, part)["pid"] for part in (0, 1))
        for process in bench.replicas.values()
        if process.pid == pid
    )
    await bench.acknowledged(1)
    second.kill()
    await second.wait()
    await load.send(10)
    await judged(bench, load, [0])
    first.terminate()
    assert await first.wait() == 0
    bench.status.clear()
    bench.more["parts"] = 1
    await bench.start_replica("a")
    await load.send(1)
    await judged(bench, load, [0])
    found = await from_memory(bench)
    assert {*found} == {f"/memfd:{node}-{at}" for node in NODES for at in range(21 * STEP)}


async def test_a_loss_is_told_once_by_whose_node_it_is(bench: Bench) -> None:
    for pod in ("a", "b"):
        await bench.start_replica(pod)
    load = Load(bench)
    await load.send(2)
    await judged(bench, load)
    for node in NODES:
        load.following[node] += 5
    await load.send(1)
    await judged(bench, load)

    async def told() -> list[int]:
        return [await of(node) for node in NODES]

    async def of(node: str) -> int:
        shard = subjects.shard_of(node, SHARDS)
        subject = subjects.events(shard, node, "loss")
        info = await bench.jetstream.stream_info(subjects.EVENTS(shard), subjects_filter=subject)
        return (info.state.subjects or {}).get(subject, 0)

    async def both() -> bool:
        return await told() == [1, 1]

    await bench.eventually(both)
    await load.send(1)
    await judged(bench, load)
    assert await told() == [1, 1]
