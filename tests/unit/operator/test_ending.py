"""Parts that run side by side end together."""

from __future__ import annotations

import asyncio

import pytest

from daemoneye_operator.ending import run_until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemoneye.ending._WAIT_S", 0.05)


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_part_that_misses_its_cancellation_ends_with_the_others():
    stop, missed = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            missed.set()
        await for_ever()

    async def stopping() -> None:
        stop.set()
        await for_ever()

    async with asyncio.timeout(60):
        await run_until(stop, deaf(), stopping())
    assert missed.is_set()


async def test_an_error_of_a_part_ends_all_and_is_told():
    ended = asyncio.Event()

    async def failing() -> None:
        raise KeyError("nodeName")

    async def other() -> None:
        try:
            await for_ever()
        finally:
            ended.set()

    async with asyncio.timeout(60):
        with pytest.raises(KeyError, match="nodeName"):
            await run_until(asyncio.Event(), other(), failing())
    assert ended.is_set()


async def test_a_part_that_is_done_ends_the_others():
    async def done() -> None:
        pass

    async with asyncio.timeout(60):
        await run_until(asyncio.Event(), for_ever(), done())


async def test_what_goes_wrong_at_the_end_is_no_failure():
    stop = asyncio.Event()

    async def clumsy() -> None:
        stop.set()
        try:
            await for_ever()
        finally:
            raise OSError("the connection was closed already")

    async with asyncio.timeout(60):
        await run_until(stop, clumsy())


async def test_nobody_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("daemoneye.ending._TIMES", 2)
    stop, free = asyncio.Event(), asyncio.Event()
    stop.set()

    async def immortal() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    async with asyncio.timeout(60):
        await run_until(stop, immortal())
    free.set()
    await asyncio.sleep(0)
