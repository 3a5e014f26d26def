"""Standard output that is slow, closed or stuck."""

import asyncio
import os

import pytest

from daemoneye_cli.show.writer import LineWriter, OutputClosed


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    ends = {"read": reading, "write": writing}
    yield ends
    for descriptor in ends.values():
        os.close(descriptor)


async def test_a_reader_that_has_gone_ends_it(pipe):
    writer = LineWriter(pipe["write"])
    await writer.write("one\n")
    assert os.read(pipe["read"], 100) == b"one\n"
    os.close(pipe.pop("read"))
    with pytest.raises(OutputClosed):
        await writer.write("two\n")
    writer.abandon()


async def test_a_reader_that_sleeps_holds_up_nobody(pipe):
    writer = LineWriter(pipe["write"])
    task = asyncio.create_task(writer.write("x" * 1_000_000))
    done, _ = await asyncio.wait([task], timeout=0.3)  # the loop goes on although the pipe is full
    assert not done
    writer.abandon()
    with pytest.raises(OutputClosed):
        await task


async def test_a_slow_reader_gets_everything_in_order(pipe):
    writer = LineWriter(pipe["write"])
    text = "".join(f"{number}\n" for number in range(100_000))
    task = asyncio.create_task(writer.write(text))
    got = b""
    while len(got) < len(text):
        got += await asyncio.to_thread(os.read, pipe["read"], 65_536)
    await task
    assert got.decode() == text
    writer.abandon()


async def test_text_that_is_no_unicode_is_written_nevertheless(pipe):
    writer = LineWriter(pipe["write"])
    await writer.write("\udc80\n")
    assert os.read(pipe["read"], 100) == b"\\udc80\n"
    writer.abandon()


async def test_a_descriptor_that_is_closed():
    writer = LineWriter(999)
    with pytest.raises(OutputClosed):
        await writer.write("x")
    writer.abandon()
