"""Produced = watermarked + counted losses, as anybody can check who reads the broker.

Responsible for looking on as the role `cli`, straight at the broker's pod, so that it can be done while the API server is away: what the sensor
says it produced, what lies in the stream, what was told as lost, how far analytics is. Not for what is done to the cluster meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from daemoneye import envelope, subjects
from daemoneye.envelope import Batch
from daemoneye.events.jsonform import events_json, losses_json
from tests.cluster.harness.cluster import NODE, CommandError
from tests.cluster.release import Release, wait

LANE: Final = "urgent"
_ANSWER_S: Final = 30.0
_AWAY: Final = (nats.errors.Error, OSError, TimeoutError, ssl.SSLError)


@dataclass
class Look:
    """The newest that sensor and analytics say of themselves."""

    sensor: dict[str, Any] = field(default_factory=dict)
    analytics: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return int(self.sensor["epoch"])

    @property
    def produced(self) -> int:
        """Rows of the lane in this epoch, by the sensor's own count."""
        return int(self.sensor["sequences"].get(LANE, 0))

    def watermark(self, epoch: int) -> int:
        """Rows of the lane that analytics has done with."""
        return int(self.analytics["watermarks"].get(NODE, {}).get(str(epoch), {}).get(LANE, 0))


class Oracle:
    """Reads the stream once, from its beginning on, however often it is asked.

    Attributes:
        batches: Batches of events, each once.
        executions: Children of the generator that were seen, by pod UID.
        losses: Rows of `loss`, each once.
        repeated: Copies of a batch that the stream holds beside the first.
    """

    def __init__(self, release: Release) -> None:
        self.batches = 0
        self.executions: Counter[str] = Counter()
        self.losses: list[dict[str, Any]] = []
        self.repeated = 0
        self._release = release
        self._position = 0
        self._seen: set[tuple[int, str, int, str]] = set()
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        self._where: dict[str, Any] = {}

    # ── what a test asks ────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Pass over what the stream holds already, of sensors that are gone."""
        self._position = asyncio.run(self._end())

    def look(self) -> Look:
        """What they say now, and the stream up to now.

        Raises:
            RuntimeError: The broker, the sensor or analytics say nothing.
        """
        try:
            return asyncio.run(self._look())
        except _AWAY as error:
            self._where = {}
            raise RuntimeError(f"the broker is away: {error!r}") from error

    def settle(self, seconds: float = 180.0) -> Look:
        """Wait until everything that was produced when the sensor spoke first is watermarked, and in the stream or counted as lost."""
        before = wait("the sensor speaks", self.look, seconds)

        def settled() -> Look:
            now = self.look()
            missing = self.missing(before.epoch, before.produced)
            assert not missing, f"of {before.produced} rows neither stored nor counted: {missing[:5]}"
            assert now.watermark(before.epoch) >= before.produced, f"watermark {now.watermark(before.epoch)}"
            return now

        return wait(f"{before.produced} rows watermarked or counted", settled, seconds)

    def missing(self, epoch: int, produced: int) -> list[tuple[int, int]]:
        """Ranges of sequences below `produced` that nobody has."""
        lost = [
            (loss["first_sequence"], loss["first_sequence"] + loss["count"])
            for loss in self.losses
            if loss["epoch"] == epoch and loss["lane"] == LANE
        ]
        at, gaps = 0, []
        for first, end in sorted([*self._ranges.get(epoch, ()), *lost]):
            if first > at:
                gaps.append((at, first))
            at = max(at, end)
        gaps.append((at, produced))
        return [(first, end) for first, end in gaps if first < min(end, produced)]

    def lost(self, *stages: str) -> int:
        """Records lost at these stages, all without any."""
        return sum(loss["count"] for loss in self.losses if not stages or loss["stage"] in stages)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _end(self) -> int:
        """The newest sequence of the stream."""
        client = await self._connect()
        try:
            return int((await client.jetstream(timeout=5).stream_info(subjects.EVENTS(0))).state.last_seq)
        finally:
            await client.close()

    async def _look(self) -> Look:
        client = await self._connect()
        try:
            look = await self._hear(client)
            await self._read(client)
        finally:
            with suppress(*_AWAY):
                await client.close()
        return look

    async def _hear(self, client: Client) -> Look:
        look, both = Look(), asyncio.Event()

        async def heard(message: Any) -> None:
            which = "sensor" if message.subject == subjects.status(NODE) else "analytics"
            said = json.loads(message.data)
            if which == "analytics" or "sequences" in said:
                setattr(look, which, said)
            if look.sensor and look.analytics:
                both.set()

        for subject in (subjects.status(NODE), subjects.component("analytics")):
            await client.subscribe(subject, cb=heard)
        await client.flush()
        try:
            await asyncio.wait_for(both.wait(), _ANSWER_S)
        except TimeoutError:
            silent = [name for name in ("sensor", "analytics") if not getattr(look, name)]
            raise RuntimeError(f"no word of {', '.join(silent)} within {_ANSWER_S:g} s") from None
        return look

    async def _read(self, client: Client) -> None:
        jetstream, stream = client.jetstream(timeout=5), subjects.EVENTS(0)
        last = (await jetstream.stream_info(stream)).state.last_seq
        while self._position < last:
            with suppress(NotFoundError):
                message = await jetstream.get_msg(stream, self._position + 1, direct=True)
                self._take(envelope.decode(message.data or b""))
            self._position += 1

    def _take(self, batch: Batch) -> None:
        about = batch.envelope
        key = (about.epoch, about.lane, about.first_sequence, about.source)
        if key in self._seen:
            self.repeated += 1
            return
        self._seen.add(key)
        if about.lane == "loss":
            self.losses += losses_json(batch)
            return
        self.batches += 1
        if about.lane == LANE:
            self._ranges.setdefault(about.epoch, []).append((about.first_sequence, about.next_sequence))
        for event in events_json(batch):
            if event["event"] == "process_exec" and event["argv"][:1] == ["quiet-copy"]:
                self.executions[event["pod_uid"]] += 1

    # ── the way there ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _connect(self) -> Client:
        if not self._where:
            self._where = self._find()
        where = self._where
        return await nats.connect(
            where["url"], user=where["user"], password=where["password"], inbox_prefix=where["inbox_prefix"],
            tls=ssl.create_default_context(cadata=where["ca.crt"]), tls_hostname=where["name"],
            allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, connect_timeout=10, error_cb=_ignore,
        )  # fmt: skip

    def _find(self) -> dict[str, Any]:
        release = self._release
        try:
            secret = release.cluster.get("secret", f"{release.name}-broker-cli", release.namespace)["data"]
            (pod,) = release.items("pods", release.namespace, "app.kubernetes.io/component=nats")
            address = pod["status"]["podIP"]
        except (CommandError, KeyError, ValueError, subprocess.SubprocessError) as error:
            raise RuntimeError(f"where the broker is cannot be said: {error!r}") from error
        found = {key: base64.b64decode(value).decode() for key, value in secret.items()}
        return {**found, "url": f"tls://{address}:4222", "name": f"{release.name}-nats.{release.namespace}.svc"}


async def _ignore(_error: Exception) -> None:
    """A connection that ends is told by what was asked over it."""
