"""The sensor's end of the dissecting process: budget, deaths, hangs, and an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from scapy.layers.inet import IP, TCP

from daemoneye_sensor import dissector
from daemoneye_sensor.dissector import DissectError, Dissector
from tests.support.dissecting import ether, table

FRAME = bytes(ether() / IP() / TCP(dport=443) / b"not tls")
READY = "import sys,struct,time\nh=b'{\"ready\":true}'\nsys.stdout.buffer.write(struct.pack('>II',len(h),0)+h); sys.stdout.flush()\n"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def make(monkeypatch):
    # A busy machine may take its time to start one, to answer and to bury it.
    for limit in ("READY_S", "DISSECT_S", "_END_S"):
        monkeypatch.setattr(dissector, limit, 60.0)
    made: list[Dissector] = []

    def one(*arguments, **options):
        made.append(Dissector(*arguments, **options))
        return made[-1]

    yield one
    for each in made:
        await each.close()


async def test_it_starts_on_demand_and_is_started_again_after_it_was_killed(make):
    scapy = make()
    assert scapy.pid == 0
    found = await scapy.dissect(FRAME)
    assert [layer["name"] for layer in found["layers"]][:3] == ["Ethernet", "IP", "TCP"]
    first = scapy.pid
    os.kill(first, signal.SIGKILL)
    while scapy.pid:
        await asyncio.sleep(0.01)
    blocks = await scapy.pcapng({"frames": 1, "interfaces": [{"name": "eth0"}]}, table([(1, FRAME, 0, 0)]))
    assert blocks[:4] == b"\n\r\r\n"
    assert scapy.pid not in (0, first)
    assert scapy.started == 2
    pid = scapy.pid
    await scapy.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_no_more_than_its_budget_is_dissected(make):
    clock = Clock()
    scapy = make(rate=3, clock=clock)
    answers = [await scapy.dissect(FRAME) for _ in range(5)]
    assert [answer is not None for answer in answers] == [True, True, True, False, False]
    clock.now = 1 / 3
    assert await scapy.dissect(FRAME)
    assert (scapy.dissected, scapy.skipped, scapy.failed) == (4, 2, 0)


async def test_a_frame_that_it_dies_of_costs_one_answer(make, monkeypatch):
    scapy = make()
    assert await scapy.dissect(FRAME)
    asked = asyncio.create_task(scapy.dissect(FRAME))
    os.kill(scapy.pid, signal.SIGKILL)
    await asked  # an answer or none, but an end
    assert await scapy.dissect(FRAME)


async def test_one_that_hangs_is_killed_and_the_loop_goes_on_meanwhile(make, monkeypatch):
    monkeypatch.setattr(dissector, "DISSECT_S", 2.0)
    scapy = make([sys.executable, "-c", f"{READY}time.sleep(60)"])
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    turning = asyncio.create_task(turn())
    assert await scapy.dissect(FRAME) is None
    turning.cancel()
    assert turns >= 10
    assert (scapy.pid, scapy.failed) == (0, 1)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["/nonexistent"], id="absent"),
        pytest.param([sys.executable, "-c", ""], id="says nothing"),
        pytest.param([sys.executable, "-c", "print('x' * 100)"], id="says something else"),
    ],
)
async def test_one_that_does_not_start_is_not_tried_at_once_again(make, command):
    clock = Clock()
    scapy = make(command, clock=clock)
    for _ in range(3):
        with pytest.raises(DissectError, match="start"):
            await scapy.pcapng({"frames": 0}, b"")
    assert scapy.started == 1
    clock.now = 60
    with pytest.raises(DissectError):
        await scapy.pcapng({"frames": 0}, b"")
    assert scapy.started == 2


@pytest.mark.parametrize(
    "answer",
    [
        '{"ok":true,"layers":[1]}',
        '{"ok":true,"layers":[{"name":["TCP"]}]}',
        '{"ok":true,"layers":[{"name":"TCP","fields":[1]}]}',
        '{"ok":true,"layers":{}}',
        pytest.param("[" * 60_000, id="deep"),
    ],
)
async def test_an_answer_that_is_none_costs_itself_alone(make, answer):
    code = f"{READY}h={answer!r}.encode(); sys.stdout.buffer.write(struct.pack('>II',len(h),0)+h); sys.stdout.flush(); time.sleep(60)"
    scapy = make([sys.executable, "-c", code])
    assert await scapy.dissect(FRAME) is None
    assert (scapy.dissected, scapy.failed) == (0, 1)


async def test_what_is_refused_is_an_error_and_the_process_stays(make):
    scapy = make()
    with pytest.raises(DissectError, match="interface"):
        await scapy.pcapng({"frames": 1}, table([(1, FRAME, 0, 0)]))
    pid = scapy.pid
    with pytest.raises(DissectError, match="too much"):
        await scapy.pcapng({"frames": 1}, bytes(dissector.MAX_BODY + 1))
    assert await scapy.dissect(FRAME)
    assert scapy.pid == pid


async def test_it_ends_when_nothing_is_asked(make):
    scapy = make(idle=0.1)
    assert await scapy.dissect(FRAME)
    async with asyncio.timeout(60):
        while scapy.pid:
            await asyncio.sleep(0.01)
    assert await scapy.dissect(FRAME)


async def test_whoever_stops_waiting_leaves_no_answer_behind(make):
    scapy = make()
    await scapy.dissect(FRAME)
    asked = asyncio.create_task(scapy.pcapng({"frames": 0}, b""))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (await scapy.dissect(FRAME))["layers"]
