"""kill -9 of broker and sensor in a loop: nothing that was committed is lost, and every batch takes effect once.

The file is its own sensor: run as a script it spools and publishes batches, going on where its predecessor stopped, and
notes each batch in a log of its own once the spool has it durably.
"""

import asyncio
import os
import random
import signal
import sys
import zlib
from pathlib import Path

import pytest

from daemoneye.broker.access import Access
from daemoneye.broker.admin import ensure_streams
from daemoneye.streams import declared, reserved_bytes
from daemoneye_cli.broker import Broker
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.spool import Spool

pytestmark = pytest.mark.integration

KILLS_EACH = 8
BETWEEN_S = (0.2, 0.7)
DEADLINE_S = 120.0
EPOCH = 0xE
LANES = ("urgent", "bulk")
ROWS = 5
NODE = "crash"
STREAMS = declared(events_max_bytes=512 << 20)


async def sensor(url, password, directory, mode):
    """Append and publish until killed (``mode`` run), or only publish what is left (``mode`` drain)."""
    spool = Spool(directory / "spool", max_bytes=512 << 20, segment_bytes=1 << 20)
    connection = Access((url,), user="sensor", password=password, inbox_prefix="_INBOX_sensor")
    publisher = Publisher(spool, connection, node=NODE, on_refused=lambda *refused: print("refused", refused))
    running = asyncio.create_task(publisher.run())
    if mode == "drain":
        drained = await publisher.drain(DEADLINE_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        spool.close()
        sys.exit(not drained)
    following = {}
    for lane in LANES:
        last = spool.last(lane, EPOCH)
        following[lane] = 0 if last is None else last.first_sequence + last.rows
    committed = os.open(directory / "committed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while not running.done():
        lines = b""
        for lane in LANES:
            # Random bytes: if numbers were ever given twice, the contents would tell.
            payload = os.urandom(random.choice([200, 5000, 60_000]))
            spool.append(payload, lane=lane, epoch=EPOCH, first_sequence=following[lane], rows=ROWS)
            lines += b"%s %d %d\n" % (lane.encode(), following[lane], zlib.crc32(payload))
            following[lane] += ROWS
        spool.sync()
        os.write(committed, lines)
        publisher.notify()
        await asyncio.sleep(0.005)
    await running


async def spawn(broker, directory, mode):
    password = broker.credentials("sensor").password
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, broker.url, password, str(directory), mode, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )


async def alive(directory, process):
    """Wait until a sensor that was just started commits its first batches: a busy machine takes seconds to start Python."""
    committed = directory / "committed"
    before = committed.stat().st_size if committed.exists() else 0
    async with asyncio.timeout(60):
        while process.returncode is None and (not committed.exists() or committed.stat().st_size == before):
            await asyncio.sleep(0.01)


async def stored(broker):
    """Return (lane, first sequence) -> checksums of the payloads, one for each copy in the stream."""
    client = await broker.connect("cli")
    try:
        jetstream = client.jetstream()
        state = (await jetstream.stream_info("DAEMONEYE_EVENTS_0")).state
        assert state.first_seq == 1
        copies: dict[tuple[str, int], list[int]] = {}
        for number in range(1, state.last_seq + 1):
            message = await jetstream.get_msg("DAEMONEYE_EVENTS_0", number, direct=True)
            node, epoch, lane, _, first = message.headers["Nats-Msg-Id"].split("/")
            assert (node, int(epoch, 16)) == (NODE, EPOCH)
            copies.setdefault((lane, int(first)), []).append(zlib.crc32(message.data))
        return copies
    finally:
        await client.close()


async def test_killing_broker_and_sensor_loses_nothing(tmp_path):
    from tests.support.ports import free_port  # the script that this file is, too, does not see it

    # A port that is nobody's while the broker is away.
    broker = Broker(tmp_path / "broker", node=NODE, port=free_port(), max_store_bytes=reserved_bytes(STREAMS))
    await broker.start()
    child = None
    try:
        client = await broker.connect("cli")
        await ensure_streams(client.jetstream(), STREAMS)
        await client.close()
        victims = ["broker", "sensor"] * KILLS_EACH
        random.shuffle(victims)
        child = await spawn(broker, tmp_path, "run")
        await alive(tmp_path, child)
        for victim in victims:
            # How long each lives is the experiment, not a wait for something.
            await asyncio.sleep(random.uniform(*BETWEEN_S))
            assert child.returncode is None, "the sensor ended by itself"
            process = broker.process if victim == "broker" else child
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            if victim == "broker":
                await broker.start()
            else:
                child = await spawn(broker, tmp_path, "run")
                await alive(tmp_path, child)
        await asyncio.sleep(random.uniform(*BETWEEN_S))
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        child = await spawn(broker, tmp_path, "drain")
        assert await child.wait() == 0, "not everything was acknowledged"
        copies = await stored(broker)
    finally:
        if child is not None and child.returncode is None:
            child.kill()
            await child.wait()
        await broker.stop()

    committed = {}
    for line in (tmp_path / "committed").read_text().splitlines():
        lane, first, checksum = line.split()
        assert (lane, int(first)) not in committed, "a sequence number was given twice"
        committed[lane, int(first)] = int(checksum)
    assert len(committed) > 2 * len(victims)
    lost = [place for place in committed if place not in copies]
    assert lost == []
    # However many copies of a batch the stream holds, they are the same batch, so skipping repetitions is exact.
    assert [place for place, checksums in copies.items() if len(set(checksums)) > 1] == []
    assert [place for place, checksum in committed.items() if copies[place][0] != checksum] == []
    # What was spooled in the moment of a kill may be in the stream without a line in the log, but leaves no gap.
    for lane in LANES:
        firsts = sorted(first for of, first in copies if of == lane)
        assert firsts == list(range(0, len(firsts) * ROWS, ROWS))
    repeated = sum(len(checksums) - 1 for checksums in copies.values())
    print(f"{len(committed)} committed batches, {len(victims) + 1} kills, 0 lost, {repeated} repeated in the stream")


if __name__ == "__main__":
    asyncio.run(sensor(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
