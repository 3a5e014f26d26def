"""A connection to the broker that is made again for ever, and the errors that mean "not now".

Responsible for nats-py's habits there; its troubles are logged once a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from daemoneye.broker.access import Access
from daemoneye.broker.connection import Connection
from daemoneye.ending import end

TRANSIENT: Final = (nats.errors.Error, TimeoutError, OSError)
"""What nats-py raises when the broker is away, slow or not ready."""
_RETRY_S: Final = 1
_LOOK_S: Final = 1.0
_CLOSE_S: Final = 5.0
_CLOSE_AWAY_S: Final = 0.5
_MINUTE: Final = 60.0

_log = logging.getLogger(__name__)


class Link:
    """One process's connection."""

    def __init__(self, access: Access | Callable[[], Access], name: str, stop: asyncio.Event) -> None:
        """Nothing happens before `connect`.

        Args:
            access: How to reach the broker, or what says so at each new connection.
            name: What the broker's monitoring shows.
            stop: Ends every wait.
        """
        self.on_reconnect: Callable[[], None] = lambda: None
        self._access = access if callable(access) else lambda: access
        self._used = self._url = ""
        self._name = name
        self._stop = stop
        self._logged = float("-inf")

    async def connect(self) -> Client | None:
        """A connection; None when the process is asked to end before there is one.

        Raises:
            ConfigError: The settings are unusable.
        """
        while not self._stop.is_set():
            access = self._access()
            self._used, self._url = access.fingerprint(), access.url
            attempt = asyncio.ensure_future(self._attempt(access.options()))
            stop = asyncio.ensure_future(self._stop.wait())
            # nats-py tries for ever, with what it was given: not with credentials or authorities that were renewed since.
            while not attempt.done() and not stop.done() and self._access().fingerprint() == self._used:
                await asyncio.wait({attempt, stop}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not attempt.done():
                await end([attempt])
            elif (client := attempt.result()) is not None:
                return client
        return None

    def stale(self, client: Client) -> bool:
        """Whether a connection is of no use any more: nats-py closed it for good, or it is away and would come back with former credentials."""
        return client.is_closed or (not client.is_connected and self._access().fingerprint() != self._used)

    async def close(self, client: Client) -> None:
        """Flush and close; with the broker away there is nothing left to say.

        nats-py may write what is pending to a TLS transport that asyncio has taken apart already, which says so by an AttributeError (sslproto of
        Python 3.11): that connection is gone, too.
        """
        with contextlib.suppress(*TRANSIENT, AttributeError):
            async with asyncio.timeout(_CLOSE_S if client.is_connected else _CLOSE_AWAY_S):
                await client.close()

    async def _attempt(self, options: dict[str, Any]) -> Client | None:
        client = Connection()
        try:
            await client.connect(
                name=self._name,
                # The first connection is tried again here, later ones by nats-py, which would give up after 60 attempts.
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RETRY_S,
                connect_timeout=5,
                error_cb=self._error,
                reconnected_cb=self._reconnected,
                **options,
            )
        except TRANSIENT as error:
            await self._error(error)
            await asyncio.sleep(_RETRY_S)
            return None
        except asyncio.CancelledError:
            await self.close(client)
            raise
        return client

    async def _error(self, error: Exception) -> None:
        if time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _log.warning("broker %s: %s", self._url, str(error) or repr(error))

    async def _reconnected(self) -> None:
        _log.info("connected to the broker again")
        self.on_reconnect()
