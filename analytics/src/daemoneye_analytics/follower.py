"""The cluster's configuration of analytics, followed.

Responsible for having the newest document: read by a direct get at the start, after a reconnection and now and then, and heard of by a
plain subscription, so that neither a consumer nor a right to JetStream's API is needed. What it says is `daemoneye_analytics.policies`'
affair, when it takes effect the consumer's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.broker.link import TRANSIENT
from daemoneye.errors import CorruptData
from daemoneye_analytics import policies
from daemoneye_analytics.detectors.base import Detector
from daemoneye_analytics.policies import Configuration

_LOG = logging.getLogger(__name__)
_AGAIN_S: Final = 60.0
# What was heard may have been refused by the bucket, and a replica of it may lag: the bucket is asked soon after.
_CONFIRM_S: Final = 5.0
_RETRY_S: Final = 1.0
_MISSING_S: Final = 2.0
_PLACE: Final = (subjects.CONFIGS_BUCKET, subjects.ANALYTICS_CONFIG)


class Follower:
    """One key of one bucket.

    Attributes:
        changed: There may be something new: `look`.
        configuration: What is in force; None while there is no document.
        error: Why the newest document is not in force, empty otherwise.
    """

    def __init__(self, client: Client, known: Mapping[str, type[Detector]], complain: Callable[[str], None]) -> None:
        self.changed = asyncio.Event()
        self.configuration: Configuration | None = None
        self.error = ""
        self._client = client
        self._known = known
        self._complain = complain
        self._heard: list[bytes | None] = []
        self._document: bytes | None = None
        self._began = False
        self._due = float("-inf")
        self._asked = float("-inf")

    async def open(self) -> None:
        """Listen, before anything is read: what changes in between is heard."""
        await self._client.subscribe(subjects.key_value(*_PLACE), cb=self._on_message)

    def again(self) -> None:
        """Read again: something may have been missed."""
        self._due = float("-inf")
        self.changed.set()

    def miss(self, names: Collection[str]) -> None:
        """Policies that a batch names; one that is not known may be in a document that has not come yet."""
        now = time.monotonic()
        unknown = self.configuration is not None and not self.configuration.policies.issuperset(names)
        if unknown and now - self._asked >= _CONFIRM_S:
            self._asked = now
            self.again()

    async def look(self) -> bool:
        """Take what was heard, or read if that is due; whether `configuration` is another one now."""
        self.changed.clear()
        if self._heard:
            document = self._heard[-1]
            self._heard.clear()
            self._due = time.monotonic() + _CONFIRM_S
            return self._take(document)
        if time.monotonic() < self._due:
            return False
        try:
            document = await values.read(self._client, *_PLACE)
        except TRANSIENT as error:
            self._due = time.monotonic() + _RETRY_S
            self._complain(f"cannot read analytics' configuration: {error!r}")
            return False
        self._due = time.monotonic() + (_AGAIN_S if document is not None else _MISSING_S)
        return self._take(document)

    async def _on_message(self, message: Msg) -> None:
        self._heard.append(values.value(message))
        self.changed.set()

    def _take(self, document: bytes | None) -> bool:
        if self._began and document == self._document:
            return False
        self._began, self._document = True, document
        if document is None:
            _LOG.warning("there is no configuration: events wait in the stream until there is one")
            self.configuration, self.error = None, ""
            return True
        try:
            self.configuration, self.error = policies.read(document, self._known), ""
        except CorruptData as error:
            self.error = str(error)
            _LOG.error("%s; what was in force stays", error)
            return False
        for name, problem in self.configuration.problems.items():
            _LOG.warning("policy %s: %s", name, problem)
        return True
