"""kopf's handlers: thin, one module.

Only ``on.event``: they put what changed into the cache, and the one level-based pass does the rest. So kopf adds no finalizer and keeps no
annotation of its own on anybody's object, and a missed event is put right by the next resync.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any, Final

import kopf

from daemoneye_operator import resources
from daemoneye_operator.cache import Cache

_WATCH_S: Final = 290
_BACKOFFS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts; the last one stays."""
_MINUTE: Final = 60.0
_KINDS: Final = (resources.POLICIES, resources.PEERS, resources.EXCEPTIONS)
"""Not Findings: kopf keeps a worker and whole objects for each, and of those we want to know one thing, that they are gone."""


class _Backoffs:
    """_BACKOFFS without end: with kopf's own it would give up an API server, or a proxy before it, that has answered 503 for a minute."""

    def __iter__(self) -> Iterator[float]:
        return chain(_BACKOFFS, repeat(_BACKOFFS[-1]))


class _OnceAMinute(logging.Filter):
    """Lets one line a minute pass: what goes wrong again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = float("-inf")

    def filter(self, _: logging.LogRecord) -> bool:
        if time.monotonic() - self._passed < _MINUTE:
            return False
        self._passed = time.monotonic()
        return True


class Across:
    """The cache as kopf's thread sees it: what it says is done in the loop that the cache belongs to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cache: Cache) -> None:
        self._loop = loop
        self._cache = cache

    def put(self, plural: str, obj: dict[str, Any]) -> None:
        """An object was made or changed."""
        self._loop.call_soon_threadsafe(self._cache.put, plural, obj)

    def gone(self, plural: str, obj: dict[str, Any]) -> None:
        """An object was deleted."""
        self._loop.call_soon_threadsafe(self._cache.gone, plural, obj)


def registry(cache: Across) -> kopf.OperatorRegistry:
    """Handlers that fill a cache."""
    handlers = kopf.OperatorRegistry()
    for plural in _KINDS:
        _follow(handlers, cache, plural)
    kopf.on.login(registry=handlers)(_login)
    return handlers


def settings() -> kopf.OperatorSettings:
    """How kopf behaves here; its traps are in its issues #585, #957, #1120 (watches that die unseen) and #800 (annotations)."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False  # Events are about findings, not about our logs
    chosen.scanning.disabled = True  # without it kopf lists namespaces and CRDs of the whole cluster
    chosen.watching.server_timeout = _WATCH_S
    chosen.watching.client_timeout = _WATCH_S + 10
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    chosen.networking.error_backoffs = _Backoffs()
    # A worker waits so long for its object's next event before it ends; with kopf's five seconds each status of ours would keep one.
    chosen.queueing.idle_timeout = 0.5
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._cogs.clients.watching").addFilter(_OnceAMinute())
    # It warns that signals do not reach its thread: they are main's.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    return chosen


def _follow(handlers: kopf.OperatorRegistry, cache: Across, plural: str) -> None:
    async def follow(*, event: Any, **_: Any) -> None:
        obj = event["object"]
        if event["type"] == "DELETED":
            cache.gone(plural, obj)
        else:
            cache.put(plural, obj)

    kopf.on.event("daemoneye.io", "v1alpha1", plural, registry=handlers, id=f"follow-{plural}")(follow)


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_via_client(**arguments)
