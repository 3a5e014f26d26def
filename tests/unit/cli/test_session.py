"""`daemoneye run` as a process, with a real broker and stand-ins for sensor and analytics (fakes/)."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

FAKES = Path(__file__).parent / "fakes"
LIMIT_S = 60


class Run:
    """A running command: its JSON lines as they come, and how it ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, kind: str, times: int = 1, **fields: object) -> dict[str, Any]:
        """Read on until so many lines of a kind have come."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while raw := await self.process.stdout.readline():
                line: dict[str, Any] = json.loads(raw)
                self.lines.append(line)
                if line["kind"] == kind and all(line[key] == value for key, value in fields.items()):
                    times -= 1
                    if not times:
                        return line
        pytest.fail(f"no {kind} in {[entry['kind'] for entry in self.lines]}")

    async def end(self) -> tuple[int, str]:
        """Read to the end; give status and stderr."""
        async with asyncio.timeout(LIMIT_S):
            output, errors = await self.process.communicate()
        self.lines += [json.loads(raw) for raw in output.splitlines()]
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]


@pytest.fixture
def run(tmp_path):
    """Starts the command; at the end of the test it does not run any more."""

    @contextlib.asynccontextmanager
    async def start(*arguments: str, command: str = "run", output: int = asyncio.subprocess.PIPE) -> AsyncIterator[Run]:
        path = os.pathsep.join([str(FAKES), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "daemoneye_cli", command, "--state", str(tmp_path / "state"), "-o", "json", *arguments),
            stdout=output,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"},
        )  # fmt: skip
        try:
            yield Run(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return start


async def test_a_replay_ends_by_itself_with_everything_shown(run, tmp_path):
    recording = tmp_path / "recording"
    recording.touch()
    async with run("--replay", str(recording), "--node", "node-25", "--events") as running:
        status, errors = await running.end()
    assert (status, errors) == (0, "")
    assert running.lines[0]["state"] == "ready"
    assert [event["pid"] for event in running.of("event")] == list(range(4000, 4025))
    assert [finding["id"] for finding in running.of("finding")] == [f"f{number}" for number in range(25)]
    assert running.lines[-1]["kind"] == "status"
    assert running.lines[-1]["events"] == running.lines[-1]["findings"] == 25
    assert not list((tmp_path / "state").glob("replay-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
async def test_a_signal_ends_it_well_and_leaves_no_process(run, tmp_path, number):
    async with run("--node", "node-2") as running:
        await running.until("finding", 2)
        running.process.send_signal(number)
        status, errors = await running.end()
    assert (status, errors) == (0, "")
    assert not (tmp_path / "state/run/cli.json").exists()
    assert not running.of("event")
    assert await _processes_of(tmp_path) == []


async def test_for_ends_it_after_so_long(run):
    async with run("--node", "node-1", "--for", "0.5") as running:
        status, _ = await running.end()
    assert status == 0
    assert len(running.of("finding")) == 1


async def test_a_second_run_shows_only_what_is_new(run):
    for _ in range(2):
        async with run("--node", "node-3", "--for", "0.5", "--events") as running:
            assert (await running.end())[0] == 0
        assert (len(running.of("event")), len(running.of("finding"))) == (3, 3)


async def test_a_sensor_that_crashes_is_started_again_and_counted(run):
    async with run("--node", "crash-1", "--for", "0.2") as running:
        status, errors = await running.end()
    assert status == 0
    assert "sensor: warning: WARNING about to crash" in errors
    assert running.lines[-1]["restarts"] == {"broker": 0, "sensor": 1, "analytics": 0}


async def test_a_machine_that_lacks_something_is_status_3_with_an_offer(run):
    async with run("--node", "lack-1") as running:
        status, errors = await running.end()
    assert status == 3
    assert "no BTF here (fix: another kernel)" in errors
    assert "daemoneye run --replay " in errors
    assert running.lines == []


async def test_the_broker_may_be_killed_on_the_way(run, tmp_path):
    async with run("--node", "tick-1", "--events") as running:
        await running.until("event", 5)
        [broker] = await _processes_of(tmp_path, "nats-server")
        os.kill(broker, signal.SIGKILL)
        await running.until("event", 20)
        running.process.send_signal(signal.SIGTERM)
        status, errors = await running.end()
    assert status == 0
    assert "broker: warning: ended with status -9" in errors
    assert running.lines[-1]["restarts"]["broker"] == 1
    pids = [event["pid"] for event in running.of("event")]
    assert pids == list(range(4000, 4000 + len(pids)))
    ids = [finding["id"] for finding in running.of("finding")]
    assert len(ids) == len(set(ids))


async def test_a_reader_that_goes_away_is_no_error(run):
    async with run("--node", "node-500", "--events") as running:
        await running.until("event")
        running.process.stdout._transport.close()
        async with asyncio.timeout(LIMIT_S):
            assert await running.process.wait() == 0
            assert await running.process.stderr.read() == b""


@pytest.mark.slow
async def test_a_reader_that_sleeps_does_not_keep_it_from_ending(run):
    reading, writing = os.pipe()
    async with run("--node", "node-500", "--events", output=writing) as running:
        os.close(writing)
        async with asyncio.timeout(LIMIT_S):
            while _waiting(reading) < 40_000:  # of 65,536 less what is unused of each page
                await asyncio.sleep(0.05)
            running.process.send_signal(signal.SIGTERM)
            assert await running.process.wait() == 0
    os.close(reading)


def _waiting(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_reading_a_running_instance(run):
    async with run("--node", "node-30") as running:
        await running.until("finding", 30)
        async with run("--last", "7", command="events") as events:
            assert (await events.end())[0] == 0
        async with run(command="findings") as findings:
            assert (await findings.end())[0] == 0
        async with run("--last", "1", "--follow", command="findings") as following:
            await following.until("finding")
            following.process.send_signal(signal.SIGINT)
            assert (await following.end()) == (0, "")
        async with run() as second:
            status, errors = await second.end()
    assert [event["pid"] for event in events.lines] == list(range(4023, 4030))
    assert [finding["id"] for finding in findings.lines] == [f"f{number}" for number in range(10, 30)]
    assert [finding["id"] for finding in following.lines] == ["f29"]
    assert status == 1
    assert "runs daemoneye with" in errors


async def _processes_of(directory: Path, name: str = "") -> list[int]:
    """Processes whose command line names a path below ``directory``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if str(directory).encode() in line and name.encode() in line:
                found.append(int(path.parent.name))
    return found
