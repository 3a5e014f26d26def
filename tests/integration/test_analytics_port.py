"""Analytics' port: /metrics, /healthz and /readyz of the real process, with values that batches of the test cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from daemoneye import metrics as m
from daemoneye import subjects
from daemoneye.events.flags import Flag
from daemoneye.events.loss import STAGES
from daemoneye_analytics import answers
from daemoneye_analytics.progress import Progress
from daemoneye_analytics.share import WHOLE
from daemoneye_analytics.store import Store
from daemoneye_operator.reconcile import analytics
from tests.support.analytics import DEADLINE_S, SHARD_STREAM, Bench
from tests.support.page import Page, probe
from tests.support.ports import free_port
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, SECOND, WORKLOAD, Exec
from tests.unit.operator.factory import policy

pytestmark = pytest.mark.integration
DETECTORS = {
    "suspicious_exec", "first_seen", "cloud_metadata", "network_scan", "dns_tunnel", "beacon", "mining_pool", "tls_without_name",
    "behavioral_anomaly",
}  # fmt: skip
AGE_S = 3.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, free_port(), cluster=True, health=free_port())
    try:
        yield made
    finally:
        await made.close()


def memfd(number: int, epoch: int = 7) -> bytes:
    """A batch of one execution from memory, AGE_S ago."""
    row = Exec(exe=b"/memfd:%d" % number, pid=1000 + number, start=number + 1, time=number + 2, flags=Flag.MEMFD)
    offset = time.time_ns() - int((number + 2 + AGE_S) * SECOND)
    sections = [factory.pods({1: CHECKOUT})]
    return factory.message(
        [row], first=number, workloads={1: WORKLOAD}, sections=sections, clock_offset_ns=offset, epoch=epoch
    )


async def started(bench: Bench) -> None:
    await bench.start()
    await bench.eventually(lambda: probe(bench.health, "/healthz") == (200, ""))


async def page(bench: Bench, condition: Callable[[Page], Any]) -> Page:
    """The first one that fulfils a condition."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition(seen := await asyncio.to_thread(Page, bench.health)):
            await asyncio.sleep(0.05)
        return seen


def found(seen: Page) -> dict[tuple[str, str], float]:
    samples = seen.families["daemoneye_analytics_findings"].samples
    return {(sample.labels["detector"], sample.labels["severity"]): sample.value for sample in samples}


async def test_what_prometheus_and_the_kubelet_get(bench: Bench) -> None:
    await started(bench)
    seen = await page(bench, lambda _: True)
    assert seen.of(m.BROKER_CONNECTED, "analytics") == 0
    assert "daemoneye_build_info" in seen.families

    await bench.start_broker()
    await bench.connect()
    await bench.add_cluster_streams()
    picky = {"name": "first_seen", "parameters": {"learning_events": "many"}}
    policies = [
        policy("shop", 1, analytics={"enableBehavioralAnalysis": True, "detectors": []}),
        policy("picky", 2, analytics={"enableBehavioralAnalysis": True, "detectors": [picky]}),
    ]
    await bench.configure(analytics.encode(analytics.document(policies)))
    # A model has a number as soon as a policy asks for it.
    seen = await page(bench, lambda seen: m.ANALYTICS_MODEL.name in seen.families)
    seen.shows_all_of("analytics")
    assert found(seen) == {(name, severity): 0 for name in DETECTORS for severity in subjects.SEVERITIES}
    assert seen.by(m.ANALYTICS_LOST) == dict.fromkeys(STAGES, 0)
    assert set(seen.by(m.ANALYTICS_DETECTOR_SECONDS)) == set(seen.by(m.ANALYTICS_DETECTOR_ERRORS)) == DETECTORS

    # One finding, the same batch again, seven rows that never come of which four are explained, two words that nobody knows, and rubbish.
    for _ in range(2):
        await bench.publish(memfd(0))
    await bench.publish(memfd(8))
    told = [factory.losses(first=1, count=4), factory.losses(first=2**64 - 1, count=2, stage=b"of the future")]
    for number, section in enumerate(told):
        loss = factory.message([], lane="loss", context=(), first=number, sections=[section])
        await bench.publish(loss, lane="loss")
    await bench.publish(b"rubbish")
    seen = await page(
        bench,
        lambda seen: (
            seen.of(m.ANALYTICS_LOST, "stream")
            and seen.of(m.ANALYTICS_CORRUPT)
            and not seen.of(m.ANALYTICS_LAG)
            and not seen.of(m.ANALYTICS_BEHIND)
        ),
    )
    assert seen.by(m.ANALYTICS_LOST) == {**dict.fromkeys(STAGES, 0), "spool": 4, "stream": 3, "other": 2}
    assert seen.of(m.ANALYTICS_EVENTS) == 5, "two executions, three loss rows"
    assert {key: count for key, count in found(seen).items() if count} == {("suspicious_exec", "high"): 2}
    assert seen.of(m.ANALYTICS_EVENT_DELAY, part="count") == seen.of(m.ANALYTICS_FINDING_DELAY, part="count") == 2
    for delay in (m.ANALYTICS_EVENT_DELAY, m.ANALYTICS_FINDING_DELAY):
        assert 2 * AGE_S <= seen.of(delay, part="sum") < 2 * AGE_S + DEADLINE_S
    assert all(0 < seconds < DEADLINE_S for seconds in seen.by(m.ANALYTICS_DETECTOR_SECONDS).values())
    assert not any(seen.by(m.ANALYTICS_DETECTOR_ERRORS).values())
    assert (seen.of(m.ANALYTICS_CORRUPT), seen.of(m.ANALYTICS_IGNORED), seen.of(m.ANALYTICS_NODES)) == (1, 0, 1)
    assert seen.of(m.ANALYTICS_EXECUTIONS) == 2
    assert seen.by(m.ANALYTICS_WINDOWS) == {"sufficient": 0, "insufficient": 0}, "a window of ten minutes is open"
    assert set(seen.by(m.ANALYTICS_WORKLOADS)) == {"Learning", "Calibrating", "Active", "Drifted"}
    assert (seen.of(m.ANALYTICS_MODEL, "process_shape"), seen.of(m.ANALYTICS_MODEL_AGE, "process_shape")) == (0, 0)
    assert seen.of(m.ANALYTICS_MODEL_OUTCOMES, "process_shape", "refused") == 0
    assert seen.of(m.ANALYTICS_PROBLEMS) == 1
    assert seen.of(m.BROKER_CONNECTED, "analytics") == 1
    await bench.acknowledged()
    assert (await page(bench, lambda _: True)).of(m.ANALYTICS_CHECKPOINT) < DEADLINE_S

    # Counters are the process's, for Prometheus takes what goes down for a restart; the status goes on with the checkpoint's.
    assert await bench.end() == 0
    await started(bench)
    await bench.publish(memfd(9))
    seen = await page(bench, lambda seen: "daemoneye_analytics_events" in seen.families and seen.of(m.ANALYTICS_EVENTS))
    assert seen.of(m.ANALYTICS_EVENTS) == seen.of(m.ANALYTICS_EXECUTIONS) == 1
    assert not any(seen.by(m.ANALYTICS_LOST).values())
    await bench.eventually(lambda: bench.status[-1]["events"] == 6)

    assert bench.server
    bench.server.kill()
    await bench.server.wait()
    await page(bench, lambda seen: not seen.of(m.BROKER_CONNECTED, "analytics"))
    assert probe(bench.health, "/healthz") == (200, "")
    assert "cannot be answered" not in bench.log


async def test_a_thousand_losses_told_to_a_slow_broker_are_no_standstill(bench: Bench) -> None:
    await bench.start_broker()
    await bench.connect()
    await bench.add_cluster_streams()
    progress = Progress()
    progress._turned -= 2 * answers.STUCK_S
    assert await Store(bench.jetstream, WHOLE, 1, asyncio.Event(), progress).loss("n1", b"rows", "stream-loss/1")
    assert progress.still_s < answers.STUCK_S


async def test_a_finding_that_the_broker_has_already_is_not_counted_again(bench: Bench) -> None:
    await bench.start_broker()
    await bench.connect()
    await bench.add_cluster_streams()
    shop = policy("shop", 1, analytics={"enableBehavioralAnalysis": True, "detectors": []})
    await bench.configure(analytics.encode(analytics.document([shop])))
    await started(bench)
    await bench.publish(memfd(0))
    await bench.judged(1)
    await bench.acknowledged()
    assert await bench.end() == 0
    # Without checkpoint and consumer everything is read anew, as after a crash whatever the last checkpoint does not cover.
    bucket = await bench.jetstream.object_store(subjects.ANALYTICS_BUCKET)
    for side in "ab":
        try:
            await bucket.delete(f"checkpoint-0-{side}")
        except NotFoundError:
            continue
    await bench.jetstream.delete_consumer(SHARD_STREAM, "analytics-0")
    await bench.publish(memfd(1))
    await started(bench)
    seen = await page(bench, lambda seen: seen.series > 50 and seen.of(m.ANALYTICS_EVENTS) == 2)
    seen = await page(bench, lambda seen: any(found(seen).values()))
    assert sum(found(seen).values()) == 1
    assert len(await bench.findings()) == 2
