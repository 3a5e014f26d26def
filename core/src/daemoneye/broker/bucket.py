"""A KV bucket as its writers see it: keys, values, removal, with no more rights than these need.

Responsible for single requests and their errors; when to make them again is the caller's affair. nats-py's own would want a consumer for a
list of keys, and leaves a marker of each removal behind.
"""

from __future__ import annotations

import json
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError

from daemoneye import subjects
from daemoneye.broker import values

_TIMEOUT_S: Final = 5.0
# A list of a hundred thousand keys takes a moment.
_LIST_TIMEOUT_S: Final = 30.0
# To whoever follows the bucket a key's last message says that it is gone, and takes the former ones with it.
_REMOVED: Final = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}


class Bucket:
    """A bucket over one connection. Every method raises nats.errors.Error or TimeoutError when the broker is away or has no bucket."""

    def __init__(self, client: Client, name: str) -> None:
        self._name = name
        self._stream = f"KV_{name}"
        self._client = client
        self._jetstream = JetStreamContext(client, timeout=_TIMEOUT_S)

    @property
    def connected(self) -> bool:
        """Whether it is worth asking."""
        return bool(self._client.is_connected)

    async def created(self) -> str:
        """When the bucket was made: another answer means another bucket."""
        return str((await self._info({}, _TIMEOUT_S))["created"])

    async def keys(self, pattern: str) -> set[str]:
        """Keys that fit a pattern of subject tokens, such as ``*.pod.*``."""
        prefix = subjects.key_value(self._name, "")
        found: set[str] = set()
        while True:
            answer = await self._info({"subjects_filter": f"{prefix}{pattern}", "offset": len(found)}, _LIST_TIMEOUT_S)
            page = [subject.removeprefix(prefix) for subject in answer["state"].get("subjects") or ()]
            found.update(page)
            if not page or len(found) >= answer.get("total", 0):
                return found

    async def read(self, key: str) -> bytes | None:
        """The value of a key."""
        self._connected()
        return await values.read(self._client, self._name, key, _TIMEOUT_S)

    async def write(self, key: str, document: bytes) -> None:
        """Put a value; it is stored when this returns."""
        self._connected()
        await self._jetstream.publish(subjects.key_value(self._name, key), document, stream=self._stream)

    async def remove(self, key: str) -> None:
        """Tell who follows the key that it is gone, then leave nothing of it."""
        self._connected()
        subject = subjects.key_value(self._name, key)
        purge: dict[str, Any] = {"filter": subject}
        try:
            said = await self._jetstream.publish(subject, stream=self._stream, headers=dict(_REMOVED))
            # Up to the removal and no further: another publisher may have put the key again.
            purge["seq"] = said.seq + 1
        except APIError:
            # A full bucket takes not even this; making room comes first.
            pass
        await self._request("PURGE", purge, _TIMEOUT_S)

    async def _info(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:  # noqa: ASYNC109 - nats-py's own
        return await self._request("INFO", request, timeout)

    async def _request(self, verb: str, request: dict[str, Any], timeout: float) -> dict[str, Any]:  # noqa: ASYNC109 - as above
        self._connected()
        data = json.dumps(request).encode() if request else b""
        answer = await self._client.request(f"$JS.API.STREAM.{verb}.{self._stream}", data, timeout=timeout)
        content: dict[str, Any] = json.loads(answer.data)
        if error := content.get("error"):
            raise nats.errors.Error(f"bucket {self._name}: {error.get('description', error)}")
        return content

    def _connected(self) -> None:
        # nats-py would keep the request, and send it whenever the broker is back.
        if not self._client.is_connected:
            raise nats.errors.ConnectionReconnectingError
