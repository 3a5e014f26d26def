"""Which pods' documents the bucket of nodes holds, and what has to change for it to hold those of the pods that there are.

Responsible for the tables and for the order of things: what changed is written at once, each key by one worker, so that nothing overtakes
itself; what a pod leaves behind is removed a minute after it, when its last events have come. Not for the requests themselves
(:mod:`daemoneye.broker.bucket`).

The bucket is compared with the pods at the start, after every reconnect, when it turns out to be another one (a broker without a disk that
restarted), and every ten minutes. Values are compared by reading them, 64 at a time: a restart among twenty thousand pods reads for some
seconds and writes nothing. Only the first filling goes at the pace of the broker's disk, some hundred values a second.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Self

import nats.errors
from kubernetes.client import ApiClient

from daemoneye import subjects
from daemoneye.broker.bucket import Bucket
from daemoneye.broker.link import TRANSIENT
from daemoneye.podidentity import PodIdentity, cgroup_uid
from daemoneye_operator.watch import DELETED, Key, Watch

GRACE_S: Final = 60.0

_WORKERS: Final = 64
_LOOK_S: Final = 10.0
_COMPARE_S: Final = 600.0
_AGAIN_S: Final = 1.0
_MINUTE: Final = 60.0
# In `_written`, for a key that is in the bucket with a value that nobody has looked at.
_UNREAD: Final = b""

_log = logging.getLogger(__name__)


class Pod(NamedTuple):
    """What is kept of a pod: about half a kilobyte.

    Attributes:
        key: Its key in the bucket; empty for one that is bound to no node.
        identity: Its PodIdentity without its namespace's labels.
    """

    key: str
    identity: bytes

    @classmethod
    def of(cls, pod: Mapping[str, Any]) -> Self:
        """From the API's object."""
        node = pod.get("spec", {}).get("nodeName")
        key = subjects.node_pod(node, cgroup_uid(pod["metadata"])) if node else ""
        return cls(key, PodIdentity.of(pod, {}).encode())

    def document(self, namespace_labels: Mapping[str, str]) -> bytes:
        """What the node's sensor reads."""
        return replace(PodIdentity.decode(self.identity), namespace_labels=namespace_labels).encode()


def _labels(namespace: Mapping[str, Any]) -> dict[str, str]:
    # The same words in every namespace of a cluster.
    labels: dict[str, str] = namespace["metadata"].get("labels") or {}
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


_PODS: Final = "*.pod.*"


class Publisher:
    """Keeps the bucket as the pods are.

    Attributes:
        bucket: Where to; None while there is no connection.
        pods: The watch of pods that are bound to a node.
        namespaces: The watch of namespaces, for their labels.
        writes: Documents that were written or removed.
    """

    def __init__(self, api: ApiClient) -> None:
        """Nothing happens before `parts` run."""
        self.bucket: Bucket | None = None
        self.writes = 0
        self.pods = Watch(api, "/api/v1/pods", fields="spec.nodeName!=", project=Pod.of, on_event=self._on_pod)
        self.namespaces = Watch(api, "/api/v1/namespaces", project=_labels, on_event=self._on_namespace)
        self._keys: dict[Key, str] = {}
        self._wanted: dict[str, Key] = {}
        self._rivals: dict[str, dict[Key, None]] = {}  # pods that say they have a key that another has
        self._written: dict[str, bytes] = {}
        self._leaving: dict[str, float] = {}
        self._queues: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in range(_WORKERS)]
        self._queued: set[str] = set()
        self._compared = asyncio.Event()
        self._look = asyncio.Event()
        self._created = ""
        self._logged = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self.bucket is not None and self.bucket.connected

    @property
    def compared(self) -> bool:
        """Whether the bucket was compared with the pods since the start."""
        return self._compared.is_set()

    @property
    def backlog(self) -> int:
        """Keys that wait."""
        return len(self._queued)

    def look(self) -> None:
        """Compare the bucket soon: the broker may be another."""
        self._look.set()

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run, side by side, until cancelled."""
        return [
            self.pods.run(),
            self.namespaces.run(),
            self._compare_for_ever(),
            *(self._work(queue) for queue in self._queues),
        ]

    # ── what changes ────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_pod(self, kind: str, name: Key, pod: Pod) -> None:
        before = self._keys.pop(name, None)
        key = None if kind == DELETED or not pod.key else pod.key
        if before and before != key:
            self._release(before, name)
        if key:
            self._keys[name] = key
            self._claim(key, name)

    def _claim(self, key: str, name: Key) -> None:
        # Only who forges a mirror pod says to have a static pod's key; the kubelet takes such a pod away. Who has the key keeps it.
        if self._wanted.setdefault(key, name) != name:
            self._rivals.setdefault(key, {})[name] = None
            return
        self._leaving.pop(key, None)
        self._mark(key)

    def _release(self, key: str, name: Key) -> None:
        rivals = self._rivals.get(key, {})
        rivals.pop(name, None)
        if self._wanted.get(key) == name:
            del self._wanted[key]
            if rivals:
                heir = next(iter(rivals))
                del rivals[heir]
                self._claim(key, heir)
            else:
                self._leave(key)
        if not rivals:
            self._rivals.pop(key, None)

    def _on_namespace(self, kind: str, name: Key, _: Mapping[str, str]) -> None:
        if kind != DELETED and self.compared:
            for where, key in self._keys.items():
                if where[0] == name[1]:
                    self._mark(key)

    def _leave(self, key: str) -> None:
        if key not in self._leaving:
            loop = asyncio.get_running_loop()
            self._leaving[key] = loop.time() + GRACE_S
            loop.call_later(GRACE_S, self._mark, key)

    def _mark(self, key: str) -> None:
        """Have a worker look at the key. Before the first comparison nobody is told: it marks all that is needed."""
        if self.compared and key not in self._queued:
            self._queued.add(key)
            self._queues[hash(key) % _WORKERS].put_nowait(key)

    # ── the workers ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, queue: asyncio.Queue[str]) -> None:
        failures = 0
        while True:
            key = await queue.get()
            self._queued.discard(key)
            try:
                await self._settle(key)
                failures = 0
            except TRANSIENT as error:
                self._complain(error)
                self._mark(key)
                failures += 1
                await asyncio.sleep(min(_AGAIN_S, 0.1 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0))  # noqa: S311

    async def _settle(self, key: str) -> None:
        bucket = self._bucket()
        name = self._wanted.get(key)
        if name is None:
            if self._leaving.get(key, 0.0) <= asyncio.get_running_loop().time():
                if key in self._written:
                    await bucket.remove(key)
                    self.writes += 1
                    self._written.pop(key, None)  # a comparison may have come between
                if key not in self._wanted:
                    self._leaving.pop(key, None)
            return
        labels = self.namespaces.objects.get(("", name[0]))
        if labels is None:
            # Its event marks the key again. A document without the namespace's labels would be worse than none: the sensor collects what it
            # does not know, and leaves out what is not selected.
            return
        pod: Pod = self.pods.objects[name]
        document = pod.document(labels)
        digest = blake2b(document, digest_size=16).digest()
        if self._written.get(key) == _UNREAD:
            stored = await bucket.read(key)
            if stored is not None:
                self._written[key] = blake2b(stored, digest_size=16).digest()
        if self._written.get(key) != digest:
            # An answer that is lost says nothing about what is stored.
            self._written[key] = _UNREAD
            await bucket.write(key, document)
            self.writes += 1
            self._written[key] = digest

    # ── the bucket as a whole ───────────────────────────────────────────────────────────────────────────────────────

    async def _compare_for_ever(self) -> None:
        await self.pods.synced.wait()
        await self.namespaces.synced.wait()
        compared = float("-inf")
        asked = True
        while True:
            asked |= self._look.is_set()
            self._look.clear()
            wait = _LOOK_S
            try:
                bucket = self._bucket()
                created = await bucket.created()
                if asked or created != self._created or time.monotonic() - compared > _COMPARE_S:
                    self._compare(await bucket.keys(_PODS), anew=created != self._created)
                    self._created, compared, asked = created, time.monotonic(), False
            except TRANSIENT as error:
                self._complain(error)
                wait = _AGAIN_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._look.wait()

    def _compare(self, keys: set[str], *, anew: bool) -> None:
        if anew:
            self._written.clear()
        for key in [key for key in self._written if key not in keys]:
            del self._written[key]
        for key in keys:
            self._written.setdefault(key, _UNREAD)
        first = not self.compared
        self._compared.set()
        for key in self._wanted:
            if first or self._written.get(key, _UNREAD) == _UNREAD:
                self._mark(key)
        for key in keys:
            if key not in self._wanted:
                self._leave(key)
        now = asyncio.get_running_loop().time()
        for key, due in self._leaving.items():
            if due <= now:
                self._mark(key)
        if anew:
            _log.info("bucket with %d pods compared with %d in the cluster", len(keys), len(self._wanted))

    def _bucket(self) -> Bucket:
        if self.bucket is None:
            raise nats.errors.ConnectionClosedError
        return self.bucket

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _log.warning("identities wait for the broker: %s", str(error) or repr(error))
