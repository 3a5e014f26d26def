"""One supervised process: started, listened to, started again after a crash, and ended.

Responsible for one child's life and its stderr; not for the order between children (:mod:`daemoneye_cli.supervisor`).
A child shares DaemonEye's exit status: 2 and 3 say that another start would end the same way, so they are final.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError
from daemoneye_cli import tether
from daemoneye_cli.logfile import MAX_LINE, LogFile, LogLine

_TAIL: Final = 20


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before another start: doubled from ``first`` up to ``most``, forgotten after ``steady`` seconds."""

    first: float = 0.5
    most: float = 30.0
    steady: float = 60.0
    attempts_unready: int = 5
    """Crashes in a row, before the child was ever ready, after which it is given up."""

    def delay(self, crashes: int) -> float:
        """Give the wait after that many crashes in a row, counted from 1."""
        return min(self.most, self.first * 2.0 ** min(crashes - 1, 30))


class Child:
    """A process that is kept running until :meth:`stop`.

    ``ready`` is set by whoever hears from the child that it works. ``restarts`` counts starts after the first.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        on_line: Callable[[LogLine], None],
        restart: bool = True,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.ready = False
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._argv = tuple(argv)
        self._log = LogFile(log)
        self._on_line = on_line
        self._restart = restart
        self._backoff = backoff or Backoff()
        self._tail: deque[LogLine] = deque(maxlen=_TAIL)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep the process running; returns when it ended as it should.

        Raises :class:`ConfigError` or :class:`MachineError` when the child ends with their status,
        :class:`DaemonEyeError` when it keeps crashing.
        """
        clock = asyncio.get_running_loop().time
        crashes = 0
        try:
            while not self._stopping.is_set():
                started = clock()
                code = await self._run_once()
                if self._stopping.is_set() or (code == 0 and not self._restart):
                    return
                crashes = 1 if clock() - started > self._backoff.steady else crashes + 1
                self._give_up_if_final(code, crashes)
                delay = self._backoff.delay(crashes)
                self._say("warning", f"{_ended(code)} ({self.message()}); starting it again in {delay:g} s")
                try:
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
                except TimeoutError:
                    self.restarts += 1
        finally:
            self._log.close()

    async def stop(self, grace: float) -> None:
        """Ask the process to end (SIGTERM), and end it (SIGKILL) if it has not within ``grace`` seconds."""
        self._stopping.set()
        process = self.process
        if process is None or process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            self._say("warning", f"did not end within {grace:g} s of being asked: killed")
            _signal(process, signal.SIGKILL)
            await process.wait()

    def message(self) -> str:
        """Give the child's last words: its last errors, or else its last line."""
        traceback = any(line.text.startswith("Traceback ") for line in self._tail)
        errors = [line.text for line in self._tail if line.level in {"error", "fatal"}]
        if errors and not traceback:
            return errors[-1]
        return self._tail[-1].text if self._tail else "it said nothing"

    async def _run_once(self) -> int:
        self._tail.clear()
        self.process = process = await asyncio.create_subprocess_exec(
            *tether.command(self._argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is for us: we end the children in order
        )
        assert process.stdout is not None  # noqa: S101 - for mypy: it is piped
        listener = asyncio.create_task(self._listen(process.stdout))
        try:
            code = await process.wait()
            # What it wrote last is read to the end, unless a process of its own holds the pipe open.
            await asyncio.wait([listener], timeout=1.0)
        except asyncio.CancelledError:
            _signal(process, signal.SIGKILL)
            await process.wait()
            raise
        finally:
            listener.cancel()
        return code

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(MAX_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) >= MAX_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._hear(line)
        if rest:
            self._hear(rest)

    def _hear(self, raw: bytes) -> None:
        if not raw.strip():
            return
        self._log.write(raw)
        line = LogLine.parse(self.name, raw)
        self._tail.append(line)
        self._on_line(line)

    def _say(self, level: str, text: str) -> None:
        self._on_line(LogLine(self.name, level, text))

    def _give_up_if_final(self, code: int, crashes: int) -> None:
        if code == ConfigError.exit_code:
            raise ConfigError(f"{self.name}: {self.message()}")
        if code == MachineError.exit_code:
            raise MachineError(f"{self.name}: {self.message()}")
        if not self._restart:
            raise DaemonEyeError(f"{self.name} {_ended(code)}: {self.message()}")
        if not self.ready and crashes >= self._backoff.attempts_unready:
            raise DaemonEyeError(f"{self.name} {_ended(code)} {crashes} times and never was ready: {self.message()}")


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.strsignal(-code) or 'a signal'} (signal {-code})"
    return f"ended with status {code}"
