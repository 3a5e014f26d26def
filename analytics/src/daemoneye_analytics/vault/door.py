"""``GET /v1/evidence/<finding id>``: the packets of a finding, for who may read them.

Responsible for HTTP, for asking about everybody who comes, and for one line in the log for each; not for where the packets lie nor for the answer to "may he".

Plain HTTP, on the pod's loopback alone: nobody reaches it but through ``kubectl port-forward``, which is encrypted to the node and asks the API server
first, so that no token crosses the network in the clear. What the API server says of the caller's own token decides (verb `get`, resource
`findings/evidence` of group `daemoneye.io`, in the finding's namespace).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, cast

from daemoneye.broker.link import TRANSIENT
from daemoneye.errors import CorruptData
from daemoneye.escape import escape
from daemoneye.evidence import ARMED, FAILED, Entry, is_finding_id
from daemoneye_analytics.vault.bucket import Bucket, Gone
from daemoneye_analytics.vault.reviews import GROUP, RESOURCE, SUBRESOURCE, Reviews, Unanswered

HOST: Final = "127.0.0.1"
PATH: Final = "/v1/evidence/"
CONTENT_TYPE: Final = "application/x-pcapng"
_AUDIT = logging.getLogger("daemoneye.audit")
_LIMIT: Final = 32 << 10
_HEAD_S: Final = 10.0
_ASK_S: Final = 30.0
_BODY_S: Final = 300.0
_AT_ONCE: Final = 4
_PIECE: Final = 256 << 10
_TEXT: Final = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    409: "Conflict", 410: "Gone", 429: "Too Many Requests", 503: "Service Unavailable",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Answer:
    """A status, a sentence for who asked, who that was, of which namespace the finding is, how many bytes there are, whether he may have them."""

    status: int
    message: str = ""
    user: str = ""
    namespace: str = ""
    size: int = 0
    allowed: bool = False


OUTCOMES: Final = {200: "given", 401: "refused", 403: "refused", 404: "none", 409: "none", 410: "none"}
"""What an answer comes to; any other one failed."""


class Door:
    """Answers who asks for evidence.

    Attributes:
        answers: Answers to who asked for a finding's packets, by outcome.
    """

    def __init__(self, bucket: Bucket, reviews: Reviews) -> None:
        self._bucket = bucket
        self._reviews = reviews
        self._open = 0
        self.answers = Counter(dict.fromkeys((*OUTCOMES.values(), "failed"), 0))

    @asynccontextmanager
    async def open(self, port: int) -> AsyncIterator[asyncio.Server]:
        """Answer while the context lasts; port 0 takes a free one.

        Raises:
            OSError: The port is taken.
        """
        server = await asyncio.start_server(self._answer, HOST, port, limit=_LIMIT)
        async with server:
            yield server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(_HEAD_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path = head[0].split(" ")[:2]
            token = _token(head[1:])
            if self._open > _AT_ONCE:
                await _tell(writer, _Answer(429, f"{_AT_ONCE} others are being answered: ask again"))
            elif method != "GET":
                await _tell(writer, _Answer(405, "only GET is answered"))
            else:
                await self._give(writer, path.partition("?")[0], token)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._open -= 1
            writer.close()

    async def _give(self, writer: asyncio.StreamWriter, path: str, token: str) -> None:
        finding = path.removeprefix(PATH)
        if not path.startswith(PATH) or not is_finding_id(finding):
            await _tell(writer, _Answer(404, f"there is nothing but {PATH}<finding id>, 32 hex digits"))
            return
        with tempfile.TemporaryFile() as file:
            try:
                async with asyncio.timeout(_ASK_S):
                    answer = await self._decide(finding, token, cast("BinaryIO", file))
            except (Unanswered, *TRANSIENT) as error:
                answer = _Answer(503, f"nobody can say now: {error}")
            except CorruptData as error:
                answer = _Answer(410, str(error))
            # Before the first byte: what was given and not written down would be worse than the other way round.
            _audit(finding, answer)
            self.answers[OUTCOMES.get(answer.status, "failed")] += 1
            if answer.status != 200:
                await _tell(writer, answer)
                return
            file.seek(0)
            async with asyncio.timeout(_BODY_S):
                writer.write(_head(200, CONTENT_TYPE, answer.size))
                while piece := file.read(_PIECE):
                    writer.write(piece)
                    await writer.drain()
                await writer.drain()

    async def _decide(self, finding: str, token: str, file: BinaryIO) -> _Answer:
        user = await self._reviews.who(token)
        if user is None:
            return _Answer(401, "the API server does not know this token")
        entry = await self._bucket.entry(finding)
        if entry is None:
            return _Answer(404, "no packets were kept for this finding, or not any more", user.name)
        if not await self._reviews.may(user, entry.namespace):
            right = f"get {RESOURCE}/{SUBRESOURCE} of {GROUP} in namespace {entry.namespace}"
            return _Answer(403, f"{user.name} may not {right}", user.name, entry.namespace)
        answer = _Answer(200, "", user.name, entry.namespace, allowed=True)
        if entry.same_as:
            shared = await self._bucket.entry(entry.same_as)
            if shared is None or (shared.namespace, shared.node) != (entry.namespace, entry.node):
                return replace(answer, status=404, message="the packets that it shares with another finding are gone")
            entry = shared
        if entry.state == ARMED:
            return replace(answer, status=409, message=_waiting(entry))
        if entry.state == FAILED:
            return replace(answer, status=410, message=f"node {entry.node} kept none: {entry.kept.get('problem')}")
        try:
            return replace(answer, size=await self._bucket.read(entry, file))
        except Gone as error:
            return replace(answer, status=410, message=str(error))


def _waiting(entry: Entry) -> str:
    until = dt.datetime.fromtimestamp(entry.armed_ns / 1e9 + entry.seconds, dt.UTC)
    return f"node {entry.node} keeps packets until {until:%H:%M:%S} UTC and sends them then; one without a sensor or a capture sends none"


def _audit(finding: str, answer: _Answer) -> None:
    """One JSON object a line: who asked for what and when, and whether he got it."""
    line = {
        "audit": "evidence", "time": dt.datetime.now(dt.UTC).isoformat(), "user": escape(answer.user[:512]), "finding": finding,
        "namespace": answer.namespace, "allowed": answer.allowed, "status": answer.status, "bytes": answer.size,
    }  # fmt: skip
    _AUDIT.info("%s", json.dumps(line))


def _token(lines: list[str]) -> str:
    for line in lines:
        name, _, value = line.partition(":")
        scheme, _, token = value.strip().partition(" ")
        if name.strip().lower() == "authorization" and scheme.lower() == "bearer":
            return token.strip()
    return ""


async def _tell(writer: asyncio.StreamWriter, answer: _Answer) -> None:
    body = json.dumps({"error": answer.message}).encode() + b"\n"
    writer.write(_head(answer.status, "application/json", len(body)) + body)
    async with asyncio.timeout(_HEAD_S):
        await writer.drain()


def _head(status: int, kind: str, size: int) -> bytes:
    more = "WWW-Authenticate: Bearer\r\n" if status == 401 else ""
    lines = f"HTTP/1.1 {status} {_TEXT[status]}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nCache-Control: no-store\r\n{more}Connection: close\r\n\r\n"
    return lines.encode()
