"""A node that reboots, and one whose wall clock steps: what its sensor's process sends, as the broker stores it.

Neither can be had here for real. A reboot is what it leaves for the sensor: the process killed, nothing pinned any more, another boot id (a
file mounted over the kernel's), and the spool on the disk; the boot-time clock goes on, though, where a real one would begin anew. A step is
done to the process's own `time.time_ns`, the only wall clock that it reads; the kernel's clock of the events has no steps.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemoneye.envelope import Batch
from daemoneye_sensor.pinned import Pinned
from daemoneye_sensor.programs import BPFFS
from tests.support.nodebroker import NodeBroker, Sensor, broker_in, configuration, policy, until

pytestmark = [pytest.mark.integration, pytest.mark.kernel]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
HOUR_NS = 3600 * 10**9
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NodeBroker]:
    async with broker_in(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def instance() -> Iterator[str]:
    name = f"test-{os.getpid()}-recovery"
    yield name
    shutil.rmtree(BPFFS / "daemoneye" / name, ignore_errors=True)


def execute(*arguments: str) -> None:
    for argument in arguments:
        subprocess.run(["/bin/true", argument], check=True)


def once(batches: list[Batch]) -> list[Batch]:
    """Without repetitions of what the broker's answer got lost for; what is left follows one another in each epoch."""
    seen = {(batch.envelope.epoch, batch.envelope.first_sequence): batch for batch in batches}
    following: dict[int, int] = {}
    for about in (batch.envelope for batch in seen.values()):
        assert about.first_sequence == following.get(about.epoch, 0), "a sequence is missing, or has two names"
        following[about.epoch] = about.next_sequence
    return list(seen.values())


async def test_a_reboot_begins_an_epoch_and_sends_the_spool_as_what_it_was(
    broker: NodeBroker, instance: str, tmp_path: Path
) -> None:
    config = configuration(policy("a"))
    await broker.configure(config)
    sensor = Sensor(tmp_path, broker, instance)
    await sensor.start()
    try:
        await broker.answered(config, lambda answer: answer.policies[0].state == "Active")
        execute("sent")
        await broker.executed("sent")
        await broker.stop()
        execute("kept-1", "kept-2", "kept-3")
        (pin,) = (BPFFS / "daemoneye" / instance).iterdir()
        rings = Pinned(pin)
        await until(lambda: rings.rings["exec"].produced == rings.rings["exec"].position, "all of it in the spool")
        rings.close()
        await sensor.stop(signal.SIGKILL)
        shutil.rmtree(pin.parent)
        other = tmp_path / "boot_id"
        other.write_text(f"{uuid.uuid4()}\n")
        await broker.start()
        heard = len(broker.heartbeats)
        over = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
        await sensor.start("unshare", "--mount", "sh", "-c", over, str(other))
        await until(
            lambda: any(beat["boot_id"] == other.read_text().strip() for _, beat in broker.heartbeats[heard:]),
            "the sensor reads again",
        )
        execute("after")
        await broker.executed("after")
    finally:
        await sensor.stop()

    broker.batches[:] = once(broker.batches)
    epochs = list(dict.fromkeys(batch.envelope.epoch for batch in broker.batches))
    assert len(epochs) == 2
    boots = {batch.envelope.epoch: batch.envelope.boot_id for batch in broker.batches}
    assert boots == {epochs[0]: BOOT_ID.read_text().strip(), epochs[1]: other.read_text().strip()}
    ours = {"sent": 0, "kept-1": 0, "kept-2": 0, "kept-3": 0, "after": 1}
    for argument, at in ours.items():
        (event,) = [e for e in broker.events(event="process_exec") if argument in e["argv"]]
        assert event["boot_id"] == boots[epochs[at]]


async def test_a_step_of_the_wall_clock_moves_times_and_nothing_else(
    broker: NodeBroker, instance: str, tmp_path: Path
) -> None:
    config = configuration(policy("a"))
    await broker.configure(config)
    step = tmp_path / "step"
    step.write_text("0")
    prelude = f"import time; clock = time.time_ns; time.time_ns = lambda: clock() + int(open({str(step)!r}).read()); "
    sensor = Sensor(tmp_path, broker, instance, prelude=prelude, status_interval_s=1)
    await sensor.start()
    try:
        await broker.answered(config, lambda answer: answer.policies[0].state == "Active")
        for number, ahead in enumerate((0, HOUR_NS, -HOUR_NS)):
            new = step.with_suffix(".new")
            new.write_text(str(ahead))
            new.replace(step)  # a reader sees the one or the other
            await until(
                lambda: abs(broker.heartbeats[-1][1]["time"] - time.time_ns() - ahead) < HOUR_NS / 60,  # noqa: B023
                "the sensor follows its clock",
            )
            execute(f"step-{number}")
            event, _ = await broker.executed(f"step-{number}")
            expected = dt.datetime.now(dt.UTC) + dt.timedelta(microseconds=ahead / 1000)
            assert abs(dt.datetime.fromisoformat(event["time"][:26] + "+00:00") - expected) < MINUTE
            assert event["parent"]["pid"] == os.getpid(), "keys of processes are of the clock without steps"
            assert event["parent"]["argv"]
    finally:
        await sensor.stop()
    assert len({batch.envelope.epoch for batch in once(broker.batches)}) == 1
    assert broker.heartbeats[-1][1]["spool"]["lost_rows"] == 0
    assert "the wall clock stepped by 3600" in sensor.log.read_text()
    assert "the wall clock stepped by -7200" in sensor.log.read_text()
