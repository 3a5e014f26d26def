"""From analytics' request to its answer: take it, wait for what comes, write the file, bring it to the broker, say so.

Responsible for one request after another without holding up anything else of the sensor; what cannot be kept or sent is said to analytics, and never more
than logged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.ending import end
from daemoneye.errors import CorruptData, DaemonEyeError
from daemoneye.evidence import Arm, Kept
from daemoneye.nodeconfig import NodeConfig
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence import addresses, upload, writing
from daemoneye_sensor.evidence.keeper import Collected, Keeper
from daemoneye_sensor.evidence.matching import pairs

_AT_ONCE: Final = 2
"""Files that are written and sent at the same time."""

_log = logging.getLogger(__name__)


def wanted(config: NodeConfig) -> bool:
    """Whether a policy of the node has packets of its findings kept."""
    asked = [policy.network for policy in config.policies if policy.network.get("enable_packet_capture") is True]
    told = [network.get("evidence") for network in asked]
    return any(isinstance(one, Mapping) and one.get("enabled") is True for one in told)


class Service:
    """Serves one node's requests over one connection.

    Attributes:
        sent: Files that analytics has.
        failed: Requests that were taken and of which it has none.
        bytes: Bytes of the files that the broker has.
    """

    def __init__(
        self,
        node: str,
        keeper: Keeper,
        dissector: Dissector,
        *,
        clock_offset_ns: Callable[[], int],
        hosts: Callable[[str], tuple[bytes, ...]] = addresses.of_pod,
    ) -> None:
        """`node` is its plain name; `clock_offset_ns` gives wall time minus CLOCK_BOOTTIME, `hosts` a pod's addresses by its UID."""
        self.sent = self.failed = self.bytes = 0
        self._node = node
        self._keeper = keeper
        self._dissector = dissector
        self._clock_offset_ns = clock_offset_ns
        self._hosts = hosts
        self._sending: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def run(self, client: Client) -> None:
        """Serve until cancelled."""
        loop, some = asyncio.get_running_loop(), asyncio.Event()
        self._keeper.woken = lambda: loop.call_soon_threadsafe(some.set)  # packets may be read in another thread
        asked = partial(self._asked, client)
        listening = await client.subscribe(subjects.evidence_arm(self._node), cb=asked)
        try:
            while True:
                some.clear()
                for one in self._keeper.due():
                    self._start(self._send(client, one))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._keeper.due_in()):
                        await some.wait()
        finally:
            self._keeper.woken = lambda: None
            await end(self._sending)
            if client.is_connected:
                await listening.unsubscribe()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _asked(self, client: Client, message: Msg) -> None:
        try:
            request = Arm.decode(message.data)
            if request.node != self._node:
                raise CorruptData(f"it is meant for node {request.node!r}")
        except CorruptData as error:
            _log.warning("%s: %s", message.subject, error)
            return
        hosts = await asyncio.to_thread(self._hosts, request.pod_uid) if request.pod_uid else ()
        # The look-back is searched at once.
        problem = await asyncio.to_thread(self._keeper.arm, request, pairs(request.conversations, hosts))
        if problem:
            self._start(self._refuse(client, request, problem))

    async def _refuse(self, client: Client, request: Arm, problem: str) -> None:
        async with self._gate:
            await self._fail(client, request, problem)

    async def _fail(self, client: Client, request: Arm, problem: str) -> None:
        try:
            await upload.tell(client, Kept(request.finding, self._node, problem=problem))
        except (DaemonEyeError, *TRANSIENT) as error:
            _log.warning("finding %s: %s (%s)", request.finding, problem, error)

    async def _send(self, client: Client, one: Collected) -> None:
        if not one.frames:
            self.failed += 1
            await self._refuse(client, one.request, "no packet of it was seen on the interfaces that are captured")
            return
        async with self._gate:
            try:
                offset = self._clock_offset_ns()
                sent = await upload.upload(client, self._node, writing.file_of(self._dissector, one, offset))
                first, last = writing.span(one, offset)
                kept = Kept(
                    one.request.finding, self._node, sent.upload, sent.size, sent.chunks, sent.sha256, frames=one.frames, first=first, last=last,
                    dropped=sum(one.dropped.values()), complete=one.complete,
                )  # fmt: skip
                await upload.tell(client, kept)
            except (DaemonEyeError, *TRANSIENT) as error:
                self.failed += 1
                _log.warning("packets of finding %s are lost: %s", one.request.finding, error)
                await self._fail(client, one.request, f"its packets could not be written or sent: {error}"[:300])
            else:
                self.sent += 1
                self.bytes += kept.size
