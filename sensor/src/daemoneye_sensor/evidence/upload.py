"""Evidence on its way to the broker: a file in chunks under this node's name, then what is said of it.

Responsible for having each chunk acknowledged and for telling until analytics has answered, within bounded time; what cannot be brought there is given
up. Not for what is in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.errors import DaemonEyeError
from daemoneye.evidence import CHUNK, Kept

PATIENCE_S: Final = 600.0
"""How long a chunk and a description are tried: analytics waits longer."""
_ACK_S: Final = 5.0
_RETRY_S: Final = 2.0
_STREAM: Final = f"OBJ_{subjects.EVIDENCE_BUCKET}"


class NotTaken(DaemonEyeError):  # noqa: N818 - it names what happened
    """The broker or analytics does not take it; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file on the broker: the name that its chunks have, bytes, chunks, checksum."""

    upload: str
    size: int
    chunks: int
    sha256: str


async def upload(client: Client, node: str, parts: AsyncIterator[bytes], *, patience: float = PATIENCE_S) -> Uploaded:
    """Bring a file to the broker, part by part.

    Raises:
        NotTaken: The broker did not take all of it in time.
    """
    name = secrets.token_hex(11)
    subject = subjects.evidence_chunks(node, name)
    jetstream = JetStreamContext(client, timeout=_ACK_S)
    digest, size, chunks, rest = hashlib.sha256(), 0, 0, bytearray()

    async def send(chunk: bytes) -> None:
        nonlocal size, chunks
        identity = {"Nats-Msg-Id": f"{name}-{chunks}"}  # one whose acknowledgement was lost is sent again
        deadline = time.monotonic() + patience
        while True:
            try:
                async with asyncio.timeout(_ACK_S + 1):
                    await jetstream.publish(subject, chunk, stream=_STREAM, headers=dict(identity))
                break
            except TRANSIENT as error:
                if time.monotonic() >= deadline:
                    raise NotTaken(f"the broker does not take the packets: {error!r}") from error
                await asyncio.sleep(_RETRY_S)
        digest.update(chunk)
        size, chunks = size + len(chunk), chunks + 1

    async for part in parts:
        rest += part
        while len(rest) >= CHUNK:
            await send(bytes(rest[:CHUNK]))
            del rest[:CHUNK]
    if rest:
        await send(bytes(rest))
    return Uploaded(name, size, chunks, digest.hexdigest())


async def tell(client: Client, kept: Kept, *, patience: float = PATIENCE_S) -> None:
    """Say what was kept, until analytics has answered.

    Raises:
        NotTaken: It refuses, or nobody answers in time.
    """
    deadline = time.monotonic() + patience
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    listening = await client.subscribe(subjects.evidence_answer(kept.node), cb=answers.put)
    try:
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(_ACK_S):
                    await client.publish(subjects.evidence_kept(kept.node), kept.encode())
                    while (problem := _about(kept.finding, (await answers.get()).data)) is None:
                        pass
            except TRANSIENT:
                await asyncio.sleep(_RETRY_S)  # a connection that is gone says so at once, every time
                continue
            if problem:
                raise NotTaken(f"analytics does not take what was kept: {problem}")
            return
    finally:
        with contextlib.suppress(*TRANSIENT):
            await listening.unsubscribe()
    raise NotTaken("analytics does not answer what was kept")


def _about(finding: str, answer: bytes) -> str | None:
    """What an answer says against a finding's packets, empty for nothing; None if it is about others."""
    try:
        said = json.loads(answer)
        if said["finding"] != finding:
            return None
        return "" if said["ok"] is True else str(said.get("problem") or "it does not say why")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
