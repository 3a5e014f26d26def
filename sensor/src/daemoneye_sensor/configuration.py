"""What this node is to run, as the broker has it.

Responsible for reading the node's pointer, configuration and pods, for following their changes and for the last good configuration on disk;
not for carrying it out (:mod:`daemoneye_sensor.agent`).

It asks by JetStream's direct get and listens by a plain subscription, for which the role `sensor` has the rights; it makes no consumer. What a
subscription misses while there is no connection is read when there is one again, and the configuration once a minute.

A pointer that is not there changes nothing: a broker that lost its store must not silence a node that knows what to do. A node that is to do
nothing is given an empty configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.broker.link import TRANSIENT
from daemoneye.ending import end
from daemoneye.errors import CorruptData
from daemoneye.nodeconfig import MAX_BYTES, MAX_POLICIES, NodeConfig, NodePointer
from daemoneye_sensor import answers
from daemoneye_sensor.enrich.pods import Pods

BAD_CONFIGURATION: Final = "BadConfiguration"
READ_EVERY_S: Final = 60.0
_AGAIN_S: Final = 2.0
_ASK_EVERY_S: Final = 10.0
_ASKED: Final = 4096
_HASH: Final = re.compile(r"[0-9a-f]{1,64}")
_GOOD: Final = ("", "")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration as it came: its bytes are kept, for a newer operator's may hold more than this release reads."""

    hash: str
    config: NodeConfig
    data: bytes


def read(data: bytes, expected: str | None = None) -> Configured:
    """A configuration from its bytes.

    Args:
        data: The document.
        expected: Its name, the hash of its bytes, where there is one to compare.

    Raises:
        CorruptData: It is too large, no such document, not the one that was asked for, or nothing that this release can run.
    """
    if len(data) > MAX_BYTES:
        raise CorruptData(f"the configuration has {len(data)} bytes; at most {MAX_BYTES} are read")
    name = _name(data)
    if expected is not None and name != expected:
        raise CorruptData(f"the configuration {expected} has other bytes than its name says")
    try:
        config = NodeConfig.decode(data)
        answers.check(config)
    except RecursionError as error:
        raise CorruptData("not a node's configuration: nested too deep") from error
    if len(config.policies) > MAX_POLICIES:
        raise CorruptData(f"the configuration has {len(config.policies)} policies; at most {MAX_POLICIES} are read")
    return Configured(name, config, data)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


class _Absent(CorruptData):
    """The configuration that a pointer names is not there: it may come any moment."""


class Store:
    """The last good configuration, in the sensor's state directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "configuration.json"

    def load(self) -> Configured | None:
        """What was saved last; None where nothing was, or it cannot be read."""
        try:
            return read(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, CorruptData) as error:
            _log.warning("%s: %s; waiting for the broker's", self._path, error)
            return None

    def save(self, configured: Configured) -> None:
        """Keep a configuration, whole or not at all; a disk that has no room costs a log line."""
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with part.open("wb") as file:
                file.write(configured.data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            _log.warning("%s: %s; a start without the broker would not know this configuration", self._path, error)

    def remove(self) -> None:
        """Forget it."""
        for path in (self._path, self._path.with_suffix(".part")):
            with contextlib.suppress(OSError):
                path.unlink()


class Follower:
    """Reads and follows one node's keys on whichever connection there is.

    Attributes:
        trouble: Reason and sentence why the newest configuration is not taken; both empty when it is.
    """

    def __init__(
        self, node: str, pods: Pods, *, on_configured: Callable[[Configured], None], on_news: Callable[[], None]
    ) -> None:
        """`on_configured` is called with every configuration that can be read, `on_news` when a pod or `trouble` changed."""
        self.trouble = _GOOD
        self._node = node
        self._pods = pods
        self._on_configured = on_configured
        self._on_news = on_news
        self._prefix = subjects.key_value(subjects.NODES_BUCKET, f"{subjects.escape_node(node)}.")
        self._client: Client | None = None
        self._following: asyncio.Task[None] | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, float] = {}  # when a pod may be asked for again
        self._pushed: bytes | None = None
        self._again = asyncio.Event()
        self._hash = ""
        # A configuration that cannot be run, and why. Its name is its bytes' hash: it will not be another one when it is fetched again.
        self._refused = ("", "")
        pods.ask = self._ask

    def connected(self, client: Client) -> None:
        """Go on with a new connection; everything is read again."""
        if self._following is not None:
            self._following.cancel()
        self._client = client
        self._pushed = None
        self._asked.clear()
        self._following = asyncio.create_task(self._follow(client), name="configuration")

    async def close(self) -> None:
        """Stop following."""
        tasks = [*self._asking.values(), *([self._following] if self._following else [])]
        await end(tasks)

    # --- the configuration

    async def _follow(self, client: Client) -> None:
        with contextlib.suppress(*TRANSIENT):  # the connection is gone: the next one begins anew
            # Before anything is read: what changes meanwhile comes twice rather than never.
            await client.subscribe(f"{self._prefix}>", cb=self._on_message)
            refresh = asyncio.create_task(self._refresh(client))
            try:
                while client.is_connected:
                    self._again.clear()
                    pause = READ_EVERY_S if await self._read(client) else _AGAIN_S
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self._again.wait()
            finally:
                refresh.cancel()

    async def _read(self, client: Client) -> bool:
        """Read pointer and configuration; False when it is to be tried again soon, and not when it is said that something changed."""
        try:
            pointer, self._pushed = self._pushed, None
            if pointer is None:
                pointer = await values.read(client, subjects.NODES_BUCKET, subjects.node_config(self._node))
            if pointer is None:
                self._say(_GOOD)
                return True
            await self._take(client, pointer)
        except CorruptData as error:
            self._say((BAD_CONFIGURATION, f"{error}; the former configuration goes on"))
            return not isinstance(error, _Absent)
        except TRANSIENT as error:
            _log.debug("reading the configuration: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - as the next line says
            # Whatever a document makes of us: what runs goes on, and the next document may be better.
            _log.exception("reading the configuration")
            self._say((BAD_CONFIGURATION, f"{error!r}; the former configuration goes on"))
            return True
        self._say(_GOOD)
        return True

    async def _take(self, client: Client, pointer: bytes) -> None:
        name = self._pointed(pointer)
        if not _HASH.fullmatch(name):  # it becomes part of a subject
            raise CorruptData(f"not a pointer to a configuration: {name[:64]!r} is no hash")
        if name == self._hash:
            return
        if name == self._refused[0]:
            raise CorruptData(self._refused[1])
        data = await values.read(client, subjects.CONFIGS_BUCKET, name)
        if data is None:
            raise _Absent(f"the configuration {name} is not in the bucket {subjects.CONFIGS_BUCKET}")
        try:
            configured = read(data, name)
        except CorruptData as error:
            if _name(data) == name:
                self._refused = (name, str(error))
            raise
        self._hash = name
        self._on_configured(configured)

    def _pointed(self, pointer: bytes) -> str:
        try:
            pointed = NodePointer.decode(pointer)
        except RecursionError as error:
            raise CorruptData("not a pointer to a configuration: nested too deep") from error
        if pointed.node not in ("", self._node):
            raise CorruptData(f"not a pointer of this node: it is {pointed.node[:253]!r}'s")
        return pointed.hash

    def _say(self, trouble: tuple[str, str]) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            if trouble[0]:
                _log.warning("%s", trouble[1])
            self._on_news()

    async def _on_message(self, message: Msg) -> None:
        key = message.subject.removeprefix(self._prefix)
        value = values.value(message)
        if key == "config":
            # The message itself is newer than what a replica may answer. But who gets answers from JetStream chooses where they go, so that
            # another node's sensor could have its own pointer sent here: what is not ours is no more than a reason to look.
            self._pushed = None
            if value is not None:
                with contextlib.suppress(CorruptData):
                    self._pointed(value)
                    self._pushed = value
            self._again.set()
        elif key.startswith("pod.") and self._pods.take(key.removeprefix("pod."), value):
            self._on_news()

    # --- pods

    def _ask(self, uid: str) -> bool:
        """Fetch a pod's document; whether it may come soon."""
        if self._client is None or not self._client.is_connected:
            return False
        now = time.monotonic()
        if uid not in self._asking and now >= self._asked.get(uid, 0.0):
            while len(self._asked) >= _ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[uid] = now + _ASK_EVERY_S
            self._asking[uid] = task = asyncio.create_task(self._fetch(self._client, uid))
            task.add_done_callback(lambda _: self._asking.pop(uid, None))
        return True

    async def _refresh(self, client: Client) -> None:
        """Read again what may have changed while there was no connection."""
        for uid in self._pods.living():
            await self._fetch(client, uid)

    async def _fetch(self, client: Client, uid: str) -> None:
        try:
            data = await values.read(client, subjects.NODES_BUCKET, subjects.node_pod(self._node, uid))
        except TRANSIENT as error:
            _log.debug("reading pod %s: %s", uid, error)
            return
        if self._pods.take(uid, data):
            self._on_news()
