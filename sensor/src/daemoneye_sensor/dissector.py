"""The sensor's end of scapy's process: started when something is asked, ended when nothing is for a while.

Responsible for the pipe (`pydoc daemoneye_dissect` has its messages), for how much is asked and for whatever may happen to that process: it is
killed when it does not answer, and started again when the next thing is asked. The event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from daemoneye.errors import DaemonEyeError

COMMAND: Final = (sys.executable, "-I", "-m", "daemoneye_dissect")
RATE: Final = 20.0
"""Frames a second that are dissected; so many may come at once, too."""
MAX_BODY: Final = 16 << 20
MAX_HEADER: Final = 64 << 10
_MAX_ANSWER: Final = (1 << 20, 33 << 20)
READY_S: Final = 20.0
DISSECT_S: Final = 6.0
PCAPNG_S: Final = 25.0
"""A second and more beyond what the process allows itself."""
IDLE_S: Final = 60.0
"""It has 80 MB: it ends when nothing was asked for so long."""
_AGAIN_S: Final = 5.0
_END_S: Final = 2.0
_MINUTE: Final = 60.0
_SIZES: Final = struct.Struct(">II")

_log = logging.getLogger(__name__)


class DissectError(DaemonEyeError):
    """It did not answer, or answered that it cannot; the text is one sentence."""


class Dissector:
    """One process, one request at a time.

    Attributes:
        dissected: Frames that were dissected.
        skipped: Frames that were not, for too many came.
        failed: Requests without a good answer.
        started: How often the process was started.
    """

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        *,
        rate: float = RATE,
        idle: float = IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started before something is asked."""
        self.dissected = self.skipped = self.failed = self.started = 0
        self._command = tuple(command)
        self._rate = self._tokens = rate
        self._idle_s = idle
        self._clock = clock
        self._filled = clock()
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._not_before = self._logged = float("-inf")

    @property
    def pid(self) -> int:
        """Of the process, 0 while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def dissect(self, frame: bytes, link: int = 1) -> dict[str, Any] | None:
        """Layers with their fields, and ``cut``; None if the budget is spent, or the frame brought no answer (counted each)."""
        if not self._taken():
            self.skipped += 1
            return None
        try:
            answer, _ = await self._ask({"do": "dissect", "link": link}, frame, DISSECT_S)
        except DissectError as error:
            self._complain(str(error))
            return None
        layers = answer.get("layers", [])
        if not _are_layers(layers):
            self.failed += 1
            self._complain("the dissecting process: its answer has no layers with names and fields")
            return None
        self.dissected += 1
        return {"layers": layers, "cut": bool(answer.get("cut"))}

    async def pcapng(self, request: Mapping[str, Any], body: bytes) -> bytes:
        """Blocks of a pcapng file.

        Raises:
            DissectError: There is no such answer; the request may be made again.
        """
        _, content = await self._ask({"do": "pcapng", **request}, body, PCAPNG_S)
        return content

    async def close(self) -> None:
        """End the process; what is being asked fails."""
        await self._end()

    async def _ask(self, request: Mapping[str, Any], body: bytes, within: float) -> tuple[dict[str, Any], bytes]:
        raw = json.dumps(request, separators=(",", ":")).encode()
        if len(raw) > MAX_HEADER or len(body) > MAX_BODY:
            raise DissectError(f"{len(raw)} and {len(body)} bytes are too much to ask the dissecting process at once")
        async with self._lock:
            if self._resting:
                self._resting.cancel()
            try:
                process = await self._running()
                try:
                    async with asyncio.timeout(within):
                        header, content = await self._exchange(process, raw, body)
                except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError) as error:
                    await self._end()
                    what = "did not answer in time" if isinstance(error, TimeoutError) else f"ended ({error!r})"
                    raise DissectError(f"the dissecting process {what} and is started anew") from error
                except BaseException:
                    await self._end()  # an answer that nobody waits for would be taken for the next one's
                    raise
                if header.get("ok") is not True:
                    raise DissectError(f"the dissecting process: {str(header.get('error', ''))[:300]}")
            except DissectError:
                self.failed += 1
                raise
            finally:
                self._resting = asyncio.get_running_loop().call_later(self._idle_s, self._rest)
        return header, content

    async def _exchange(
        self, process: asyncio.subprocess.Process, raw: bytes, body: bytes
    ) -> tuple[dict[str, Any], bytes]:
        assert process.stdin is not None  # noqa: S101 - for mypy: it is piped
        process.stdin.write(_SIZES.pack(len(raw), len(body)) + raw)
        process.stdin.write(body)
        await process.stdin.drain()
        return await _message(process)

    async def _running(self) -> asyncio.subprocess.Process:
        if self.pid and self._process:
            return self._process
        await self._end()
        if self._clock() < self._not_before:
            raise DissectError("the dissecting process did not start a moment ago")
        self.started += 1
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
                start_new_session=True,  # a terminal's Ctrl-C is for us
            )
            async with asyncio.timeout(READY_S):
                header, _ = await _message(self._process)
            if header.get("ready") is not True:
                raise ValueError(f"it said {header!r:.100}")
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            self._not_before = self._clock() + _AGAIN_S
            await self._end()
            raise DissectError(f"the dissecting process does not start: {error!r}") from error
        except BaseException:
            await self._end()
            raise
        return self._process

    def _rest(self) -> None:
        if not self._lock.locked() and self._process is not None:
            self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        process, self._process = self._process, None
        if self._resting:
            self._resting.cancel()
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        # Another user's process may be killed with CAP_KILL only; without, it ends at the end of its stdin, or by its own alarm.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()

    def _taken(self) -> bool:
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _complain(self, text: str) -> None:
        now = self._clock()
        if now - self._logged >= _MINUTE:
            self._logged = now
            _log.warning("%s", text)


def _are_layers(said: object) -> bool:
    """Whether these are layers: that process reads what anybody sends, and is taken at its word for nothing."""
    return isinstance(said, list) and all(
        isinstance(layer, dict) and isinstance(layer.get("name"), str) and isinstance(layer.get("fields", {}), dict)
        for layer in said
    )


async def _message(process: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytes]:
    """The next message from it.

    Raises:
        ValueError: It is none.
        asyncio.IncompleteReadError: It has ended.
    """
    assert process.stdout is not None  # noqa: S101 - for mypy: it is piped
    header_size, body_size = _SIZES.unpack(await process.stdout.readexactly(_SIZES.size))
    if header_size > _MAX_ANSWER[0] or body_size > _MAX_ANSWER[1]:
        raise ValueError(f"it answered {header_size} and {body_size} bytes")
    try:
        header = json.loads(await process.stdout.readexactly(header_size))
    except RecursionError as error:
        raise ValueError("its answer is nested too deep") from error
    if not isinstance(header, dict):
        raise ValueError("its answer is no JSON object")  # noqa: TRY004 - what came is bad, not what was passed
    return header, await process.stdout.readexactly(body_size)
