"""The object store of evidence: entries by finding, files in chunks by node.

Responsible for single requests to the broker and for giving out whole files only; who may have them is others' affair. Sensors write chunks under their own
node's name and nothing else; entries are ours, so that no node completes what another was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from typing import BinaryIO, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from daemoneye import subjects
from daemoneye.broker.link import TRANSIENT
from daemoneye.errors import ConfigError, CorruptData, DaemonEyeError
from daemoneye.escape import escape
from daemoneye.evidence import ARMED, CHUNK, FAILED, KEPT, Entry, Kept

_LOG = logging.getLogger(__name__)
_TIMEOUT_S: Final = 5.0
_STREAM: Final = f"OBJ_{subjects.EVIDENCE_BUCKET}"
_DIRECT: Final = f"$JS.API.DIRECT.GET.{_STREAM}"
_ROLLUP: Final = {"Nats-Rollup": "sub"}
GRACE_S: Final = 900.0
"""After its time a sensor may need as long to write a file and to reach the broker."""


class Gone(DaemonEyeError):  # noqa: N818 - it names what happened
    """A file is not whole any more: parts went with age, or for room, or never were what they should be."""


class Bucket:
    """The store over one connection. Methods raise what is in `daemoneye.broker.link.TRANSIENT` when the broker is away or keeps no evidence."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = JetStreamContext(client, timeout=_TIMEOUT_S)

    async def entry(self, finding: str) -> Entry | None:
        """What is known of a finding's packets, None without any.

        Raises:
            CorruptData: What lies there is no entry.
        """
        message = await self._get(f"{_DIRECT}.{subjects.evidence_entry(finding)}", b"")
        return None if message is None else Entry.decode(message.data)

    async def write(self, entry: Entry) -> None:
        """Put an entry in the place of the one before; it is stored when this returns."""
        upload = str(entry.kept.get("upload", ""))
        chunks = f"{subjects.escape_node(entry.node)}.{upload}" if entry.state == KEPT else ""
        data = entry.encode(subjects.EVIDENCE_BUCKET, chunks)
        await self._jetstream.publish(
            subjects.evidence_entry(entry.finding), data, stream=_STREAM, headers=dict(_ROLLUP)
        )

    async def read(self, entry: Entry, sink: BinaryIO) -> int:
        """Write a kept file into `sink`, chunk by chunk, and hold it against its checksum; its size.

        Raises:
            Gone: It is not whole.
        """
        said = Kept.decode(json.dumps(dict(entry.kept)).encode())
        subject = subjects.evidence_chunks(entry.node, said.upload)
        digest, size, sequence = hashlib.sha256(), 0, 0
        for _ in range(said.chunks):
            message = await self._get(_DIRECT, json.dumps({"seq": sequence + 1, "next_by_subj": subject}).encode())
            if message is None or len(message.data) > CHUNK:
                break
            sequence = int((message.headers or {})["Nats-Sequence"])
            digest.update(message.data)
            size += len(message.data)
            sink.write(message.data)
        if (size, digest.hexdigest()) != (said.size, said.sha256):
            raise Gone(f"{size} of {said.size} bytes are there, or they are not those that node {entry.node} kept")
        return size

    async def take(self, kept: Kept, token: str) -> str:
        """A sensor says what it kept, as the node that the escaped `token` names; why that is not taken, empty if it is.

        Raises:
            CorruptData: What lies in the finding's place is no entry.
        """
        if subjects.escape_node(kept.node or "-") != token:
            return "it speaks for another node"
        entry = await self.entry(kept.finding)
        if entry is None or entry.node != kept.node or entry.same_as:
            return "nobody asked this node to keep packets of that finding, or that was long ago"
        if entry.state != ARMED:
            # Told again, for the answer was lost; anything else comes too late.
            return "" if entry.kept.get("upload", "") == kept.upload else "packets of that finding came before"
        if time.time() - entry.armed_ns / 1e9 > entry.seconds + GRACE_S:
            return "it comes too late"
        said = {name: getattr(kept, name) for name in Kept.__dataclass_fields__}
        await self.write(
            Entry(
                finding=entry.finding, node=entry.node, namespace=entry.namespace, state=FAILED if kept.problem else KEPT,
                armed_ns=entry.armed_ns, seconds=entry.seconds, kept=said,
            )
        )  # fmt: skip
        return ""

    async def remove(self, kept: Kept) -> None:
        """Leave nothing of a node's upload that was not taken."""
        if kept.upload:
            subject = subjects.evidence_chunks(kept.node, kept.upload)
            await self._client.request(
                f"$JS.API.STREAM.PURGE.{_STREAM}", json.dumps({"filter": subject}).encode(), timeout=_TIMEOUT_S
            )

    async def listen(self) -> None:
        """Answer sensors that say what they kept."""
        await self._client.subscribe(f"{subjects.PREFIX}.evidence.kept.*", cb=self._told)

    async def _told(self, message: Msg) -> None:
        token, kept = message.subject.rpartition(".")[2], None
        try:
            kept = Kept.decode(message.data)
            problem = await self.take(kept, token)
            if problem and subjects.escape_node(kept.node or "-") == token:
                await self.remove(kept)
        except CorruptData as error:
            problem = str(error)
        except TRANSIENT as error:
            _LOG.warning("what a sensor kept could not be written down: %r; it tells again", error)
            return
        if problem:
            _LOG.warning("%s: refused what it kept: %s", escape(message.subject), escape(problem))
        answer = {"finding": kept.finding if kept else "", "ok": not problem, "problem": problem[:300]}
        with contextlib.suppress(*TRANSIENT, ConfigError):  # it tells again
            await self._client.publish(
                subjects.evidence_answer(subjects.unescape_node(token)), json.dumps(answer).encode()
            )

    async def _get(self, subject: str, request: bytes) -> Msg | None:
        message = await self._client.request(subject, request, timeout=_TIMEOUT_S)
        status = (message.headers or {}).get("Status")
        if status is None:
            return message
        if status == "404":
            return None
        raise nats.errors.Error(f"evidence: {status} {(message.headers or {}).get('Description', '')}".strip())
