"""The live view on a real pseudo-terminal."""

import asyncio
import contextlib
import fcntl
import io
import os
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from daemoneye_cli.show import live
from daemoneye_cli.tally import Tally

pytestmark = pytest.mark.integration

FAKES = Path(__file__).parent / "fakes"


@pytest.mark.parametrize("node", ["node-4", "lack-1"])
async def test_it_shows_findings_and_gives_the_terminal_back(tmp_path, node):
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    before = termios.tcgetattr(theirs)
    path = os.pathsep.join([str(FAKES), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemoneye_cli", "run", "--state", str(tmp_path), "--node", node),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", "PYTHONWARNINGS": "error"},
    )
    shown = b""
    ended = asyncio.ensure_future(process.wait())
    os.set_blocking(ours, False)
    async with asyncio.timeout(60):
        while not ended.done():
            try:
                shown += os.read(ours, 65_536)
            except BlockingIOError:
                await asyncio.sleep(0.05)
            if b"findings 4" in shown:
                os.write(ours, b"jkq")
                os.write(ours, b"q")
    assert process.returncode == (0 if node == "node-4" else 3)
    with contextlib.suppress(BlockingIOError):
        while True:
            shown += os.read(ours, 65_536)
    screen, _, after = shown.partition(b"\x1b[?1049l")
    assert b"\x1b[?1049h" in screen
    assert (b"4 findings" if node == "node-4" else b"no BTF here") in after
    for hostile in (b"\x1b[31mred", b"\x1b]0;", b"\x1b[2J\x1b[2J"):
        assert hostile not in shown
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


async def test_a_frame_that_cannot_be_drawn_ends_the_run_and_does_not_leave_it_standing(monkeypatch):
    ended = asyncio.get_running_loop().create_future()

    def broken(*_, **__):
        raise KeyError("severity")

    monkeypatch.setattr(live, "render", broken)
    console = Console(file=io.StringIO(), force_terminal=True)
    view = live.LiveView(Tally("n", time.monotonic), on_quit=ended.set_result, console=console)
    await view.start()
    async with asyncio.timeout(60):
        assert repr(await ended) == "KeyError('severity')"
    await view.close()


async def test_the_chosen_finding_is_one_that_is_still_there():
    tally = Tally("n", time.monotonic)
    view = live.LiveView(tally, on_quit=lambda: None, console=Console(file=io.StringIO()))
    tally.add_finding({})
    view._selected = 1
    for _ in range(3 * (tally.findings.maxlen or 0)):
        tally.add_finding({})
        await view.on_finding({})
    assert view._selected == len(tally.findings) - 1
