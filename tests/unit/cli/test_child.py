"""Supervision of real, tiny processes."""

import asyncio
import os
import signal
import sys

import pytest

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError
from daemoneye_cli import tether
from daemoneye_cli.child import Backoff, Child

QUICK = Backoff(first=0.01, most=0.05, steady=60, attempts_unready=4)


@pytest.fixture
def make(tmp_path):
    """Makes a child that runs Python code; its lines are in ``lines``."""

    def child(code: str, *, restart: bool = True) -> Child:
        made = Child(
            "toy",
            (sys.executable, "-c", code),
            tmp_path / "toy.log",
            on_line=lines.append,
            restart=restart,
            backoff=QUICK,
        )
        made.lines = lines  # type: ignore[attr-defined]
        return made

    lines: list = []
    return child


async def test_a_crashing_child_is_started_again_until_it_works(make, tmp_path):
    mark = tmp_path / "mark"
    child = make(
        f"import os, signal, sys\nopen({str(mark)!r}, 'a').write('x')\n"
        f"if os.path.getsize({str(mark)!r}) < 3: sys.exit('ValueError: too early')\n"
        "print('WARNING it works', flush=True); signal.pause()"
    )
    running = asyncio.create_task(child.run())
    async with asyncio.timeout(60):
        while not any("it works" in line.text for line in child.lines):
            await asyncio.sleep(0.02)
    assert child.restarts == 2
    assert "ended with status 1 (ValueError: too early); starting it again in 0.01 s" in child.lines[1].text
    await child.stop(5)
    await running
    assert child.process.returncode == -signal.SIGTERM


async def test_a_child_that_never_works_is_given_up(make):
    child = make("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(DaemonEyeError, match=r"toy was ended by Killed \(signal 9\) 4 times and never was ready"):
        await child.run()


@pytest.mark.parametrize(("code", "error"), [(2, ConfigError), (3, MachineError)])
async def test_status_2_and_3_are_final_and_carry_the_childs_words(make, code, error):
    child = make(f"import sys; print('daemoneye-toy: no such thing', file=sys.stderr); sys.exit({code})")
    with pytest.raises(error, match="toy: no such thing"):
        await child.run()
    assert child.restarts == 0


async def test_a_child_that_may_end_ends_well_or_with_an_error(make):
    await make("pass", restart=False).run()
    with pytest.raises(DaemonEyeError, match="toy ended with status 1: it said nothing"):
        await make("raise SystemExit(1)", restart=False).run()


async def test_a_child_that_does_not_listen_is_killed(make):
    child = make(
        "import signal; signal.signal(15, signal.SIG_IGN); print('WARNING deaf', flush=True)\nwhile 1: signal.pause()"
    )
    running = asyncio.create_task(child.run())
    async with asyncio.timeout(60):
        while not child.lines:
            await asyncio.sleep(0.02)
    await child.stop(0.1)
    await running
    assert child.process.returncode == -signal.SIGKILL
    assert "killed" in child.lines[-1].text


async def test_stop_during_the_wait_for_a_restart(make):
    child = make("raise SystemExit(1)")
    child._backoff = Backoff(first=60)
    running = asyncio.create_task(child.run())
    async with asyncio.timeout(60):
        while not any("starting it again" in line.text for line in child.lines):
            await asyncio.sleep(0.02)
        await child.stop(1)
        await running


async def test_lines_are_kept_in_the_log_and_a_flood_without_newline_is_cut(make, tmp_path):
    child = make("import sys; sys.stdout.write('x' * 300_000 + '\\n\\x1b[31mlast\\n')", restart=False)
    await child.run()
    assert child.lines[-1].text == "\\x1b[31mlast"
    assert max(len(line.text) for line in child.lines) <= 2 * 64 * 1024
    assert sum(line.text.count("x") for line in child.lines[:-1]) == 300_000
    assert (tmp_path / "toy.log").read_bytes().endswith(b"\x1b[31mlast\n")


async def test_a_child_dies_with_its_supervisor(tmp_path):
    """The supervisor is killed; the kernel ends the child, whose pipe then closes."""
    code = (
        "import subprocess, sys, os, signal\n"
        f"child = subprocess.Popen([sys.executable, '-IS', {tether.__file__!r}, str(os.getpid()), sys.executable, '-c',"
        " 'import signal; print(\"up\", flush=True); signal.pause()'])\n"
        "signal.pause()"
    )
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert supervisor.stdout is not None
    async with asyncio.timeout(60):
        assert await supervisor.stdout.readline() == b"up\n"
        supervisor.kill()
        assert await supervisor.stdout.read() == b""  # the child held the other end
        await supervisor.wait()


async def test_a_tethered_program_does_not_start_for_a_parent_that_has_gone():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-IS",
        tether.__file__,
        "1",
        sys.executable,
        "-c",
        "print('ran')",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output == b""
    assert process.returncode == 128 + signal.SIGTERM
    assert os.getpid() != 1
