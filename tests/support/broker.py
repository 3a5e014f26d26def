"""Real nats-servers with the configuration and certificates that the operator makes, on this machine: files and ports are others."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye_operator.brokerconf import server_name
from daemoneye_operator.brokersecrets import BrokerSecrets, desired, role_name
from daemoneye_operator.settings import OperatorSettings
from tests.support.ports import free_ports

T = TypeVar("T")
_ONLOOKER = "onlooker"
BINARY = Path(sys.executable).with_name("nats-server")


def settings(**nats_settings: Any) -> OperatorSettings:
    """Of an installation with a small store."""
    url = {"url": "tls://daemoneye-nats.security.svc:4222", "storeMaxBytes": 2 << 30}
    return OperatorSettings.model_validate(
        {
            "release": "eye",
            "namespace": "security",
            "fullname": "daemoneye",
            "nats": {**url, **nats_settings},
            "streams": {"eventsMaxBytes": 64 << 20, "findingsMaxBytes": 8 << 20},
            "sensor": {"image": "daemoneye/sensor:dev"},
        }
    )


async def until(what: str, condition: Callable[[], T], seconds: float = 60.0) -> T:
    """The condition's first true value."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)
    return value


async def heard(client: Client) -> None:
    """Wait until the server has every subscription: nats-py's flush sends its PING before a SUB that it has just been given, so twice."""
    await client.flush()
    await client.flush()


class Broker:
    """The servers of one installation, in a directory."""

    def __init__(self, directory: Path, of: OperatorSettings) -> None:
        self.directory = directory
        self.settings = of
        self.secrets: BrokerSecrets = desired(of, {}, dt.datetime.now(dt.UTC))
        count = of.nats.replicas
        ports = free_ports(3 * count)
        self.clients, self.monitors, self.routes = ports[:count], ports[count : 2 * count], ports[2 * count :]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count
        for name, data in self.secrets.secrets.items():
            (directory / name).mkdir(parents=True)
            for key, value in data.items():
                (directory / name / key).write_bytes(value)

    def access(self, role: str, server: int = 0) -> Access:
        """How a pod of this role, which has a password, reaches it."""
        mount = self.directory / role_name(self.settings, role)
        return Access(
            urls=(f"tls://localhost:{self.clients[server]}",),
            user_file=mount / "user",
            password_file=mount / "password",
            inbox_prefix_file=mount / "inbox_prefix",
            tls_ca=mount / "ca.crt",
        )

    def sensor_access(self, token: Path, node: str, server: int = 0) -> Access:
        """How a sensor does, whose token is in a file."""
        return replace(self.access("sensor", server), password_file=token, inbox_suffix=subjects.escape_node(node))

    async def connect(
        self, role: str | Access, server: int = 0, errors: list[Exception] | None = None, **options: Any
    ) -> Client:
        """A connection that tells its errors and does not come back."""

        async def note(error: Exception) -> None:
            if errors is not None:
                errors.append(error)

        # Without both, nats-py tries an absent server for ever; of itself it gives a busy one two seconds for each step of a connection.
        limits = {
            "allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0, "connect_timeout": 30,
        }  # fmt: skip
        access = role if isinstance(role, Access) else self.access(role, server)
        return await nats.connect(**{**access.options(), **limits, "error_cb": note, **options})

    async def onlooker(self, **options: Any) -> Client:
        """A connection beside the streams that may do anything: nobody's of the product."""
        return await self.connect("operator", user=_ONLOOKER, password=_ONLOOKER, inbox_prefix=b"_INBOX", **options)

    def start(self, server: int = 0) -> None:
        """Start one, or start it again."""
        mount = self.directory / server_name(self.settings)
        text = (mount / "nats.conf").read_text()
        store = self.directory / f"data-{server}"
        for old, new in (
            ("/etc/nats", str(mount)),
            ('"/data"', f'"{store}"'),
            ("0.0.0.0:4222", f"127.0.0.1:{self.clients[server]}"),
            ("0.0.0.0:8222", f"127.0.0.1:{self.monitors[server]}"),
            ("0.0.0.0:6222", f"127.0.0.1:{self.routes[server]}"),
            ('"users": [', f'"users": [{{"user": "{_ONLOOKER}", "password": "{_ONLOOKER}"}},'),
            ('"auth_users": [', f'"auth_users": ["{_ONLOOKER}",'),
            *((f"{self._pod(i)}.{self._headless}:6222", f"localhost:{port}") for i, port in enumerate(self.routes)),
        ):
            assert old in text or "6222" in old, f"{old} is not in nats.conf"
            # Of the lists of users, the first is of who is beside the streams.
            text = text.replace(old, new, 1 if "users" in old else -1)
        path = self.directory / f"nats-{server}.conf"
        path.write_text(text)
        with (self.directory / f"nats-{server}.log").open("ab") as log:
            self._processes[server] = subprocess.Popen(
                [BINARY, "--config", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "POD_NAME": self._pod(server)},
            )  # fmt: skip

    async def ready(self, server: int = 0) -> None:
        """Wait for what the kubelet's probe waits for."""
        await until(f"nats-server {server} ready: {self.log(server)}", lambda: self._healthy(server))

    def stop(self, server: int = 0, number: int = signal.SIGTERM) -> None:
        """End one."""
        process, self._processes[server] = self._processes[server], None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def lose(self, server: int = 0) -> None:
        """Kill one, and its disk is gone with it."""
        process, self._processes[server] = self._processes[server], None
        assert process is not None
        process.kill()
        process.wait(60)
        shutil.rmtree(self.directory / f"data-{server}")

    def silence(self, server: int = 0) -> None:
        """Have one say nothing more, as if its host were gone: the kernel still takes connections and what is sent to it."""
        process = self._processes[server]
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # until all of its threads stand still

    def speak(self, server: int = 0) -> None:
        """Have one go on that was silent."""
        process = self._processes[server]
        assert process is not None
        process.send_signal(signal.SIGCONT)

    def stop_all(self) -> None:
        """End all, without the five seconds for which a server asks a callout that is gone about a sensor that knocks."""
        for server in range(len(self._processes)):
            self.stop(server, signal.SIGKILL)

    def log(self, server: int = 0) -> str:
        """What it had to say."""
        path = self.directory / f"nats-{server}.log"
        return path.read_text()[-2000:] if path.exists() else ""

    def _pod(self, server: int) -> str:
        return f"{server_name(self.settings)}-{server}"

    @property
    def _headless(self) -> str:
        return f"{server_name(self.settings)}-headless.{self.settings.namespace}.svc"

    def _healthy(self, server: int) -> bool:
        process = self._processes[server]
        assert process is not None
        assert process.poll() is None, f"nats-server ended: {self.log(server)}"
        try:
            url = f"http://127.0.0.1:{self.monitors[server]}/healthz?js-enabled-only=true"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def running(directory: Path, **nats_settings: Any) -> Iterator[Broker]:
    """All servers started; ended whatever happens."""
    broker = Broker(directory, settings(**nats_settings))
    try:
        for server in range(broker.settings.nats.replicas):
            broker.start(server)
        yield broker
    finally:
        broker.stop_all()
