"""Who of several replicas judges a part of the workloads: a lease on one key of a KV bucket.

Responsible for one holder at a time, whatever is killed, paused or cut off; what the holder does is `daemoneye_analytics.main`'s affair.

Nobody compares clocks. Whoever waits takes the lease when it has seen the same revision of the key for its whole term by its own monotonic
clock. Whoever holds it writes a new revision three times a term, and believes in it only for `_SURE` of a term from the moment at which it
*sent* the last one that was stored, by a clock that goes on while the machine sleeps. A virtual machine that is halted has no such clock: what
could not be undone is done right after `confirm` only. Every write names the revision that it replaces, so that of two writers one is refused.
A holder that could not renew in time stops, and goes on if the key still has its own last revision: then nobody took its place.

A key that is not there is taken at once by who has seen no holder: an installation begins so, and nobody can tell that from a broker that lost its
store a moment ago. Who held it then finds the other's revision at its next write, or before it places anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.ending import end

_LOG = logging.getLogger(__name__)
_SURE: Final = 0.8
LOOK_S: Final = 1.0
"""Between two looks of who waits: a lease that was given back is taken within that time."""
WRONG_LAST: Final = 10071
"""nats-server: the subject's last sequence is another than the one that a message names."""
_REQUEST_S: Final = 2.0
_RETRY_S: Final = 0.5
_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What the key says: who holds it (nobody: empty), in which session, and its revision, 0 where there is no key."""

    holder: str = ""
    session: str = ""
    revision: int = 0


def holder() -> str:
    """Who one is: the pod's name, so that a container that was started again need not wait for itself; elsewhere something new each time."""
    return os.environ.get("DAEMONEYE_POD") or uuid.uuid4().hex


class Lease:
    """One part's, for one process that takes it at most once.

    Attributes:
        part: Number of the part.
        key: Of the bucket.
        lost: Somebody else holds it, or may.
        other: Who else held it when that was last looked at, empty if nobody did.
    """

    def __init__(self, client: Client, part: int, holder: str, term: float) -> None:
        """`holder` is who it is taken for, `term` the seconds for which nobody else takes it from who falls silent."""
        self.lost = asyncio.Event()
        self.other = ""
        self._client = client
        self._jetstream = JetStreamContext(client, timeout=_REQUEST_S)
        self.part = part
        self.key = f"analytics.{part}"
        self._holder = holder
        self._term = term
        self._session = uuid.uuid4().hex
        self._revision = 0
        self._sure_until = float("-inf")
        self._writing = asyncio.Lock()
        self._given_back = False
        self._seen: tuple[Entry, float] | None = None
        self._logged = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._client.is_connected

    def holds(self) -> bool:
        """Whether nobody else can hold it at this moment."""
        return not self.lost.is_set() and _awake_or_asleep() < self._sure_until

    async def take(self) -> bool:
        """Look at it, and take it if it is nobody's; whether it is ours."""
        try:
            entry = await self._read()
            if self._free(entry) and await self._write(self._holder, entry.revision):
                _LOG.info("holds the lease %s", self.key)
                return True
        except TRANSIENT as error:
            self._complain(f"cannot take the lease {self.key}: {error!r}; trying on")
        return False

    @asynccontextmanager
    async def kept(self, stop: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """Renew it while the context lasts, then give it back; what that gives is set when the lease is lost, or with `stop`."""
        ending = asyncio.Event()
        tasks = [asyncio.create_task(self.keep()), asyncio.create_task(_first(ending, stop, self.lost))]
        try:
            yield ending
        finally:
            await self.give_back()
            await end(tasks)

    async def keep(self) -> None:
        """Renew it until it is lost or given back."""
        wait = self._term / 3
        while not self.lost.is_set():
            await _pause(self.lost, wait)
            wait = _RETRY_S
            try:
                async with self._writing:
                    if self._given_back:
                        return
                    if await self._write(self._holder, self._revision):
                        wait = self._term / 3
                    else:
                        await self._settle()
            except TRANSIENT as error:
                self._complain(f"cannot renew the lease {self.key}: {error!r}; trying on")

    async def confirm(self) -> bool:
        """Renew it now; whether nobody else held it at that moment, whatever this process slept through.

        Raises:
            nats.errors.Error: The broker does not answer.
        """
        async with self._writing:
            if self.lost.is_set() or self._given_back:
                return False
            renewed = await self._write(self._holder, self._revision)
            if not renewed:
                await self._settle()
            return renewed

    async def give_back(self) -> None:
        """Let the next one take it at once."""
        try:
            async with self._writing:
                self._given_back = True
                if self.holds():
                    await self._write("", self._revision)
        except TRANSIENT as error:
            self._complain(f"cannot give back the lease {self.key}: {error!r}; it lapses after {self._term:g} s")
        finally:
            self._sure_until = float("-inf")

    def _free(self, entry: Entry) -> bool:
        now = time.monotonic()
        if self._seen is None or self._seen[0] != entry:
            self._seen = (entry, now)
            # A key that vanished went with the broker's store, not with its holder, who makes it anew.
            if entry.revision or not self.other:
                self.other = "" if entry.holder == self._holder else entry.holder
        return not self.other or now - self._seen[1] >= self._term

    async def _settle(self) -> None:
        """A write was refused: the answer to one of our own was lost, the broker lost its store, or the lease is somebody else's."""
        entry = await self._read()
        if entry.revision and entry.session != self._session:
            _LOG.error("lost the lease %s to %s", self.key, entry.holder or "nobody: it was given back")
            self.lost.set()
        self._revision = entry.revision

    async def _read(self) -> Entry:
        _connected(self._client)
        subject = subjects.direct_get(subjects.LEASES_BUCKET, self.key)
        message = await self._client.request(subject, b"", timeout=_REQUEST_S)
        headers = message.headers or {}
        status = headers.get("Status")
        if status == "404":
            return Entry()
        if status is not None:
            raise nats.errors.Error(f"{status} {headers.get('Description', '')}".strip())
        revision = int(headers["Nats-Sequence"])
        try:
            said = json.loads(message.data)
            return Entry(str(said["holder"]), str(said["session"]), revision)
        except (ValueError, KeyError, TypeError):
            return Entry("somebody who writes something else", "", revision)

    async def _write(self, holder: str, revision: int) -> bool:
        """Replace this revision; False if the key has another one."""
        _connected(self._client)
        sent = _awake_or_asleep()
        document = json.dumps({"holder": holder, "session": self._session}).encode()
        try:
            async with asyncio.timeout(_REQUEST_S):
                stored = await self._jetstream.publish(
                    subjects.key_value(subjects.LEASES_BUCKET, self.key),
                    document,
                    headers={"Nats-Expected-Last-Subject-Sequence": str(revision)},
                )
        except APIError as error:
            if error.err_code == WRONG_LAST:
                return False
            raise
        self._revision, self._sure_until = stored.seq, sent + _SURE * self._term
        return True

    def _complain(self, text: str) -> None:
        if time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _LOG.warning("%s", text)


async def take_one(leases: Sequence[Lease], stop: asyncio.Event) -> Lease | None:
    """Wait until one of some leases is ours; None if the process is asked to end before."""
    while not stop.is_set():
        for lease in leases:
            if await lease.take():
                return lease
        await _pause(stop, LOOK_S)
    return None


def _awake_or_asleep() -> float:
    """Seconds of this machine, those of a suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _connected(client: Client) -> None:
    # nats-py would keep the request, and send it whenever the broker is back.
    if not client.is_connected:
        raise nats.errors.ConnectionReconnectingError


async def _pause(until: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        return


async def _first(then: asyncio.Event, *events: asyncio.Event) -> None:
    """Set one event when one of the others is."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        then.set()
    finally:
        await end(waiting)
