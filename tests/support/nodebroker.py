"""A cluster's broker as one node's sensor sees it, and a sensor beside it: a real nats-server with the permissions of the role `sensor`.

Whoever tests is the operator and the identity publisher here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import envelope, subjects
from daemoneye.broker.access import Access
from daemoneye.broker.admin import ensure_streams
from daemoneye.broker.roles import inbox_prefix, permissions
from daemoneye.envelope import Batch
from daemoneye.events.ancestry import cgroup_pairs
from daemoneye.events.jsonform import events_json
from daemoneye.nodeconfig import NodeAnswer, NodeConfig, NodePointer, NodePolicy
from daemoneye.podidentity import PodIdentity
from daemoneye.streams import buckets, declared, reserved_bytes
from tests.support.broker import heard
from tests.support.ports import free_port

NODE: Final = "node.1"
DEADLINE_S: Final = 90.0
_MIB: Final = 1 << 20
_ROOT: Final = Path(__file__).parents[2]
_STREAMS: Final = (
    *declared(events_max_bytes=64 * _MIB),
    *buckets(nodes_max_bytes=8 * _MIB, configs_max_bytes=8 * _MIB),
)


def policy(name: str, **changes: Any) -> NodePolicy:
    """A policy that asks for kernel monitoring and nothing else."""
    return replace(NodePolicy(name, f"uid-{name}", 1, kernel={"enable_ebpf": True}), **changes)


def configuration(*policies: NodePolicy, **changes: Any) -> NodeConfig:
    """The configuration of policies that all ask for kernel monitoring."""
    return NodeConfig(policies, {"enable_ebpf": any(p.kernel.get("enable_ebpf") for p in policies)}, **changes)


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.02)


class NodeBroker:
    """The broker; `heartbeats` are those of the node, newest last, each with the moment when it came."""

    def __init__(self, directory: Path, node: str = NODE) -> None:
        self.node = node
        self.heartbeats: list[tuple[float, dict[str, Any]]] = []
        self.batches: list[Batch] = []
        self._directory = directory
        self._port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._client: Client | None = None

    @property
    def access(self) -> Access:
        """The sensor's way to it."""
        return Access(
            (f"nats://127.0.0.1:{self._port}",), user="sensor", password="s", inbox_prefix=inbox_prefix("sensor")
        )

    @property
    def client(self) -> Client:
        assert self._client
        return self._client

    async def start(self) -> None:
        """Start it, on the same port as before, and make the streams."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for stale in self._directory.glob("*.ports"):
            stale.unlink()
        users = [
            {"user": "admin", "password": "a"},
            {"user": "sensor", "password": "s", "permissions": permissions("sensor", subjects.escape_node(self.node))},
        ]
        settings = {
            "listen": f"127.0.0.1:{self._port}", "ports_file_dir": str(self._directory), "max_payload": 8 * _MIB,
            "jetstream": {"store_dir": str(self._directory), "max_file_store": reserved_bytes(_STREAMS) + _MIB},
            "authorization": {"timeout": 10, "users": users},
        }  # fmt: skip
        path = self._directory / "nats.json"
        path.write_text(json.dumps(settings))
        self._process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "nats-server", "--config", path, "--log", self._directory / "nats.log"
        )
        ports = self._directory / f"nats-server_{self._process.pid}.ports"
        await until(lambda: ports.exists() and ports.stat().st_size, "the broker listens")
        self._client = await nats.connect(
            self.access.url, user="admin", password="a", allow_reconnect=False, connect_timeout=30
        )
        await ensure_streams(self.client.jetstream(timeout=30), _STREAMS)
        await self.client.subscribe(subjects.status(self.node), cb=self._heard)
        await self.client.subscribe(subjects.events(0, self.node, "urgent"), cb=self._batch)
        await heard(self.client)

    async def stop(self) -> None:
        """End it; what it stores stays."""
        if self._client is not None:
            await self._client.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
            self._process = None

    async def put(self, bucket: str, key: str, value: bytes, headers: dict[str, str] | None = None) -> None:
        """Write one key."""
        await self.client.jetstream().publish(subjects.key_value(bucket, key), value, headers=headers)

    async def configure(self, config: NodeConfig) -> None:
        """What the operator does."""
        await self.put(subjects.CONFIGS_BUCKET, config.hash, config.encode())
        await self.put(subjects.NODES_BUCKET, subjects.node_config(self.node), NodePointer(config.hash).encode())

    async def pod(self, uid: str, identity: PodIdentity) -> None:
        """What the identity publisher does."""
        await self.put(subjects.NODES_BUCKET, subjects.node_pod(self.node, uid), identity.encode())

    async def no_pod(self, uid: str) -> None:
        """The same for a pod that is gone."""
        await self.put(subjects.NODES_BUCKET, subjects.node_pod(self.node, uid), b"", {"KV-Operation": "DEL"})

    @property
    def answer(self) -> NodeAnswer:
        """The newest."""
        return NodeAnswer.from_json(self.heartbeats[-1][1]["config"]) if self.heartbeats else NodeAnswer()

    async def answered(self, config: NodeConfig, condition: Callable[[NodeAnswer], Any] = lambda _: True) -> NodeAnswer:
        """The node's answer to a configuration, once it fulfils a condition."""
        await until(
            lambda: self.answer.hash == config.hash and condition(self.answer),
            f"the answer to {config.hash}; the newest is {self.answer}",
        )
        return self.answer

    def events(self, **wanted: Any) -> list[dict[str, Any]]:
        """Events so far with these values, as `daemoneye events -o json` shows them."""
        return [
            event
            for batch in self.batches
            for event in events_json(batch)
            if all(event.get(name) == value for name, value in wanted.items())
        ]

    async def executed(self, argument: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The execution with this argument, waited for, and its cgroup's row of `pod_identity`."""
        await until(lambda: self._executions(argument), f"the execution of {argument}")
        return self._executions(argument)[0]

    def _executions(self, argument: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        found = []
        for batch in self.batches:
            pods = pod_rows(batch)
            found += [
                (event, pods.get(event["cgroup_id"] << 32 ^ event["cgroup_v1_id"], {}))
                for event in events_json(batch)
                if event["event"] == "process_exec" and argument in event["argv"]
            ]
        return found

    def arguments(self) -> list[str]:
        """Last argument of every execution so far."""
        return [event["argv"][-1] for event in self.events(event="process_exec") if event["argv"]]

    async def _heard(self, message: Msg) -> None:
        self.heartbeats.append((time.monotonic(), json.loads(message.data)))

    async def _batch(self, message: Msg) -> None:
        self.batches.append(envelope.decode(message.data))


def pod_rows(batch: Batch) -> dict[int, dict[str, Any]]:
    """Rows of `pod_identity` by cgroup pair."""
    section = batch.section("pod_identity", context=True)
    if section is None:
        return {}
    texts = {field.name: section.values(field.name) for field in section.record.heap_fields}
    rows = {}
    for at, pair in enumerate(cgroup_pairs(section.rows).tolist()):
        row: dict[str, Any] = {name: values[at].decode() for name, values in texts.items()}
        for name in ("policies", "labels"):
            row[name] = [text for text in row[name].split("\0") if text]
        rows[pair] = row
    return rows


class Sensor:
    """A sensor's process that follows the broker's configuration; `prelude` is Python that runs in it before anything else."""

    def __init__(
        self,
        directory: Path,
        broker: NodeBroker,
        instance: str,
        *,
        retry_s: float = 60.0,
        prelude: str = "",
        **settings: Any,
    ) -> None:
        self.state = directory / "state"
        self.instance = instance
        self.log = directory / "sensor.log"
        self._path = directory / "sensor.json"
        # What the module's own main does, with less patience for programs that could not be loaded.
        self._code = f"{prelude}import sys; from daemoneye_sensor import main, observer; observer.RETRY_S = {retry_s}; sys.exit(main.main())"
        self._environment = {**os.environ, "DE_TEST_NODE": broker.node}
        self._process: asyncio.subprocess.Process | None = None
        access = broker.access
        self._path.write_text(
            json.dumps(
                {
                    "node_env": "DE_TEST_NODE", "cluster": "cluster", "instance": instance, "state_dir": str(self.state),
                    "bpf_dir": str(_ROOT / "bpf"), "configuration": "broker", "keep_programs": True, "status_interval_s": 5,
                    "nats": {"url": access.url, "user": access.user, "password": access.password, "inbox_prefix": access.inbox_prefix},
                    **settings,
                }
            )
        )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        assert self._process
        return self._process.returncode

    async def start(self, *under: str) -> None:
        """Start it, as the last words of the command `under`."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *under, sys.executable, "-c", self._code, "--config", self._path, stderr=log, env=self._environment
            )

    async def stop(self, number: int = signal.SIGTERM) -> int:
        assert self._process
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


@contextlib.asynccontextmanager
async def broker_in(directory: Path) -> AsyncIterator[NodeBroker]:
    """A broker while the context lasts."""
    broker = NodeBroker(directory)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
