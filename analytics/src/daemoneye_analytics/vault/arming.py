"""Which findings have packets kept, and that their nodes are told.

Responsible for the decision (a policy of the finding's asks for it, the finding is fresh, what it is about was not asked for a moment ago) and for
two messages; best effort: packets are a help to whoever looks at a finding, and neither events nor findings wait for them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.evidence import MAX_SECONDS, MAX_SIZE_MB, Arm, Conversation, Entry
from daemoneye.findings import Finding, Subject
from daemoneye_analytics.vault.bucket import Bucket

_LOG = logging.getLogger(__name__)
FRESH_S: Final = 120.0
"""A finding that happened longer ago finds nobody's packets any more."""
AGAIN_S: Final = 600.0
"""Findings that repeat one within that time share its packets."""
PER_MINUTE: Final = 30
"""Findings for which packets are asked."""
SHARING_PER_MINUTE: Final = 300
_REMEMBERED: Final = 4096
_WAITING: Final = 256
_WITHIN_S: Final = 5.0
_MINUTE: Final = 60.0
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a policy allows to be kept for one finding."""

    seconds: int
    max_bytes: int


def wanted(policies: Iterable[object]) -> dict[str, Wanted]:
    """By name, from the entries of analytics' configuration; one that is none allows nothing."""
    found = {}
    for policy in policies:
        entry = policy.get("evidence") if isinstance(policy, dict) else None
        if not isinstance(entry, dict):
            continue
        seconds, size = entry.get("seconds"), entry.get("max_size_mb")
        if (
            isinstance(seconds, int)
            and isinstance(size, int)
            and 0 < seconds <= MAX_SECONDS
            and 0 < size <= MAX_SIZE_MB
        ):
            found[str(policy.get("name", ""))] = Wanted(seconds, size << 20)  # type: ignore[attr-defined]
    return found


def namespace_of(subject: Subject, release: str) -> str:
    """Namespace of the finding's object, as the operator places it: the pod's, else the release's."""
    return subject.namespace if subject.pod and _LABEL.fullmatch(subject.namespace) else release


class Arming:
    """Tells nodes to keep packets.

    Attributes:
        asked: Findings for which packets were asked.
        shared: Findings that share another one's packets.
        skipped: Findings for which a policy wants packets and none were asked: too old, about nothing that has packets, too many, or the broker was away.
    """

    def __init__(
        self,
        client: Client,
        bucket: Bucket,
        release: str,
        clock: Callable[[], float] = time.time,
        every: Wanted | None = None,
    ) -> None:
        """`release` is the namespace of the installation; `every` is what is kept for every finding, on one machine, where none names its policies."""
        self._every = every
        self.asked = self.shared = self.skipped = 0
        self._client = client
        self._bucket = bucket
        self._release = release
        self._clock = clock
        self._known: dict[
            tuple[str, ...], tuple[float, str]
        ] = {}  # what a finding repeats: when it was asked for, and by whom
        self._waiting: deque[tuple[Finding, list[Wanted]]] = deque(maxlen=_WAITING)
        self._offered = asyncio.Event()
        self._minute = float("-inf")
        self._left = {True: 0, False: 0}
        self._complained = float("-inf")

    def offer(self, findings: Sequence[Finding], policies: Mapping[str, Wanted]) -> None:
        """Take note of findings that were stored just now; what `run` does not get to is skipped."""
        for finding in findings:
            allowed = [policies[name] for name in finding.policies if name in policies]
            allowed += [self._every] if self._every else []
            if allowed:
                self.skipped += len(self._waiting) == _WAITING
                self._waiting.append((finding, allowed))
                self._offered.set()

    async def run(self) -> None:
        """Ask for packets, for ever."""
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._waiting:
                await self._arm(*self._waiting.popleft())

    async def _arm(self, finding: Finding, allowed: Sequence[Wanted]) -> None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                done = await self._one(finding, allowed)
        except (*TRANSIENT, ValueError) as error:
            done = False
            self._complain(f"packets of finding {finding.id} are not kept: {error!r}")
        self.skipped += not done

    async def _one(self, finding: Finding, allowed: Sequence[Wanted]) -> bool:
        now = self._clock()
        what = conversations(finding.subject)
        if now - _moment(finding.time) > FRESH_S or not (what or finding.subject.pod_uid) or not finding.subject.node:
            return False
        seconds = max(one.seconds for one in allowed)
        subject = finding.subject
        key = (finding.detector, subject.node, subject.workload, subject.image, finding.key)
        asked_at, first = self._known.get(key, (float("-inf"), ""))
        shares = now - asked_at < max(AGAIN_S, seconds) and first != finding.id
        if not self._may(now, shares=shares):
            return False
        entry = Entry(
            finding.id, subject.node, namespace_of(subject, self._release), armed_ns=int(now * 1e9), seconds=seconds, same_as=first if shares else ""
        )  # fmt: skip
        # The entry first: a sensor that is quick must find it there.
        await self._bucket.write(entry)
        if shares:
            self.shared += 1
            return True
        size = max(one.max_bytes for one in allowed)
        request = Arm(finding.id, subject.node, seconds, size, what, subject.pod_uid)
        await self._client.publish(subjects.evidence_arm(subject.node), request.encode())
        self._known.pop(key, None)
        while len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = (now, finding.id)
        self.asked += 1
        return True

    def _may(self, now: float, *, shares: bool) -> bool:
        if now - self._minute >= _MINUTE:
            self._minute, self._left = now, {True: SHARING_PER_MINUTE, False: PER_MINUTE}
        self._left[shares] -= 1
        return self._left[shares] >= 0

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if now - self._complained >= _MINUTE:
            self._complained = now
            _LOG.warning("%s", text)


def conversations(subject: Subject) -> tuple[Conversation, ...]:
    """Between whom it happened; none where it is not about the network."""
    if not subject.src_ip:
        return ()
    try:
        return (Conversation(subject.src_ip, subject.dst_ip, subject.src_port, subject.dst_port, subject.proto),)
    except ValueError:
        return ()


def _moment(text: str) -> float:
    """Seconds since 1970."""
    return dt.datetime.fromisoformat(text).timestamp()
