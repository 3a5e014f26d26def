"""The places of checkpoints in the object store, each written by one process only at a time.

Responsible for putting bytes in a place if that still holds what this process knows of it: who was paused while somebody else went on must
not write over what that one wrote. nats-py's own `put` writes whatever lies there; the form is the same (ADR-20), so that its `get` reads it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye_analytics.lease import WRONG_LAST

_STREAM: Final = f"OBJ_{subjects.ANALYTICS_BUCKET}"
_CHUNK: Final = 128 * 1024


class Taken(Exception):  # noqa: N818 - it names what happened
    """Somebody else wrote there since this process looked."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What lies in a place: the sequence of its entry (0: none ever), and where its chunks are (empty: none)."""

    sequence: int = 0
    upload: str = ""


class Slots:
    """Places by name. Methods raise what is in `daemoneye.broker.link.TRANSIENT` when the broker is away."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream
        self._known: dict[str, _Known] = {}
        self._litter: set[str] = set()

    async def look(self, name: str) -> None:
        """Take note of what lies there: `put` replaces that and nothing else."""
        try:
            message = await self._jetstream.get_last_msg(_STREAM, _entry(name))
        except NotFoundError:
            self._known[name] = _Known()
            return
        upload = ""
        with contextlib.suppress(ValueError, AttributeError):
            upload = str(json.loads(message.data or b"").get("nuid") or "")
        self._known[name] = _Known(message.seq or 0, upload)

    async def put(self, name: str, data: bytes) -> None:
        """Put `data` in the place of what is known to lie there; it is stored when this returns.

        Raises:
            Taken: Something else lies there, or it was not known what. Now it is: whoever may still write tries again.
        """
        if name not in self._known:
            await self.look(name)
            await self._sweep()  # now it is known what became of the upload that failed
            raise Taken
        before, upload = self._known.pop(name), uuid.uuid4().hex
        self._litter.add(upload)  # until it is known to lie in its place
        pieces = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        for piece in pieces:
            await self._jetstream.publish(_chunks(upload), piece)
        entry: dict[str, Any] = {
            "name": name,
            "options": {"max_chunk_size": _CHUNK},
            "bucket": subjects.ANALYTICS_BUCKET,
            "nuid": upload,
            "size": len(data),
            "chunks": len(pieces),
            "mtime": datetime.now(UTC).isoformat(),
            "digest": "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode(),
        }
        try:
            stored = await self._jetstream.publish(
                _entry(name),
                json.dumps(entry).encode(),
                headers={"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(before.sequence)},
            )
        except APIError as error:
            if error.err_code != WRONG_LAST:
                raise
            await self.look(name)
            await self._sweep()
            raise Taken from error
        self._known[name] = _Known(stored.seq, upload)
        self._litter.add(before.upload)
        await self._sweep()

    async def _sweep(self) -> None:
        """Remove chunks that no entry names; what the broker does not do now is done the next time."""
        self._litter -= {known.upload for known in self._known.values()}
        with contextlib.suppress(*TRANSIENT):
            for upload in tuple(self._litter - {""}):
                await self._jetstream.purge_stream(_STREAM, subject=_chunks(upload))
                self._litter.discard(upload)


def _entry(name: str) -> str:
    return f"$O.{subjects.ANALYTICS_BUCKET}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _chunks(upload: str) -> str:
    return f"$O.{subjects.ANALYTICS_BUCKET}.C.{upload}"
