"""Heartbeats of many sensors by one connection: `python -m tests.bench.beats < options.json`.

Each node says every ten seconds, and at once when its configuration changed, what a sensor would say: the body is the sensor's own
(`daemoneye_sensor.heartbeat`), its answer says that the node runs each policy of the configuration that its pointer names.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.broker.access import Access
from daemoneye.nodeconfig import NodeAnswer, NodeConfig, NodePointer, PolicyAnswer
from daemoneye_sensor import heartbeat
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.programs import RingSizes
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import FROM_BROKER, Settings

_INTERVAL_S: Final = 10.0
_TAKES_S: Final = 0.5
"""What a sensor needs at most to take a configuration that loads no other program."""


class Fleet:
    """All nodes."""

    def __init__(self, client: Client, url: str, nodes: list[str]) -> None:
        self._client = client
        self._nodes = nodes
        self._hashes: dict[str, str] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._of_token = {subjects.escape_node(node): node for node in nodes}
        settings = Settings(
            node="node", cluster="cluster", instance="daemoneye", state_dir=Path("/"), bpf_dir=Path("/"), source="ebpf", replay_path=None,
            access=Access((url,)), shard=0, spool_bytes=0, rings=RingSizes(), configuration=FROM_BROKER, events=(), runtime_tasks=None,
            status_interval_s=_INTERVAL_S, flush_interval_s=0.3, keep_programs=True,
        )  # fmt: skip
        publisher = Publisher(None, settings.access, node="node", on_refused=lambda *_: None)
        self._body = heartbeat.compose("ready", settings, publisher, None, losses=Losses())
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Beat until killed."""
        await self._client.subscribe(subjects.key_value(subjects.NODES_BUCKET, "*.config"), cb=self._pointed)
        with suppress(NoRespondersError):  # no bucket yet: nobody has written to it
            for node in self._nodes:
                pointer = await values.read(self._client, subjects.NODES_BUCKET, subjects.node_config(node))
                if pointer is not None:
                    self._hashes.setdefault(node, NodePointer.decode(pointer).hash)
        print("beating", flush=True)
        await asyncio.gather(self._analytics(), *map(self._beat, self._nodes))

    async def _beat(self, node: str) -> None:
        await asyncio.sleep(random.random() * _INTERVAL_S)
        while True:
            await self._say(node)
            await asyncio.sleep(_INTERVAL_S)

    async def _analytics(self) -> None:
        while True:
            await self._client.publish(subjects.component("analytics"), json.dumps({"state": "running"}).encode())
            await asyncio.sleep(_INTERVAL_S)

    async def _pointed(self, message: Msg) -> None:
        node = self._of_token.get(message.subject.split(".")[2])
        data = values.value(message)
        if node is None or data is None:
            return
        self._hashes[node] = NodePointer.decode(data).hash
        task = asyncio.create_task(self._soon(node))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _soon(self, node: str) -> None:
        await asyncio.sleep(random.random() * _TAKES_S)
        await self._say(node)

    async def _say(self, node: str) -> None:
        body = {**self._body, "node": node, "config": await self._answer(self._hashes.get(node, ""))}
        await self._client.publish(subjects.status(node), json.dumps(body, separators=(",", ":")).encode())

    async def _answer(self, config_hash: str) -> dict[str, Any]:
        if config_hash not in self._answers:
            data = await values.read(self._client, subjects.CONFIGS_BUCKET, config_hash) if config_hash else None
            if data is None:
                return NodeAnswer().to_json()
            policies = NodeConfig.decode(data).policies
            answers = tuple(PolicyAnswer(policy.name, policy.uid, policy.generation) for policy in policies)
            self._answers[config_hash] = NodeAnswer(config_hash, answers, programs=True).to_json()
        return self._answers[config_hash]


async def _main() -> None:
    options = json.loads(sys.stdin.readline())
    user, password = options["user"]
    client = await nats.connect(options["url"], user=user, password=password, max_reconnect_attempts=-1)
    await Fleet(client, options["url"], options["nodes"]).run()


if __name__ == "__main__":
    asyncio.run(_main())
