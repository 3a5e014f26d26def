"""A nats-server with DaemonEye's streams for benches: started in a directory, asked by its monitoring port, ended."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats

from daemoneye import streams
from daemoneye.broker.admin import ensure_streams
from daemoneye_operator import pki
from tests.bench import machine
from tests.support.ports import free_ports

USER: Final = ("bench", "bench")
_BINARY: Final = Path(sys.executable).with_name("nats-server")
_READY_S: Final = 20.0
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs.

    Attributes:
        process: Its process.
        port: Of clients.
        ca: File with the authority of its certificate; empty without TLS.
    """

    process: subprocess.Popen[bytes]
    port: int
    monitor: int
    ca: str = ""

    @property
    def usage(self) -> machine.Usage:
        """What it used so far."""
        return machine.usage([self.process.pid])

    def written_bytes(self) -> int:
        """What it had the kernel write to the disk so far (`write_bytes` of /proc/PID/io: whole pages)."""
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])

    def ask(self, path: str) -> dict[str, Any]:
        """What the monitoring port says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{path}", timeout=10) as answer:
            said: dict[str, Any] = json.loads(answer.read())
        return said

    def stored_bytes(self) -> int:
        """Bytes in all streams, as JetStream counts them."""
        return int(self.ask("jsz")["bytes"])


@contextmanager
def serving(
    directory: Path, *, shards: int, sync_interval: str, shard_bytes: int, tls: bool = False
) -> Iterator[Server]:
    """A server with production's settings but for `sync_interval`, and one user for everything; its store goes with the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    port, monitor = free_ports(2)
    declared = (*streams.declared(shards, events_max_bytes=shard_bytes), *streams.buckets())
    config: dict[str, Any] = {
        "listen": f"127.0.0.1:{port}", "http": f"127.0.0.1:{monitor}", "max_payload": 8 * _MIB, "max_connections": 10_000,
        "ping_interval": "30s", "ping_max": 2, "write_deadline": "10s",
        "authorization": {"timeout": 15, "users": [{"user": USER[0], "password": USER[1]}]},
        "jetstream": {
            "store_dir": str(directory / "store"), "max_memory_store": 16 * _MIB, "sync_interval": sync_interval,
            "max_file_store": streams.reserved_bytes(declared) + 64 * _MIB,
        },
    }  # fmt: skip
    ca = ""
    if tls:
        authority = pki.authority(None, "bench", dt.datetime.now(dt.UTC))
        certificate = pki.server(None, authority, ["localhost"], dt.datetime.now(dt.UTC))
        for name, data in {
            "ca.crt": authority.certificate,
            "tls.crt": certificate.certificate,
            "tls.key": certificate.key,
        }.items():
            (directory / name).write_bytes(data)
        config["tls"] = {"cert_file": str(directory / "tls.crt"), "key_file": str(directory / "tls.key"), "timeout": 10}
        ca = str(directory / "ca.crt")
    (directory / "nats.conf").write_text(json.dumps(config))
    with (directory / "nats.log").open("wb") as log:
        process = subprocess.Popen(
            [_BINARY, "--config", directory / "nats.conf"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    server = Server(process, port, monitor, ca)
    try:
        asyncio.run(_ready(server, directory, declared))
        yield server
    finally:
        machine.end(process, 15)


async def _ready(server: Server, directory: Path, declared: tuple[streams.Stream, ...]) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            server.ask("healthz?js-enabled-only=true")
            break
        except OSError:
            if machine.ended(server.process) or time.monotonic() > deadline:
                raise RuntimeError(
                    f"nats-server did not get ready: {(directory / 'nats.log').read_text()[-2000:]}"
                ) from None
            await asyncio.sleep(0.05)
    scheme = "tls" if server.ca else "nats"
    options = {"tls": ssl.create_default_context(cafile=server.ca)} if server.ca else {}
    client = await nats.connect(f"{scheme}://localhost:{server.port}", user=USER[0], password=USER[1], **options)
    try:
        await ensure_streams(client.jetstream(timeout=20), declared)
    finally:
        await client.close()
