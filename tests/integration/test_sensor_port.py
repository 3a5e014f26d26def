"""The sensor's port: what the kubelet and Prometheus get from a real one, with and without programs, configuration and broker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from daemoneye import metrics as m
from daemoneye_sensor.losses import STAGES
from daemoneye_sensor.programs import BPFFS
from daemoneye_sensor.store import lock_directory
from tests.support.nodebroker import NodeBroker, Sensor, broker_in, configuration, policy, until
from tests.support.page import Page, fetch, probe
from tests.support.ports import free_port
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.integration
# The page may not cost a cluster of 1,000 nodes more than that.
MOST_SERIES = 150


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NodeBroker]:
    async with broker_in(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
async def sensor(tmp_path: Path, broker: NodeBroker) -> AsyncIterator[Callable[..., Any]]:
    made: list[Sensor] = []

    async def start(port: int, **settings: Any) -> Sensor:
        made.append(Sensor(tmp_path, broker, f"test-{os.getpid()}-port", health_port=port, **settings))
        await made[-1].start()
        return made[-1]

    yield start
    for one in made:
        await one.stop()
        shutil.rmtree(BPFFS / "daemoneye" / one.instance, ignore_errors=True)


async def page(port: int) -> Page:
    return await asyncio.to_thread(Page, port)


async def answers(port: int, path: str, status: int, reason: str = "") -> None:
    """Wait until a path answers this; `reason` is part of it, or it is empty."""
    last: tuple[int, str] = (0, "")
    async with asyncio.timeout(90):
        while not (last[0] == status and (reason in last[1] if reason else not last[1])):
            last = await asyncio.to_thread(probe, port, path)
            await asyncio.sleep(0.02)


@pytest.mark.kernel
async def test_a_sensor_from_its_first_second_to_its_last(broker: NodeBroker, sensor: Callable[..., Any]) -> None:
    port = free_port()
    process = await sensor(port)
    await answers(port, "/healthz", 200)
    await answers(port, "/readyz", 503, "it has no configuration yet")
    first = await page(port)
    first.shows_all_of("sensor")
    assert first.series <= MOST_SERIES
    assert set(first.by(m.SENSOR_LOST)) == {*STAGES}
    assert first.by(m.SENSOR_POLICIES) == {"active": 0, "inactive": 0, "refused": 0}

    config = configuration(policy("all"), policy("bad", network={"enable_packet_capture": True, "capture_filter": "("}))
    await broker.configure(config)
    await broker.answered(config, lambda answer: answer.programs and answer.policies)
    await answers(port, "/readyz", 200)
    assert json.loads((await asyncio.to_thread(fetch, port, "/readyz"))[1])["config"] == config.hash
    for number in range(20):
        subprocess.run(["/bin/true", f"counted-{number}"], check=True)
    await broker.executed("counted-19")

    async def settled() -> Page:
        """A page on which all that was spooled is sent: the broker may have a batch before the sensor knows."""
        while (seen := await page(port)).of(m.SENSOR_SPOOL_BATCHES):
            await asyncio.sleep(0.02)
        return seen

    busy = await asyncio.wait_for(settled(), 90)
    busy.shows_all_of("sensor")
    assert busy.series <= MOST_SERIES
    assert busy.series == first.series, "every series is there from the start"
    assert busy.of(m.SENSOR_EVENTS, "urgent") >= 40, "an execution and an end each"
    assert busy.of(m.SENSOR_RECORDS, "exec") >= 20
    assert busy.of(m.SENSOR_EVENTS, "urgent") + busy.of(m.SENSOR_EXCLUDED) <= sum(busy.by(m.SENSOR_RECORDS).values())
    assert busy.of(m.SENSOR_PUBLISHED) == busy.of(m.SENSOR_DELAY, part="count"), "one a batch"
    assert busy.of(m.SENSOR_DELAY, part="sum") < 60 * busy.of(m.SENSOR_DELAY, part="count"), "seconds, not nanoseconds"
    assert 0 < busy.of(m.SENSOR_PUBLISHED_BYTES) < busy.of(m.SENSOR_SPOOL) < busy.of(m.SENSOR_SPOOL_MAX)
    assert busy.by(m.SENSOR_POLICIES) == {"active": 1, "inactive": 0, "refused": 1}
    assert busy.of(m.SENSOR_PROGRAMS) == busy.of(m.BROKER_CONNECTED, "sensor") == 1
    assert busy.of(m.SENSOR_PROCESSES) > 10
    assert busy.of(m.SENSOR_CGROUPS) >= 1
    assert not any(busy.by(m.SENSOR_LOST).values())

    # A broker that is away is no reason to begin anew, nor does the sensor do less than it is asked.
    await broker.stop()
    async with asyncio.timeout(90):
        while (await page(port)).of(m.BROKER_CONNECTED, "sensor"):
            await asyncio.sleep(0.02)
    await answers(port, "/healthz", 200)
    await answers(port, "/readyz", 200)
    await process.stop(9)
    assert "cannot be answered" not in process.log.read_text()


async def test_programs_that_cannot_be_loaded_are_no_readiness_and_no_death(
    broker: NodeBroker, sensor: Callable[..., Any], tmp_path: Path
) -> None:
    port = free_port()
    await sensor(port, bpf_dir=str(tmp_path / "nothing"))
    config = configuration(policy("all"))
    await broker.configure(config)
    await answers(port, "/readyz", 503, "program sources are missing")
    await answers(port, "/healthz", 200)
    await broker.answered(config)
    seen = await page(port)
    assert seen.of(m.SENSOR_PROGRAMS) == 0
    assert seen.by(m.SENSOR_POLICIES) == {"active": 0, "inactive": 0, "refused": 1}
    # Whoever asks for nothing of the kernel is content.
    nothing = configuration()
    await broker.configure(nothing)
    await answers(port, "/readyz", 200)
    assert (await page(port)).of(m.SENSOR_PROGRAMS) == 1


async def test_a_taken_port_is_named(broker: NodeBroker, sensor: Callable[..., Any]) -> None:
    port = free_port()
    blocker = await asyncio.start_server(lambda _r, w: w.close(), "0.0.0.0", port)
    async with blocker:
        process = await sensor(port)
        await until(lambda: process.returncode is not None, "it ends")
    assert process.returncode == 2
    assert process.log.read_text().startswith(f"daemoneye-sensor: cannot serve on health_port {port}: ")


async def test_on_one_machine_a_port_is_served_if_asked_for(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "sensor.json").write_text(
        json.dumps(
            {
                "node": "n", "state_dir": str(tmp_path / "state"), "source": "replay", "health_port": port,
                "replay_path": str(REPOSITORY / "examples/one-machine/recording.jsonl"),
                "nats": {"url": "nats://127.0.0.1:1"},
            }
        )
    )  # fmt: skip
    # The broker is away: what was read waits for it, and so does the process.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemoneye_sensor",
        "--config",
        tmp_path / "sensor.json",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await answers(port, "/readyz", 200)
        async with asyncio.timeout(90):
            while not (seen := await page(port)).of(m.SENSOR_EVENTS, "urgent"):
                await asyncio.sleep(0.02)
        await answers(port, "/healthz", 200)
        seen.shows_all_of("sensor")
        assert seen.of(m.SENSOR_SPOOL_UNSENT) > 0
        assert seen.of(m.SENSOR_DELAY, part="count") == 0, "a recording's events are as old as they are"
        assert not any(seen.by(m.SENSOR_POLICIES).values())
    finally:
        process.kill()
        await process.wait()


async def test_a_second_sensor_of_a_node_waits_in_silence_for_the_first(
    broker: NodeBroker, sensor: Callable[..., Any], tmp_path: Path
) -> None:
    """A pod that nobody has taken away yet: to end and be started again would cost minutes after it has gone."""
    former = lock_directory(tmp_path / "state" / "spool")
    port = free_port()
    try:
        process = await sensor(port)
        await answers(port, "/readyz", 503, "other sensor has not ended")
        await answers(port, "/healthz", 200)
        await process.stop()
        assert process.returncode == 0
        process = await sensor(port)
        await answers(port, "/readyz", 503, "other sensor has not ended")
        assert not broker.heartbeats, "it does not speak for the node"
    finally:
        os.close(former)
    await answers(port, "/readyz", 503, "it has no configuration yet")
    await until(lambda: broker.heartbeats, "the first heartbeat")
