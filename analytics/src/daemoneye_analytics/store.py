"""What analytics keeps on the broker: findings, losses, checkpoints.

Responsible for getting each of them stored and for saying so only then; nats-py swallows some refusals (nats.py #985), so every
publish waits for its own acknowledgement with a deadline. What is stored is others' affair.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from nats.js import JetStreamContext
from nats.js.errors import APIError, BadObjectMetaError, DigestMismatchError, ObjectNotFoundError

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.errors import CorruptData
from daemoneye.findings import Finding
from daemoneye_analytics import checkpoint
from daemoneye_analytics.checkpoint import Checkpoint
from daemoneye_analytics.progress import Progress
from daemoneye_analytics.share import Share
from daemoneye_analytics.slots import Slots, Taken

_LOG = logging.getLogger(__name__)
_ACK_S: Final = 5.0
_OBJECT_S: Final = 30.0
_BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_AT_ONCE: Final = 64
_MINUTE: Final = 60.0
_TOO_LARGE: Final = 10054
T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - not an error: the process is asked to end
    """The process is asked to end while something could not be stored."""


class Store:
    """The broker's streams and bucket.

    Attributes:
        refused: Findings that the broker refused for good.
    """

    def __init__(
        self, jetstream: JetStreamContext, share: Share, shards: int, stop: asyncio.Event, progress: Progress
    ) -> None:
        """The place of one part, in an installation with so many event streams."""
        self.refused = 0
        self._jetstream = jetstream
        self._slots = Slots(jetstream)
        self._share = share
        self._shards = shards
        self._stop = stop
        self._progress = progress
        self._logged = float("-inf")

    async def findings(self, findings: Sequence[Finding]) -> None:
        """Store findings; returns when the broker has them all, however long that takes.

        Raises:
            Stopped: The process is asked to end before.
        """
        for at in range(0, len(findings), _AT_ONCE):
            await asyncio.gather(*(self._finding(finding) for finding in findings[at : at + _AT_ONCE]))

    async def scores(self, scores: Sequence[Mapping[str, Any]], place: str) -> None:
        """Publish scores of windows, made of the message at `place` (which names it among all); what the broker does not take now is not repeated.

        A score is for whoever watches: everything that follows from it is a finding or in a checkpoint.
        """
        for at in range(0, len(scores), _AT_ONCE):
            some = scores[at : at + _AT_ONCE]
            payload = "\n".join(json.dumps(score, separators=(",", ":")) for score in some).encode()
            try:
                part = self._share.part
                await self._publish(subjects.scores(part), payload, f"scores-{part}-{place}-{at}")
            except TRANSIENT as error:
                self.complain(f"cannot publish scores: {error!r}")

    async def loss(self, node: str, payload: bytes, message_id: str) -> bool:
        """Publish a loss batch; False if the broker did not take it now."""
        self._progress.turn()  # a trimmed stream is a loss for each node: many, of which a slow broker takes one a second
        try:
            shard = subjects.shard_of(node, self._shards)
            await self._publish(subjects.events(shard, node, "loss"), payload, message_id)
        except TRANSIENT as error:
            self.complain(f"cannot publish a loss of the stream: {error!r}")
            return False
        return True

    async def save(self, state: Checkpoint) -> bool:
        """Store a checkpoint in the place of the last but one; False if the broker did not take it now, or something else lies there."""
        return await self._put(_checkpoints(self._share.part)[state.number % 2], state)

    async def bequeath(self, state: Checkpoint) -> None:
        """Leave part 0's checkpoint of a former division of the workloads for the parts that this one added, whenever they begin.

        Raises:
            Stopped: The process is asked to end before the broker has it.
        """
        while not await self._put(_legacy(self._share.parts), state):
            await self.pause(_BACKOFF_S[-1])

    async def _put(self, name: str, state: Checkpoint) -> bool:
        try:
            data = checkpoint.encode(state)
        except ValueError as error:
            self.complain(f"cannot write a checkpoint: {error}")
            return False
        try:
            async with asyncio.timeout(_OBJECT_S):
                await self._slots.put(name, data)
        except TRANSIENT as error:
            self.complain(f"cannot store a checkpoint of {len(data)} bytes: {error!r}")
            return False
        except Taken:
            self.complain("a checkpoint's place holds something else than what was written or read there; trying on")
            return False
        return True

    async def load(self) -> list[Checkpoint]:
        """The checkpoints that this part may go on with, the best first; one that is damaged or of the future is refused with a log line.

        A part that was added goes on with what was learned when there were fewer: part 0's of that time, or what that has left for it.

        Raises:
            Stopped: The process is asked to end before the broker answers.
        """
        part, parts = self._share.part, self._share.parts
        own = sorted(await self._read(_checkpoints(part)), key=lambda c: c.number, reverse=True)
        if not part:
            return [await self._behind(checkpoint) for checkpoint in own]
        own = [checkpoint for checkpoint in own if checkpoint.parts == parts]
        first = [checkpoint for checkpoint in await self._read(_checkpoints(0)) if checkpoint.parts != parts]
        left = await self._read((_legacy(parts),))
        others = sorted([*left, *first], key=lambda c: (c.read, c.number), reverse=True)
        # What is its own is older only where the workloads were divided like this once before.
        older = own and others and own[0].read < others[0].read
        return [*others, *own] if older else [*own, *others]

    async def _behind(self, first: Checkpoint) -> Checkpoint:
        """Part 0's checkpoint; where there were more parts, at the place of the one that had read least: nobody else goes on with what that had not judged."""
        if first.parts <= self._share.parts:
            return first
        last = first
        for part in range(1, first.parts):
            ours = [saved for saved in await self._read(_checkpoints(part)) if saved.parts == first.parts]
            last = min([last, *sorted(ours, key=lambda c: c.number)[-1:]], key=lambda c: c.read)
        place: dict[str, Any] = {name: last.facts[name] for name in ("watermarks", "positions") if name in last.facts}
        return replace(first, position=last.position, facts={**first.facts, **place})

    async def _read(self, names: Sequence[str]) -> list[Checkpoint]:
        found = []
        for name in names:
            # First: what is written there after this look is not what was read, and must not be replaced unseen.
            await self.persist(partial(self._slots.look, name), f"look for {name}")
            data = await self.persist(partial(self._object, name), f"read {name}")
            if data is None:
                continue
            try:
                found.append(checkpoint.decode(data))
            except CorruptData as error:
                _LOG.error("refused checkpoint %s: %s", name, error)
        return found

    async def persist(self, act: Callable[[], Awaitable[T]], what: str) -> T:
        """Try until the broker does it.

        Raises:
            Stopped: The process is asked to end before.
        """
        attempt = 0
        while True:
            self._progress.turn()
            try:
                return await act()
            except TRANSIENT as error:
                self.complain(f"cannot {what}: {error!r}; trying on")
            await self.pause(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            attempt += 1

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: The process is asked to end.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        raise Stopped

    def complain(self, text: str) -> None:
        """Log a trouble with the broker, at most once a minute."""
        if time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _LOG.warning("%s", text)

    async def _finding(self, finding: Finding) -> None:
        payload = finding.encode()
        attempts = 0

        async def act() -> None:
            nonlocal attempts
            attempts += 1
            try:
                copy = await self._publish(subjects.findings(finding.severity), payload, finding.id)
            except APIError as error:
                if error.err_code != _TOO_LARGE:
                    raise
                self.refused += 1
                self.complain(f"the broker refuses finding {finding.id} of {len(payload)} bytes: {error.description}")
            else:
                # A copy is a predecessor's, which counted it, unless the answer to an attempt of our own was lost.
                if not copy or attempts > 1:
                    self._progress.store(finding)

        await self.persist(act, f"store finding {finding.id}")

    async def _publish(self, subject: str, payload: bytes, message_id: str) -> bool:
        """Publish; whether the broker had a message of this id already."""
        # Its future resolves by the acknowledgement alone; the deadline is our own, too, as nats-py waits while it reconnects.
        async with asyncio.timeout(_ACK_S + 1):
            stored = await self._jetstream.publish(
                subject, payload, timeout=_ACK_S, headers={"Nats-Msg-Id": message_id}
            )
        return bool(stored.duplicate)

    async def _object(self, name: str) -> bytes | None:
        bucket = await self._jetstream.object_store(subjects.ANALYTICS_BUCKET)
        try:
            async with asyncio.timeout(_OBJECT_S):
                return (await bucket.get(name)).data
        except ObjectNotFoundError:
            return None
        except (DigestMismatchError, BadObjectMetaError) as error:
            _LOG.error("refused checkpoint %s: %r", name, error)
            return None
        except TimeoutError:
            # The bucket answered a moment ago, so that it is the object's chunks that are missing.
            _LOG.error("refused checkpoint %s: its content does not come within %g s", name, _OBJECT_S)
            return None


def _checkpoints(part: int) -> tuple[str, ...]:
    return tuple(f"checkpoint-{part}-{side}" for side in "ab")


def _legacy(parts: int) -> str:
    return f"checkpoint-for-{parts}"
