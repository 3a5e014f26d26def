"""The analytics process against a real broker: each finding once, whatever dies on the way."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemoneye import envelope, subjects
from daemoneye.events.flags import Flag
from daemoneye_analytics import checkpoint
from tests.support.analytics import DEADLINE_S, SHARD_STREAM, Bench
from tests.support.ports import free_port
from tests.unit.analytics import factory
from tests.unit.analytics.behaviour import traffic
from tests.unit.analytics.factory import Exec

pytestmark = pytest.mark.integration


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, free_port())
    await made.start_broker()
    await made.connect()
    await made.add_streams()
    try:
        yield made
    finally:
        await made.close()


def fileless(number: int, count: int = 1) -> list[Exec]:
    return [
        Exec(exe=b"/memfd:%d" % i, pid=1000 + i, start=i + 1, time=i + 2, flags=Flag.MEMFD)
        for i in range(number, number + count)
    ]


def message(number: int, count: int = 1, **about: Any) -> bytes:
    return factory.message(fileless(number, count), first=number, **about)


async def test_a_batch_becomes_a_finding_once(bench: Bench) -> None:
    await bench.start()
    await bench.eventually(lambda: bench.status)
    assert bench.status[0]["state"] == "ready"
    await bench.publish(message(0, 3))
    await bench.judged(3)
    found = await bench.findings()
    assert [f["subject"]["exe"] for f in found] == ["/memfd:0", "/memfd:1", "/memfd:2"]
    assert bench.status[-1]["state"] == "running"
    assert bench.status[-1]["detectors"]["suspicious_exec"] == {
        **bench.status[-1]["detectors"]["suspicious_exec"],
        "phase": "active",
        "errors": 0,
    }
    # The sensor sends again what it had no acknowledgement for: alone, and with more rows.
    await bench.publish(message(0, 3))
    await bench.publish(message(1, 4))
    await bench.judged(5)
    await bench.acknowledged()
    assert [f["subject"]["exe"] for f in await bench.findings()] == [f"/memfd:{i}" for i in range(5)]
    assert bench.status[-1]["events"] == 5
    assert await bench.end() == 0


async def test_starts_before_the_broker_and_its_streams(tmp_path: Path) -> None:
    bench = Bench(tmp_path, free_port())
    try:
        await bench.start()
        await bench.eventually(lambda: "broker" in bench.log)
        await bench.start_broker()
        await bench.connect()
        await bench.add_streams()
        await bench.publish(message(0))
        await bench.judged(1)
        assert len(await bench.findings()) == 1
        assert await bench.end() == 0
    finally:
        await bench.close()


async def test_ends_at_once_without_a_broker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, free_port())
    await bench.start()
    await bench.eventually(lambda: "broker" in bench.log)
    assert await bench.end() == 0


async def test_killed_at_any_moment_nothing_is_lost_and_nothing_doubled(bench: Bench) -> None:
    total, step = 400, 4
    await bench.start()
    for number in range(0, total, step):
        await bench.publish(message(number, step))
        if number in {40, 160, 280}:
            await bench.eventually(lambda: bench.status)
            await bench.judged(number // 2)
            await bench.end(signal.SIGKILL)
            await bench.start()
    await bench.judged(total)
    found = await bench.findings()
    assert sorted(f["subject"]["exe"] for f in found) == sorted(f"/memfd:{i}" for i in range(total))
    assert len({f["id"] for f in found}) == total
    assert bench.status[-1]["events"] == total, "counters come from the checkpoint, so that rows are counted once"
    assert await bench.end() == 0
    assert "lost in the stream" not in bench.log


async def test_what_was_learned_survives_a_restart(bench: Bench) -> None:
    bench.detectors = [{"name": "first_seen", "parameters": {"learning_events": 10, "learning_seconds": 5}}]
    usual = [Exec(pid=1000 + i, start=10 + i, time=10.5 + i) for i in range(20)]
    await bench.start()
    await bench.publish(factory.message(usual))
    await bench.judged(20)
    assert await bench.end() == 0
    assert await bench.findings() == []
    await bench.start()
    await bench.publish(factory.message([Exec(time=50), Exec(exe=b"/usr/bin/nc", time=51)], first=20))
    await bench.judged(22)
    (found,) = await bench.findings()
    assert found["detector"] == "first_seen"
    assert "21 executions" in found["explanation"][0]
    await bench.acknowledged()
    await bench.end(signal.SIGKILL)
    await bench.start()
    await bench.publish(factory.message([Exec(exe=b"/usr/bin/nc", time=60)], first=22))
    await bench.judged(23)
    assert len(await bench.findings()) == 1


async def test_what_is_no_batch_is_skipped_and_counted(bench: Bench) -> None:
    await bench.start()
    whole = message(0)
    for payload in (b"", b"garbage", whole[:-5], whole[:20], whole.replace(b'"rows"', b'"rowz"')):
        await bench.publish(payload)
    await bench.publish(whole)
    await bench.judged(1)
    assert bench.status[-1]["corrupt"] == 5
    assert len(await bench.findings()) == 1
    assert bench.log.count("skipped (") == 1, "said once a minute"
    await bench.acknowledged()


async def test_a_jump_is_published_as_a_loss_and_explained_ones_are_not(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0))
    await bench.publish(message(11))
    await bench.publish(
        factory.message([], lane="loss", epoch=7, sections=[factory.losses(first=1, count=4)]), lane="loss"
    )

    async def losses() -> list[Any]:
        batches = [envelope.decode(m) for m in await bench.read(SHARD_STREAM)]
        return [b for b in batches if b.envelope.source == "analytics"]

    async def told() -> bool:
        return bool(await losses())

    await bench.eventually(told)
    (batch,) = await losses()
    section = batch.section("loss")
    assert section is not None
    row = section.rows[0]
    assert (int(row["first_sequence"]), int(row["count"]), int(row["epoch"])) == (5, 6, 7)
    assert section.values("stage") == [b"stream"]
    assert section.values("lane") == [b"urgent"]
    await bench.acknowledged()
    assert await bench.end() == 0
    await bench.start()
    await bench.publish(message(12))
    await bench.judged(13)
    assert len(await losses()) == 1


async def test_a_damaged_checkpoint_is_refused_for_the_one_before(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0, 2))
    await bench.judged(2)
    await bench.acknowledged()
    await bench.publish(message(2, 2))
    await bench.judged(4)
    assert await bench.end() == 0
    bucket = await bench.jetstream.object_store(subjects.ANALYTICS_BUCKET)
    saved = {}
    for side in "ab":
        data = (await bucket.get(f"checkpoint-0-{side}")).data
        assert data
        saved[side] = checkpoint.decode(data)
    newest = max(saved, key=lambda side: saved[side].number)
    assert saved[newest].position == 2
    await bucket.put(f"checkpoint-0-{newest}", b"DECK" + b"\x07\x00" + bytes(200))
    await bench.start()
    await bench.publish(message(4))
    await bench.judged(5)
    assert "refused checkpoint" in bench.log
    assert [f["subject"]["exe"] for f in await bench.findings()] == [f"/memfd:{i}" for i in range(5)]
    # Both are damaged: a fresh start, after what was acknowledged.
    await bench.acknowledged()
    assert await bench.end() == 0
    for side in "ab":
        await bucket.put(f"checkpoint-0-{side}", b"nonsense")
    await bench.start()
    await bench.publish(message(5))
    await bench.judged(6)
    assert "starts without a checkpoint after message 3" in bench.log
    assert len(await bench.findings()) == 6


async def test_a_stored_model_that_somebody_changed_is_refused_and_everything_else_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bench.settings()
    settings["nats"] |= {"user": "analytics", "password": "models are signed with a key that follows from it"}
    monkeypatch.setattr(bench, "settings", lambda: settings)
    models = ['{"name": "process_rarity"}', '{"name": "process_shape"}']
    settings["analytics"]["detectors"] = [{"name": "behavioral_anomaly", "parameters": {"models": models}}]
    rows = traffic.usual(2.0, every=20.0)
    await bench.start()
    for first in range(0, len(rows), 500):
        part = rows[first : first + 500]
        await bench.publish(factory.message(part, context=traffic.ROOTS, workloads=traffic.WORKLOADS, first=first))
    await bench.judged(len(rows))

    def model() -> dict[str, Any]:
        found: dict[str, Any] = bench.status[-1]["detectors"]["behavioral_anomaly"]["models"]["process_shape"]
        return found

    async def goes_on(following: int, exe: bytes) -> None:
        bench.status.clear()
        await bench.start()
        later = Exec(exe=exe, pid=9, start=8000.0 + following, time=8000.0 + following, flags=Flag.MEMFD)
        await bench.publish(factory.message([later], first=following))
        await bench.judged(following + 1)

    assert await bench.end() == 0
    await goes_on(len(rows), b"/memfd:1")
    assert (model()["model"], model()["counted"]["refused"]) == (1, 0), "it outlives the process"
    assert await bench.end() == 0
    bucket = await bench.jetstream.object_store(subjects.ANALYTICS_BUCKET)
    for side in "ab":
        data = (await bucket.get(f"checkpoint-0-{side}")).data
        assert data
        saved = checkpoint.decode(data)
        state = dict(saved.detectors["behavioral_anomaly"])
        if "scorers_process_shape.model0" in state:
            state["scorers_process_shape.model0"] = state["scorers_process_shape.model0"].copy()
            state["scorers_process_shape.model0"][-100] ^= 1
        await bucket.put(
            f"checkpoint-0-{side}",
            checkpoint.encode(replace(saved, detectors={**saved.detectors, "behavioral_anomaly": state})),
        )
    await goes_on(len(rows) + 1, b"/memfd:2")
    assert "stored model refused, it is fitted anew: model was changed: its signature does not fit" in bench.log
    assert bench.status[-1]["detectors"]["behavioral_anomaly"]["errors"] == 0
    assert bench.status[-1]["detectors"]["behavioral_anomaly"]["items"] > 100, "what was counted stays"
    assert model()["refused"] == 1
    rules = [f for f in await bench.findings() if f["detector"] == "suspicious_exec"]
    assert [f["subject"]["exe"] for f in rules] == ["/memfd:1", "/memfd:2"]


async def test_a_detector_that_raises_stops_nothing(bench: Bench, tmp_path: Path) -> None:
    package = tmp_path / "site"
    (package / "broken-1.dist-info").mkdir(parents=True)
    (package / "broken-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "broken-1.dist-info" / "entry_points.txt").write_text("[daemoneye.detectors]\nbroken = broken:Broken\n")
    (package / "broken.py").write_text(
        "from daemoneye_analytics.detectors.base import detector\n"
        "@detector(name='broken', version=1, title='t', severity='low', techniques=())\n"
        "class Broken:\n"
        "    def __init__(self, parameters): pass\n"
        "    def process(self, frame): raise RuntimeError('I always fail')\n"
        "    def state(self): return {}\n"
        "    def restore(self, state): pass\n"
        "    def status(self): return {'phase': 'active'}\n"
    )
    bench.extra_path = str(package)
    await bench.start()
    await bench.publish(message(0))
    await bench.publish(message(1))
    await bench.judged(2)
    assert bench.status[-1]["detectors"]["broken"]["errors"] == 2
    assert len(await bench.findings()) == 2


async def test_a_broker_that_restarts_loses_nothing(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0, 3))
    await bench.judged(3)
    for number, kill in ((3, signal.SIGTERM), (6, signal.SIGKILL)):
        assert bench.server
        bench.server.send_signal(kill)
        await bench.server.wait()
        await bench.start_broker()
        await bench.eventually(bench.ready)
        await bench.publish(message(number, 3))
        await bench.judged(number + 3)
    assert [f["subject"]["exe"] for f in await bench.findings()] == [f"/memfd:{i}" for i in range(9)]
    assert bench.status[-1]["events"] == 9
    assert "lost in the stream" not in bench.log


async def test_ends_while_the_broker_is_away_and_goes_on_later(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0, 3))
    await bench.judged(3)
    assert bench.server
    bench.server.kill()
    await bench.server.wait()
    assert await bench.end() == 0
    await bench.start_broker()
    await bench.eventually(bench.ready)
    await bench.publish(message(3))
    await bench.start()
    await bench.judged(4)
    assert [f["subject"]["exe"] for f in await bench.findings()] == [f"/memfd:{i}" for i in range(4)]


async def test_a_consumer_that_somebody_deletes_is_made_again(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0))
    await bench.judged(1)
    await bench.jetstream.delete_consumer(SHARD_STREAM, "analytics-0")
    await bench.publish(message(1))
    await bench.judged(2)
    assert len(await bench.findings()) == 2


async def test_a_stream_that_was_trimmed_is_a_loss(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0))
    await bench.judged(1)
    assert await bench.end() == 0
    for number in range(1, 6):
        await bench.publish(message(number))
    await bench.jetstream.purge_stream(SHARD_STREAM, keep=2)
    await bench.start()
    await bench.judged(6)
    await bench.eventually(lambda: "3 records of n1 (urgent) were lost in the stream" in bench.log)
    assert [f["subject"]["exe"] for f in await bench.findings()] == ["/memfd:0", "/memfd:4", "/memfd:5"]


async def test_a_stream_that_is_trimmed_under_a_reader_that_is_behind_is_a_loss_of_so_many_rows(bench: Bench) -> None:
    await bench.start()
    await bench.publish(message(0))
    await bench.judged(1)
    assert bench.analytics
    # As slow as can be, and in the middle of reading: it has a consumer, and the broker delivers what it does not take.
    bench.analytics.send_signal(signal.SIGSTOP)
    rows, step = 3000, 3
    for number in range(1, rows, step):
        await bench.publish(message(number, step))
    await bench.jetstream.purge_stream(SHARD_STREAM, keep=100)
    bench.analytics.send_signal(signal.SIGCONT)
    following = 1 + -(-(rows - 1) // step) * step
    await bench.judged(following)

    async def lost() -> int:
        batches = [envelope.decode(m) for m in await bench.read(SHARD_STREAM)]
        told = [section for b in batches if b.envelope.source == "analytics" and (section := b.section("loss"))]
        assert all(stage == b"stream" for section in told for stage in section.values("stage"))
        return sum(int(section.rows["count"].sum()) for section in told)

    async def all_accounted_for() -> bool:
        return await lost() + len(await bench.findings()) >= following

    await bench.eventually(all_accounted_for)
    await bench.eventually(lambda: bench.status[-1]["lag"] == 0)
    assert "were lost in the stream" in bench.log
    found = {f["subject"]["exe"] for f in await bench.findings()}
    assert await lost() + len(found) == following
    assert {f"/memfd:{i}" for i in range(following - 300, following)} <= found


async def test_a_wrong_configuration_is_one_line_and_status_2(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1, detectors=[{"name": "nope"}])
    await bench.start()
    assert bench.analytics
    assert await asyncio.wait_for(bench.analytics.wait(), DEADLINE_S) == 2
    assert bench.log.strip().endswith(
        "unknown detector 'nope'; there are beacon, behavioral_anomaly, cloud_metadata, dns_tunnel, first_seen, mining_pool, network_scan, "
        "suspicious_exec, tls_without_name"
    )
