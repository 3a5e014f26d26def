"""A process's connection to the broker: what the first one needs is read again until there is one."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg

from daemoneye.broker.connection import Connection
from daemoneye.broker.link import Link
from daemoneye_operator import pki
from tests.support.broker import Broker, running, until

pytestmark = pytest.mark.integration


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running(tmp_path) as broker:
        yield broker


@pytest.mark.parametrize("renewed", ["password_file", "tls_ca"])
async def test_a_first_connection_is_made_with_what_was_renewed_meanwhile(
    broker: Broker, caplog: pytest.LogCaptureFixture, renewed: str
):
    """A Secret that is made anew reaches a pod a minute after the broker."""
    await broker.ready()
    access, stop = broker.access("analytics"), asyncio.Event()
    path: Path = getattr(access, renewed)
    good = path.read_bytes()
    path.write_bytes(b"former" if renewed == "password_file" else _another_authority(broker))
    link = Link(access, "test", stop)
    connecting = asyncio.create_task(link.connect())
    await until("the refusal", lambda: "broker tls://" in caplog.text)
    path.write_bytes(good)
    async with asyncio.timeout(60):
        client = await connecting
    assert client is not None
    assert client.is_connected
    await link.close(client)


async def test_a_first_connection_is_given_up_when_the_process_ends(broker: Broker, caplog: pytest.LogCaptureFixture):
    broker.stop()
    stop = asyncio.Event()
    connecting = asyncio.create_task(Link(broker.access("analytics"), "test", stop).connect())
    await until("the first attempt", lambda: "broker tls://" in caplog.text)
    stop.set()
    async with asyncio.timeout(60):
        assert await connecting is None


async def test_a_connection_that_tls_has_left_already_is_closed_without_a_word(broker: Broker):
    """Seen when the broker went at the same moment: an error there would end the process."""
    await broker.ready()
    link = Link(broker.access("analytics"), "test", asyncio.Event())
    client: Any = await link.connect()
    transport = client._transport._io_writer.transport
    transport.close()
    transport.close()  # as a reader and a writer do that both notice: then it forgets its protocol
    client._flusher_task.cancel()
    client._pending, client._pending_data_size = [b"PING\r\n"], 6
    await link.close(client)
    assert client.is_closed


async def test_who_is_slow_himself_does_not_take_the_broker_for_silent(broker: Broker):
    """Analytics that is behind reads less at a time than the broker sends: the answer to its ping waits behind that for longer than two pings."""
    await broker.ready()
    lost, read = asyncio.Event(), 0

    async def disconnected() -> None:
        lost.set()

    async def slowly(_: Msg) -> None:
        nonlocal read
        read += 1
        await asyncio.sleep(0)
        time.sleep(0.02)  # what it does with a message, and nothing else goes on meanwhile

    options = broker.access("operator").options() | {
        "user": "onlooker",
        "password": "onlooker",
        "inbox_prefix": b"_INBOX",
    }
    client = Connection()
    await client.connect(**options, ping_interval=0.5, disconnected_cb=disconnected)
    await client.subscribe("slow.>", cb=slowly)
    await client.flush()
    sender = await broker.onlooker()
    # Two seconds of his, of one that matters; nats-server itself lets go of who takes more than ten for what it wrote.
    for _ in range(100):
        await sender.publish("slow.1", bytes(256 << 10))
    await sender.flush()
    async with asyncio.timeout(60):
        while read < 100 and not lost.is_set():
            await asyncio.sleep(0)
    assert not lost.is_set()
    await sender.close()
    await client.close()


async def test_an_answer_that_comes_too_late_ends_nothing(broker: Broker):
    await broker.ready()
    client = Connection()
    await client.connect(**broker.access("operator").options())
    broker.silence()
    with pytest.raises(nats.errors.TimeoutError):
        await client.flush(1)
    broker.speak()
    async with asyncio.timeout(60):
        await client.flush()
        await client.jetstream().account_info()
    await client.close()


def _another_authority(broker: Broker) -> bytes:
    return pki.authority(None, broker.settings.fullname, dt.datetime.now(dt.UTC)).certificate
