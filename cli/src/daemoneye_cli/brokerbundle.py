"""What the broker tells for a report: heartbeats, streams, configurations, the newest findings.

Responsible for asking it, of one machine and of a cluster alike; not for the way there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from daemoneye import subjects
from daemoneye.errors import DaemonEyeError
from daemoneye_cli import client
from daemoneye_cli.bundle import Bundle, without_arguments
from daemoneye_cli.heartbeats import Heartbeats, Process

_TIMEOUT_S: Final = 5.0
_MARGIN_S: Final = 2.0
_CONFIGS: Final = 200
_POINTERS: Final = 5_000
_AT_ONCE: Final = 32
_API: Final = "$JS.API"


async def gather(
    broker: contextlib.AbstractAsyncContextManager[Mapping[str, Any]],
    bundle: Bundle,
    expected: Sequence[Process],
    *,
    interval: float,
    findings: int = 0,
    arguments: bool = False,
) -> None:
    """Put what the broker tells into ``bundle``; ``findings`` is how many of the newest, ``interval`` that of heartbeats in seconds."""
    with bundle.part("what the broker tells"):
        async with broker as access:
            bundle.redactor.learn([str(access["password"])])
            connection = await client.connect(access, name="daemoneye bugtool")
            try:
                heartbeats = Heartbeats()
                with bundle.part("broker/heartbeats.jsonl"):
                    await heartbeats.listen(connection)
                streams: list[str] = []
                with bundle.part("broker/account.json"):
                    bundle.document("broker/account.json", await _ask(connection, "INFO"))
                with bundle.part("broker/streams.jsonl"):
                    streams = await _streams(connection)
                    found = [await _ask(connection, f"STREAM.INFO.{name}") for name in streams]
                    bundle.lines("broker/streams.jsonl", found)
                await _documents(connection, bundle, streams)
                if findings and subjects.FINDINGS in streams:
                    with bundle.part("findings.jsonl"):
                        newest = await _findings(connection, findings)
                        bundle.lines("findings.jsonl", newest if arguments else map(without_arguments, newest))
                await heartbeats.complete(expected, interval + _MARGIN_S, times=1)
                bundle.lines("broker/heartbeats.jsonl", _heartbeats(heartbeats))
                _note_silence(heartbeats, expected, bundle, interval)
            finally:
                await connection.close()


def _heartbeats(heard: Heartbeats) -> Iterator[dict[str, Any]]:
    for (origin, name), process in sorted(heard.processes.items()):
        yield {
            "origin": origin,
            "name": name,
            "received": process.received,
            "size": process.size,
            "heartbeat": process.content,
        }


def _note_silence(heard: Heartbeats, expected: Sequence[Process], bundle: Bundle, interval: float) -> None:
    silent = heard.silent(expected)
    if silent:
        names = ", ".join(name for _, name in silent[:10])
        bundle.lack(
            "broker/heartbeats.jsonl",
            f"{len(silent)} not heard within {interval + _MARGIN_S:g} s: {names}{' …' if len(silent) > 10 else ''}",
        )
    if heard.unreadable:
        bundle.lack("broker/heartbeats.jsonl", f"{heard.unreadable} messages were no heartbeats")


async def _documents(connection: Client, bundle: Bundle, streams: Sequence[str]) -> None:
    """Configurations by their hash, and which one each node is pointed to."""
    configs, nodes = f"KV_{subjects.CONFIGS_BUCKET}", f"KV_{subjects.NODES_BUCKET}"
    if configs in streams:
        with bundle.part("broker/configs"):
            keys = await _keys(connection, configs, subjects.key_value(subjects.CONFIGS_BUCKET, ">"))
            if len(keys) > _CONFIGS:
                bundle.lack("broker/configs", f"{len(keys) - _CONFIGS} of {len(keys)} are left out")
            for key, value in await _values(connection, configs, keys[:_CONFIGS]):
                bundle.document(f"broker/configs/{key.rpartition('.')[2]}.json", value)
    if nodes in streams:
        with bundle.part("broker/nodes.jsonl"):
            keys = await _keys(connection, nodes, subjects.key_value(subjects.NODES_BUCKET, "*.config"))
            if len(keys) > _POINTERS:
                bundle.lack("broker/nodes.jsonl", f"{len(keys) - _POINTERS} of {len(keys)} are left out")
            found = await _values(connection, nodes, keys[:_POINTERS])
            bundle.lines("broker/nodes.jsonl", ({"key": key, "value": value} for key, value in found))


async def _ask(connection: Client, what: str, **content: Any) -> dict[str, Any]:
    """Give JetStream's answer as it is: it says more than nats-py reads of it."""
    payload = json.dumps(content).encode() if content else b""
    answer = await connection.request(f"{_API}.{what}", payload, timeout=_TIMEOUT_S)
    found: dict[str, Any] = json.loads(answer.data)
    if "error" in found:
        raise DaemonEyeError(f"{what}: {found['error'].get('description')}")
    return found


async def _streams(connection: Client) -> list[str]:
    names = (await _ask(connection, "STREAM.NAMES")).get("streams") or []
    ours = ("DAEMONEYE_", "KV_daemoneye_", "OBJ_daemoneye_")
    return sorted(name for name in names if name.startswith(ours))


async def _keys(connection: Client, stream: str, subject: str) -> list[str]:
    info = await _ask(connection, f"STREAM.INFO.{stream}", subjects_filter=subject)
    return sorted((info.get("state") or {}).get("subjects") or {})


async def _values(connection: Client, stream: str, keys: Sequence[str]) -> list[tuple[str, Any]]:
    """Give the newest value of each key; what is no JSON is said to be none."""
    manager = connection.jetstream(timeout=_TIMEOUT_S)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(key: str) -> tuple[str, Any]:
        async with gate:
            try:
                data = (await manager.get_msg(stream, subject=key, direct=True)).data or b""
            except (NatsError, JetStreamError, TimeoutError) as error:
                return key, f"not had: {str(error) or type(error).__name__}"
        try:
            return key, json.loads(data)
        except ValueError:
            return key, f"{len(data)} bytes that are no JSON"

    return list(await asyncio.gather(*map(one, keys)))


async def _findings(connection: Client, last: int) -> list[dict[str, Any]]:
    """Give the newest findings of the stream, the newest last."""
    newest = await client.last_sequence(connection, subjects.FINDINGS)
    manager = connection.jetstream(timeout=_TIMEOUT_S)
    found: list[dict[str, Any]] = []
    for sequence in range(newest, max(0, newest - last), -1):
        with contextlib.suppress(ValueError, JetStreamError):
            content = json.loads((await manager.get_msg(subjects.FINDINGS, sequence, direct=True)).data or b"")
            if isinstance(content, dict):
                found.append(content)
    return found[::-1]
