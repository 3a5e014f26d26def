"""The analytics process beside a real broker, for tests that kill either."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.broker.roles import inbox_prefix, permissions
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
SHARD_STREAM = "DAEMONEYE_EVENTS_0"


@dataclass
class Bench:
    """A broker, an analytics process, and a connection to look on with.

    With `cluster`, analytics is configured on the broker, speaks as the role of its name, and serves its health on `health`; there may be `replicas`
    beside it, by the names of their pods, with `more` settings. Events are spread over `shards` streams.
    """

    path: Path
    port: int
    detectors: list[dict[str, Any]] = field(default_factory=list)
    server: asyncio.subprocess.Process | None = None
    analytics: asyncio.subprocess.Process | None = None
    client: Client | None = None
    status: list[dict[str, Any]] = field(default_factory=list)
    extra_path: str = ""
    cluster: bool = False
    health: int = 0
    shards: int = 1
    more: dict[str, Any] = field(default_factory=dict)
    replicas: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def jetstream(self) -> JetStreamContext:
        assert self.client
        return self.client.jetstream(timeout=20)

    @property
    def log(self) -> str:
        return (self.path / "analytics.log").read_text("utf-8")

    async def start_broker(self) -> None:
        config = {
            "listen": f"127.0.0.1:{self.port}", "max_payload": 8 << 20,
            "jetstream": {"store_dir": str(self.path / "js"), "max_file_store": 1 << 30, "sync_interval": "always"},
        }  # fmt: skip
        if self.cluster:
            role = {"user": "analytics", "password": "secret", "permissions": permissions("analytics")}
            config["authorization"] = {"timeout": 10, "users": [{"user": "admin", "password": "admin"}, role]}
        (self.path / "nats.conf").write_text(json.dumps(config))
        with (self.path / "nats.log").open("ab") as log:
            binary = Path(sys.executable).parent / "nats-server"
            self.server = await asyncio.create_subprocess_exec(
                binary, "-c", self.path / "nats.conf", stdout=log, stderr=log
            )

    async def connect(self) -> None:
        user = {"user": "admin", "password": "admin"} if self.cluster else {}
        self.client = await nats.connect(
            f"nats://127.0.0.1:{self.port}", max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=ignore, **user
        )

        async def on_status(message: Any) -> None:
            self.status.append(json.loads(message.data))

        await self.client.subscribe(subjects.component("analytics"), cb=on_status)
        await self.eventually(self.ready)

    async def ready(self) -> bool:
        with contextlib.suppress(Exception):
            assert self.client
            return bool(await self.client.jetstream(timeout=5).account_info())
        return False

    async def add_streams(self) -> None:
        for stream in streams.declared(events_max_bytes=64 << 20, findings_max_bytes=32 << 20):
            await self.jetstream.add_stream(
                StreamConfig(
                    name=stream.name, subjects=list(stream.subjects), max_bytes=stream.max_bytes, duplicate_window=stream.duplicate_window,
                    allow_rollup_hdrs=stream.allow_rollup, allow_direct=stream.allow_direct, max_msg_size=stream.max_msg_size,
                )
            )  # fmt: skip

    async def add_cluster_streams(self) -> None:
        declared = streams.declared(self.shards, events_max_bytes=64 << 20, findings_max_bytes=32 << 20)
        buckets = streams.buckets(nodes_max_bytes=8 << 20, configs_max_bytes=8 << 20)
        await ensure_streams(self.jetstream, [*declared, *buckets])

    async def configure(self, document: bytes | None) -> None:
        """What the operator does with analytics' configuration; None removes it."""
        bucket = await self.jetstream.key_value(subjects.CONFIGS_BUCKET)
        if document is None:
            await bucket.delete(subjects.ANALYTICS_CONFIG)
        else:
            await bucket.put(subjects.ANALYTICS_CONFIG, document)

    def settings(self) -> dict[str, Any]:
        if not self.cluster:
            return {
                "cluster": "local", "state_dir": str(self.path), "status_interval_s": 1,
                "nats": {"url": f"nats://127.0.0.1:{self.port}", "user": "", "password": "", "inbox_prefix": "_INBOX", "tls": None},
                "analytics": {"enable_behavioral_analysis": True, "detectors": self.detectors},
            }  # fmt: skip
        files = {"user": "analytics", "password": "secret", "inbox_prefix": inbox_prefix("analytics")}
        for name, text in files.items():
            (self.path / name).write_text(text + "\n")
        access = {f"{name}_file": str(self.path / name) for name in files}
        return {
            "nats": {"url": f"nats://127.0.0.1:{self.port}", **access}, "shards": self.shards, "configuration": "broker",
            "status_interval_s": 1, "health_port": self.health,
        }  # fmt: skip

    async def start(self) -> None:
        self.analytics = await self._spawn("analytics-0", self.settings())

    async def start_replica(self, pod: str, health: int = 0) -> asyncio.subprocess.Process:
        """One of several processes, which serves its health on `health`."""
        self.replicas[pod] = await self._spawn(pod, {**self.settings(), **self.more, "health_port": health})
        return self.replicas[pod]

    async def _spawn(self, pod: str, config: dict[str, Any]) -> asyncio.subprocess.Process:
        (self.path / f"{pod}.json").write_text(json.dumps(config))
        paths = [self.extra_path, *(str(ROOT / part / "src") for part in ("core", "analytics"))]
        with (self.path / "analytics.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "daemoneye_analytics", "--config", self.path / f"{pod}.json",
                stdout=log, stderr=log, env={**os.environ, "DAEMONEYE_POD": pod, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )  # fmt: skip

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self.analytics
        self.analytics.send_signal(number)
        status = await asyncio.wait_for(self.analytics.wait(), DEADLINE_S)
        self.analytics = None
        return status

    async def close(self) -> None:
        """End everything; the connection first, or it would try to come back."""
        if self.client:
            await self.client.close()
        for process in (self.analytics, self.server, *self.replicas.values()):
            if process and process.returncode is None:
                process.kill()
                await process.wait()

    async def publish(self, payload: bytes, *, lane: str = "urgent", node: str = "n1") -> None:
        await self.jetstream.publish(subjects.events(subjects.shard_of(node, self.shards), node, lane), payload)

    async def findings(self) -> list[dict[str, Any]]:
        return [json.loads(m) for m in await self.read(subjects.FINDINGS)]

    async def read(self, stream: str) -> list[bytes]:
        state = (await self.jetstream.stream_info(stream)).state
        out = []
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            with contextlib.suppress(NotFoundError):
                out.append((await self.jetstream.get_msg(stream, sequence, direct=True)).data or b"")
        return out

    async def judged(self, following: int, *, lane: str = "urgent", epoch: int = 7) -> None:
        def reached() -> bool:
            marks = self.status[-1]["watermarks"] if self.status else {}
            return marks.get("n1", {}).get(str(epoch), {}).get(lane, -1) >= following

        await self.eventually(reached)

    async def acknowledged(self, part: int = 0) -> None:
        """A checkpoint covers everything that there is for a part."""

        async def all_of_it() -> bool:
            try:
                infos = [
                    await self.jetstream.consumer_info(subjects.EVENTS(shard), f"analytics-{part}")
                    for shard in range(self.shards)
                ]
            except NotFoundError:
                return False
            return not any(info.num_pending or info.num_ack_pending for info in infos)

        await self.eventually(all_of_it)

    async def eventually(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + DEADLINE_S
        while True:
            result = condition()
            if await result if asyncio.iscoroutine(result) else result:
                return
            if time.monotonic() > end:
                pytest.fail(f"not within {DEADLINE_S} s; status {self.status[-1:]}; log:\n{self.log}")
            await asyncio.sleep(0.05)


@asynccontextmanager
async def judging(path: Path, document: bytes, *, shards: int = 1, **more: Any) -> AsyncIterator[Bench]:
    """A cluster's broker with its streams and this configuration of analytics, for replicas with `more` settings."""
    made = Bench(path, free_port(), cluster=True, shards=shards, more=more)
    await made.start_broker()
    await made.connect()
    await made.add_cluster_streams()
    await made.configure(document)
    try:
        yield made
    finally:
        await made.close()


async def ignore(_error: Exception) -> None:
    pass
