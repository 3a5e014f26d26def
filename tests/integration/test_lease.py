"""Who of several replicas has a shard, and what whoever had it may still write, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamState

from daemoneye import subjects
from daemoneye_analytics.lease import Lease, take_one
from daemoneye_analytics.slots import Slots, Taken
from tests.support.analytics import Bench
from tests.support.ports import free_port

pytestmark = pytest.mark.integration
TERM_S = 5.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, free_port(), cluster=True)
    await made.start_broker()
    await made.connect()
    await made.add_cluster_streams()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[Client]:
    made = await nats.connect(
        f"nats://127.0.0.1:{bench.port}", user="analytics", password="secret", inbox_prefix=b"_INBOX_analytics"
    )
    yield made
    await made.close()


def lease(client: Client, holder: str) -> Lease:
    return Lease(client, 0, holder, TERM_S)


async def took(one: Lease, within: float = 30.0) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    assert await asyncio.wait_for(take_one([one], asyncio.Event()), within)
    return time.monotonic() - began


async def test_one_has_it_and_the_next_one_when_it_is_given_back(client: Client) -> None:
    first, second = lease(client, "a"), lease(client, "b")
    await took(first)
    assert first.holds()
    async with first.kept(asyncio.Event()):
        with pytest.raises(TimeoutError):
            await took(second, 2 * TERM_S)
        assert (second.other, second.holds(), first.holds()) == ("a", False, True)
    assert not first.holds()
    assert await took(second) < TERM_S
    assert second.holds()


async def test_of_many_who_want_it_at_once_one_gets_it(client: Client) -> None:
    stop = asyncio.Event()
    many = [asyncio.create_task(take_one([lease(client, str(number))], stop)) for number in range(8)]
    done, pending = await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    took = [*(task.result() for task in done), *await asyncio.gather(*pending)]
    assert sum(one is not None for one in took) == 1


async def test_two_who_want_any_of_two_get_one_each(client: Client) -> None:
    stop = asyncio.Event()
    wanting = [[Lease(client, part, who, TERM_S) for part in range(2)] for who in "abc"]
    tasks = [asyncio.create_task(take_one(leases, stop)) for leases in wanting]
    async with asyncio.timeout(60):
        while sum(task.done() for task in tasks) < 2:
            await asyncio.sleep(0.01)
    stop.set()
    took = [one for one in await asyncio.gather(*tasks) if one]
    assert sorted(one.key for one in took) == ["analytics.0", "analytics.1"]


async def test_who_falls_silent_is_sure_of_it_for_less_than_others_wait(client: Client) -> None:
    silent, second = lease(client, "a"), lease(client, "b")
    await took(silent)
    waiting = asyncio.create_task(took(second, TERM_S + 30))
    while silent.holds():
        assert not waiting.done()
        await asyncio.sleep(0.01)
    assert await waiting >= TERM_S
    # It wakes, and is told by its next word.
    async with silent.kept(asyncio.Event()) as ending:
        await asyncio.wait_for(ending.wait(), 60)
    assert silent.lost.is_set()
    assert not silent.holds()
    assert second.holds() or second.other == "", "what it gave back was not the other's"


async def test_who_was_silent_goes_on_if_nobody_took_its_place(client: Client) -> None:
    one = lease(client, "a")
    await took(one)
    while one.holds():
        await asyncio.sleep(0.01)
    async with one.kept(asyncio.Event()):
        async with asyncio.timeout(60):
            while not one.holds():
                await asyncio.sleep(0.01)
        assert not one.lost.is_set()


async def test_a_container_that_is_started_again_need_not_wait_for_itself(client: Client) -> None:
    killed, again = lease(client, "a"), lease(client, "a")
    await took(killed)
    assert await took(again) < TERM_S
    async with killed.kept(asyncio.Event()) as ending:
        await asyncio.wait_for(ending.wait(), 60)
    assert again.holds()


async def test_a_broker_that_forgot_it_lets_its_holder_go_on(bench: Bench, client: Client) -> None:
    first, second = lease(client, "a"), lease(client, "b")
    await took(first)
    async with first.kept(asyncio.Event()):
        waiting = asyncio.create_task(take_one([second], asyncio.Event()))
        await bench.eventually(lambda: second.other == "a")
        await bench.jetstream.purge_stream(f"KV_{subjects.LEASES_BUCKET}")
        await asyncio.wait({waiting}, timeout=2 * TERM_S)
        assert not waiting.done()
        assert first.holds()
        waiting.cancel()


async def test_who_was_halted_without_its_clock_asks_before_it_does_what_cannot_be_undone(client: Client) -> None:
    # A container of the same pod need not wait: so there are two that are sure, as after a halt of a virtual machine.
    halted, other = (Lease(client, 0, "a", 60) for _ in range(2))
    await took(halted)
    assert await halted.confirm()
    await took(other)
    assert halted.holds()
    assert other.holds()
    assert not await halted.confirm()
    assert halted.lost.is_set()
    assert not halted.holds()
    assert await other.confirm()
    await other.give_back()
    assert not await other.confirm(), "what was given back is not taken again"


async def test_a_newcomer_may_take_a_lease_that_the_broker_forgot_and_its_holder_then_places_nothing(
    bench: Bench, client: Client
) -> None:
    former, newcomer = (Lease(client, 0, holder, 60) for holder in "ab")
    await took(former)
    await bench.jetstream.purge_stream(f"KV_{subjects.LEASES_BUCKET}")
    await took(newcomer)
    assert not await former.confirm()
    assert former.lost.is_set()


async def test_who_confirms_after_the_broker_forgot_it_has_it_again(bench: Bench, client: Client) -> None:
    first = Lease(client, 0, "a", 60)
    await took(first)
    await bench.jetstream.purge_stream(f"KV_{subjects.LEASES_BUCKET}")
    assert not await first.confirm(), "the revision that it knew is gone"
    assert await first.confirm()
    assert first.holds()


async def test_a_place_that_somebody_else_wrote_is_not_written_over(bench: Bench, client: Client) -> None:
    first, second = Slots(client.jetstream()), Slots(client.jetstream())
    await first.look("x")
    await first.put("x", b"1" * 300_000)
    await second.look("x")
    await second.put("x", b"2" * 300_000)
    with pytest.raises(Taken):
        await first.put("x", b"3" * 300_000)
    bucket = await bench.jetstream.object_store(subjects.ANALYTICS_BUCKET)
    assert (await bucket.get("x")).data == b"2" * 300_000
    # Whoever may write nevertheless knows now what lies there.
    await first.put("x", b"4" * 10)
    assert (await bucket.get("x")).data == b"4" * 10
    state: StreamState = (await bench.jetstream.stream_info(f"OBJ_{subjects.ANALYTICS_BUCKET}")).state
    assert state.messages == 2, "an entry and a chunk: nothing is left of what was replaced or refused"
