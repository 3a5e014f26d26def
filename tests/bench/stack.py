"""A broker and one sensor process, as `daemoneye run` starts them but without analytics and view: nothing else consumes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from daemoneye import envelope, streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.envelope import Batch, Envelope
from daemoneye_cli import configuration
from daemoneye_cli.broker import Broker
from tests.bench import machine

REPOSITORY: Final = Path(__file__).parents[2]
NODE: Final = "bench"
_STREAM: Final = subjects.EVENTS(0)
_MIB: Final = 1 << 20
_READY_S: Final = 60.0
_T = TypeVar("_T")


class Stack:
    """Broker and sensor in a directory.

    Attributes:
        last_status: The sensor's newest heartbeat.
        peak_child: Largest resident size of the sensor or a child of it (the compile child), once it ended.
    """

    def __init__(
        self,
        directory: Path,
        *,
        sensor: Sequence[str] = ("-m", "daemoneye_sensor"),
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Nothing starts before `start`.

        Args:
            directory: For the broker's store, the spool and the logs.
            sensor: Arguments for Python that run the sensor; `--config FILE` is added.
            settings: Settings beyond the defaults of one machine.
        """
        self.instance = f"bench-{os.getpid()}-{secrets.token_hex(3)}"
        self._directory = directory
        self._arguments = tuple(sensor)
        self._settings = settings or {}
        self._loop = asyncio.Runner()
        declared = streams.declared()
        self._streams = declared
        self._broker = Broker(
            directory / "broker", node=NODE, max_store_bytes=2 * streams.reserved_bytes(declared) + 64 * _MIB
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.last_status: dict[str, Any] = {}
        self.peak_child = 0
        self.peak_sensor = 0

    @property
    def sensor_pid(self) -> int:
        """The sensor."""
        assert self.process
        return self.process.pid

    @property
    def broker_pid(self) -> int:
        """The server."""
        assert self._broker.process
        return self._broker.process.pid

    def start(self, *, pass_fds: tuple[int, ...] = ()) -> None:
        """Start both; returns when the sensor has said that it is ready."""
        self._run(self._start(pass_fds))

    def stop(self) -> None:
        """End the sensor, which sends what it has first, then the broker; pins and loop are gone afterwards."""
        try:
            if self.process and self.process.returncode is None:
                self.peak_sensor = machine.peak_rss(self.process.pid)
                self._run(self._heard(self._end_sensor, "stopped", 20.0))
                self.peak_child = machine.end(self.process, signal.SIGTERM)
            self._run(self._broker.stop())
        finally:
            if self.process and self.process.returncode is None:
                self.process.kill()
                self.process.wait()
            self._loop.close()
            shutil.rmtree(Path("/sys/fs/bpf/daemoneye") / self.instance, ignore_errors=True)

    def last_sequence(self) -> int:
        """Number of the stream's newest message."""
        return self._run(self._with(self._last_sequence))

    def messages(self, after: int) -> list[bytes]:
        """Everything on the stream behind a message."""

        async def read(client: Client) -> list[bytes]:
            jetstream = client.jetstream()
            last = await self._last_sequence(client)
            return [(await jetstream.get_msg(_STREAM, seq)).data or b"" for seq in range(after + 1, last + 1)]

        return self._run(self._with(read))

    def newest(self, lane: str = "urgent") -> Envelope | None:
        """Envelope of the newest batch of a lane."""

        async def read(client: Client) -> Envelope | None:
            try:
                message = await client.jetstream().get_last_msg(_STREAM, subjects.events(0, NODE, lane))
            except NotFoundError:
                return None
            return envelope.peek(message.data or b"")

        return self._run(self._with(read))

    def stored_bytes(self) -> int:
        """Bytes that the stream takes in the broker's store, file headers of messages included."""

        async def read(client: Client) -> int:
            return int((await client.jetstream().stream_info(_STREAM)).state.bytes)

        return self._run(self._with(read))

    # ── inside the loop ─────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run(work)

    async def _with(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        client = await self._broker.connect("cli")
        try:
            return await work(client)
        finally:
            await client.close()

    async def _last_sequence(self, client: Client) -> int:
        return int((await client.jetstream().stream_info(_STREAM)).state.last_seq)

    async def _start(self, pass_fds: tuple[int, ...]) -> None:
        await self._broker.start()
        await self._with(lambda client: ensure_streams(client.jetstream(timeout=10), self._streams))
        config = self._directory / "sensor.json"
        config.write_text(json.dumps(self._configuration()))
        config.chmod(0o600)

        def spawn() -> None:
            command = [sys.executable, *self._arguments, "--config", str(config)]
            with (self._directory / "sensor.log").open("wb") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY, pass_fds=pass_fds
                )

        await self._heard(spawn, "ready", _READY_S)

    async def _heard(self, act: Callable[[], None], state: str, seconds: float) -> None:
        """Do something, then wait until the sensor reports a state."""
        heard = asyncio.Event()

        async def note(message: Msg) -> None:
            self.last_status = json.loads(message.data)
            if self.last_status["state"] == state:
                heard.set()

        async def listen(client: Client) -> None:
            await client.subscribe(subjects.status(NODE), cb=note)
            await client.flush()
            act()
            waiting = asyncio.create_task(heard.wait())
            for _ in range(int(seconds / 0.1)):
                await asyncio.wait([waiting], timeout=0.1)
                if heard.is_set() or self.process is None or machine.ended(self.process):
                    break
            waiting.cancel()

        await self._with(listen)
        if state == "ready" and not heard.is_set():
            raise RuntimeError(f"the sensor did not get ready: {(self._directory / 'sensor.log').read_text()[-4000:]}")

    def _end_sensor(self) -> None:
        """Ask only: waiting here would keep the loop from hearing the last heartbeat."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)

    def _configuration(self) -> dict[str, Any]:
        return {
            "node": NODE, "instance": self.instance, "state_dir": str(self._directory / "sensor"), "bpf_dir": str(configuration.bpf_directory()),
            "source": "ebpf", "nats": {**configuration.access(self._broker, "sensor"), "tls": None}, **self._settings,
        }  # fmt: skip


def decoded(messages: Sequence[bytes], lane: str = "urgent") -> list[tuple[Batch, int]]:
    """The batches of a lane among messages, each with its size in bytes."""
    return [(envelope.decode(data), len(data)) for data in messages if envelope.peek(data).lane == lane]


def lost_rows(messages: Sequence[bytes]) -> int:
    """Sum of the losses that the lane `loss` reports."""
    return sum(int(s.rows["count"].sum()) for batch, _ in decoded(messages, "loss") for s in batch.sections)
