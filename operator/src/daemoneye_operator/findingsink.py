"""Findings from the stream to the API server: read, aggregated, stored, and only then acknowledged.

Responsible for that order and for going on after any failure; which objects there are is decided by
:mod:`daemoneye_operator.reconcile.findings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.broker.pull import Puller
from daemoneye.errors import CorruptData
from daemoneye.findings import Finding
from daemoneye_operator import resources
from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.reconcile.exception import Exceptions
from daemoneye_operator.reconcile.findingobject import Ref
from daemoneye_operator.reconcile.findings import Aggregation, Outcome, Write
from daemoneye_operator.reconcile.tally import Tallies

CONSUMER: Final = "operator"
_ACK_WAIT_S: Final = 60.0
_LOOK_S: Final = 1.0
_RETRY_S: Final = 1.0
_MAX_PENDING: Final = 256
_REMEMBER_S: Final = 60.0
COUNT_EVERY_S: Final = 5.0
"""Seconds between two writes of one Finding that change its count alone; well below `_ACK_WAIT_S`."""
_UNACKNOWLEDGED: Final = 2048
_OF_ONE_NAMESPACE: Final = 256
"""Places that findings may hold whose objects the API server does not take and that are of one namespace: a webhook that fails there must not
keep all others from being read."""
_LATER_S: Final = 30.0
_IN_FLIGHT: Final = 65_536
"""Findings that the broker may have out with us: those that wait here, and those that were put off."""
_MINUTE: Final = 60.0

_log = logging.getLogger(__name__)


class FindingSink:
    """One durable consumer of the stream of findings.

    Attributes:
        corrupt: Messages that were no findings.
        lost: Findings whose object could not be written for good (its namespace is gone).
        counted: Findings that were counted into objects and policies, by severity.
    """

    def __init__(
        self,
        kube: Kube,
        aggregation: Aggregation,
        exceptions: Exceptions,
        tallies: Tallies,
        changed: Callable[[], None],
    ) -> None:
        self.corrupt = 0
        self.lost = 0
        self.counted: Counter[str] = Counter()
        self._kube = kube
        self._aggregation = aggregation
        self._exceptions = exceptions
        self._tallies = tallies
        self._changed = changed
        # By the message's place in the stream: what is delivered again takes the place of what it repeats.
        self._unacknowledged: dict[int, tuple[Msg, Outcome | None]] = {}
        self._gone: set[Ref] = set()
        self._failing: set[Ref] = set()
        self._tried: dict[Ref, float] = {}
        self._logged = float("-inf")

    def counters(self) -> dict[str, int]:
        """Findings that became no object: too many new ones at once, refused for good, unreadable."""
        return {"suppressed": self._aggregation.suppressed, "lost": self.lost, "corrupt": self.corrupt}

    @property
    def waiting(self) -> int:
        """Findings that are not acknowledged because the API server does not take their object."""
        return self._stuck().total()

    async def run(self, client: Client) -> None:
        """Read until the connection is closed; a broker or API server that is away is waited for."""
        puller: Puller | None = None
        while not client.is_closed:
            try:
                if puller is None or puller.gone:
                    if puller is not None:
                        await puller.close()
                    puller = await self._place(client)
                room = len(self._unacknowledged) < _UNACKNOWLEDGED
                await self._take(await puller.get(_LOOK_S) if room else [])
                done = await self.flush()
                await self._acknowledge()
                if not done or not room:
                    await asyncio.sleep(_RETRY_S)
            except (*TRANSIENT, APIError, NotFoundError) as error:
                self._complain(f"cannot read {subjects.FINDINGS}: {error!r}")
                if puller is not None:
                    with contextlib.suppress(*TRANSIENT):
                        await puller.close()
                puller = None
                await asyncio.sleep(_RETRY_S)

    async def _place(self, client: Client) -> Puller:
        """The durable consumer goes on at the first finding that is not acknowledged; what was in flight comes again, and is known."""
        config = ConsumerConfig(
            durable_name=CONSUMER,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=_IN_FLIGHT,
        )
        await client.jetstream(timeout=5).add_consumer(subjects.FINDINGS, config)
        self._unacknowledged.clear()
        puller = Puller(client, subjects.FINDINGS, CONSUMER)
        await puller.open()
        return puller

    async def _take(self, messages: list[Msg]) -> None:
        now = time.time()
        full = {namespace for namespace, places in self._stuck().items() if places >= _OF_ONE_NAMESPACE}
        for message in messages:
            sequence = message.metadata.sequence.stream
            outcome: Outcome | None = None
            try:
                finding = Finding.decode(message.data)
                if full and sequence not in self._unacknowledged and self._aggregation.namespace(finding) in full:
                    with contextlib.suppress(*TRANSIENT):  # it comes again anyway
                        await message.nak(_LATER_S)
                    continue
                outcome = self._aggregation.add(finding, self._exceptions, now)
            except CorruptData as error:
                self.corrupt += 1
                self._complain(f"a message of {subjects.FINDINGS} is no finding: {error}")
            former = self._unacknowledged.get(sequence, (message, None))[1]
            self._unacknowledged[sequence] = (message, former or outcome)

    def _stuck(self) -> Counter[str]:
        """Places held by findings whose object the API server does not take, by namespace."""
        refs = (outcome.ref for _, outcome in self._unacknowledged.values() if outcome is not None)
        return Counter(ref.namespace for ref in refs if ref in self._failing)

    def gone(self, ref: Ref) -> None:
        """Somebody, perhaps we ourselves, deleted an object: it is looked for before the next write."""
        self._gone.add(ref)

    async def flush(self) -> bool:
        """Write everything that is due; whether all of it was done.

        An object that only counts on is written every few seconds at most: a noisy workload must not become a load for the API server.
        """
        now = time.time()
        await self._look_for(self._gone)
        self._tried = {ref: at for ref, at in self._tried.items() if 0 <= now - at < _REMEMBER_S}
        # Who has waited longest comes first: what fails, or repeats all the time, keeps nobody from his turn.
        pending = sorted(self._aggregation.pending(now), key=lambda write: self._tried.get(write.ref, 0.0))
        due = [w for w in pending if w.obj is not None or now - self._tried.get(w.ref, 0.0) >= COUNT_EVERY_S]
        writes = due[:_MAX_PENDING]
        gone = self._aggregation.deletions(now)
        done = await asyncio.gather(*map(self._write, writes), *map(self._delete, gone))
        if gone:
            self._tallies.drop(gone)
        return all(done)

    async def _look_for(self, refs: set[Ref]) -> None:
        """An object that we replaced is there again; one that a person or its namespace's end removed is not."""
        for ref in list(refs):
            try:
                there = await self._kube.get(resources.finding(ref)) is not None
            except ApiError as error:
                self._complain(str(error))
                return
            refs.discard(ref)
            if not there:
                self._aggregation.vanished(ref)
                self._tallies.drop([ref])
                self._changed()

    async def _write(self, write: Write) -> bool:
        path = resources.finding(write.ref)
        self._tried[write.ref] = time.time()
        try:
            if write.replace:
                await self._kube.delete(path)
            if write.obj is not None:
                await self._kube.apply(path, write.obj)
            identity = {"apiVersion": "daemoneye.io/v1alpha1", "kind": "Finding"}
            metadata = {"name": write.ref.name, "namespace": write.ref.namespace}
            await self._kube.apply(f"{path}/status", {**identity, "metadata": metadata, "status": write.status})
        except ApiError as error:
            done = self._failed(write, error)
        else:
            done = await self._event(write)
        (self._failing.discard if done else self._failing.add)(write.ref)
        return done

    async def _event(self, write: Write) -> bool:
        """The Event beside a Finding; one that is refused for good, by a webhook say, does not undo the object."""
        if write.event is not None:
            meta = write.event["metadata"]
            path = path_of(resources.EVENTS, "events", meta["name"], meta["namespace"])
            try:
                await self._kube.apply(path, write.event)
            except ApiError as error:
                self._complain(str(error))
                if error.transient:
                    return False
                self._aggregation.event_failed(write, time.time())
                write = replace(write, event=None)
        self._aggregation.stored(write, time.time())
        return True

    def _failed(self, write: Write, error: ApiError) -> bool:
        """Whether the write is done with: a namespace that is gone, or an object that the server will never take, must not hold up others."""
        if error.transient:
            self._complain(str(error))
            return False
        gone = error.status == 404 or "being terminated" in str(error)
        if gone and write.obj is None:
            # The object was deleted by somebody while it was counted: it is made anew at the next turn.
            self._aggregation.vanished(write.ref)
            return False
        self.lost += 1
        if write.obj is None:
            # The object is there, and its status will never be taken: it must not hold up every other.
            self._complain(f"the status of finding {write.ref.namespace}/{write.ref.name} is refused: {error}")
            self._aggregation.stored(replace(write, event=None), time.time())
            return True
        self._complain(f"finding {write.ref.namespace}/{write.ref.name} becomes no object: {error}")
        self._aggregation.deleted(write.ref)
        return True

    async def _delete(self, ref: Ref) -> bool:
        try:
            await self._kube.delete(resources.finding(ref))
        except ApiError as error:
            self._complain(str(error))
            return False
        self._aggregation.deleted(ref)
        return True

    async def _acknowledge(self) -> None:
        """Messages whose objects are as they should be; one that cannot be written holds up its own alone."""
        dirty, before = self._aggregation.dirty(), len(self._unacknowledged)
        self._failing &= dirty
        for sequence, (message, outcome) in list(self._unacknowledged.items()):
            if outcome is not None and outcome.ref in dirty:
                continue
            with contextlib.suppress(*TRANSIENT):
                await message.ack()
            del self._unacknowledged[sequence]
            if outcome is not None:
                # Counted when it is done with: who comes after us reads the rest again.
                self._tallies.add(outcome)
                if outcome.counted:
                    self.counted[outcome.spec["severity"]] += 1
        if len(self._unacknowledged) != before:
            self._changed()

    def _complain(self, text: str) -> None:
        if time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _log.warning("%s", text)
