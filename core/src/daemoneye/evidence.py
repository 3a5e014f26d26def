"""Evidence: packets that are kept because of a finding. What arms their keeping, and what is said of what was kept.

Responsible for the documents, their bounds and the names of what lies in the bucket; not for capturing (the sensor's `evidence`) nor for who
may read it (`daemoneye_analytics.vault`).

Analytics arms (:class:`Arm`, a plain message to the finding's node) and lays down in the bucket for whom (:class:`Entry`, state `armed`). The
sensor writes chunks under its own node's name and says what it kept (:class:`Kept`, a request that analytics answers); analytics completes the
entry, if that node was asked.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from daemoneye.errors import CorruptData
from daemoneye.events.addresses import packed, protocol_number

MAX_DOCUMENT: Final = 16 << 10
MAX_CONVERSATIONS: Final = 16
MAX_SECONDS: Final = 600
MAX_SIZE_MB: Final = 64
CHUNK: Final = 128 << 10
"""Bytes of a chunk, but for the last one: what clients of object stores write, too."""
MAX_CHUNKS: Final = (MAX_SIZE_MB + 1) * (1 << 20) // CHUNK
ARMED: Final = "armed"
KEPT: Final = "kept"
FAILED: Final = "failed"
STATES: Final = (ARMED, KEPT, FAILED)
_ID: Final = re.compile(r"[0-9a-f]{32}")
_UPLOAD: Final = re.compile(r"[0-9a-f]{16,32}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def is_finding_id(text: str) -> bool:
    """Whether this is the id of a finding (32 hex digits)."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Two endpoints; which of them began does not matter. A port 0 means every port, an empty `dst_ip` whoever the other one is.

    Attributes:
        proto: Name or number of the IP protocol (`daemoneye.events.addresses`), empty for all.
    """

    src_ip: str
    dst_ip: str = ""
    src_port: int = 0
    dst_port: int = 0
    proto: str = ""

    def __post_init__(self) -> None:
        """Refuse what can be no packet's.

        Raises:
            ValueError: An address, a port or the protocol is none.
        """
        packed(self.src_ip)
        if self.dst_ip:
            packed(self.dst_ip)
        if self.proto:
            protocol_number(self.proto)
        if not (0 <= self.src_port <= 0xFFFF and 0 <= self.dst_port <= 0xFFFF):
            raise ValueError(f"ports {self.src_port} and {self.dst_port} must lie in 0 to 65535")


@dataclass(frozen=True, slots=True)
class Arm:
    """Keep these packets: what analytics tells a node.

    Attributes:
        finding: Id of the finding.
        node: Plain name of the node that it is about.
        seconds: How long from now on, 1 to MAX_SECONDS.
        max_bytes: Bytes of the file at most.
        conversations: Whose packets, at most MAX_CONVERSATIONS.
        pod_uid: The pod, all of whose packets are meant, too; empty for none.
    """

    finding: str
    node: str
    seconds: int
    max_bytes: int
    conversations: tuple[Conversation, ...] = ()
    pod_uid: str = ""

    def encode(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`; what a newer analytics added is ignored.

        Raises:
            CorruptData: It is no such document, or asks for more than there may be.
        """
        value = _object(data, "a request to keep packets")
        try:
            conversations = tuple(_conversation(entry) for entry in value.get("conversations", ())[:MAX_CONVERSATIONS])
            made = cls(
                str(value["finding"]), str(value["node"])[:253], int(value["seconds"]), int(value["max_bytes"]), conversations,
                str(value.get("pod_uid", ""))[:64],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CorruptData(f"not a request to keep packets: {error!r}") from error
        if not is_finding_id(made.finding):
            raise CorruptData("not a request to keep packets: it names no finding")
        if not 1 <= made.seconds <= MAX_SECONDS or not 1 <= made.max_bytes <= MAX_SIZE_MB << 20:
            raise CorruptData(
                f"a request to keep packets for {made.seconds} s and {made.max_bytes} bytes; at most {MAX_SECONDS} s and {MAX_SIZE_MB} MiB are kept"
            )
        return made


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept: what a sensor says when all of it is in the bucket, or why nothing is.

    Attributes:
        finding: Id of the finding.
        node: Plain name of the sensor's node.
        upload: Name under which the chunks lie, 16 to 32 hex digits; empty if nothing was kept.
        size: Bytes of the file.
        chunks: How many there are.
        sha256: Of the file, hex digits.
        frames: Packets in it.
        first, last: Moments of the first and the last of them, ns since 1970, 0 without any.
        dropped: Packets that the capture lost meanwhile, as far as is known.
        complete: False if the budget of bytes was spent before the time was.
        problem: Why nothing was kept, one sentence; empty otherwise.
    """

    finding: str
    node: str
    upload: str = ""
    size: int = 0
    chunks: int = 0
    sha256: str = ""
    frames: int = 0
    first: int = 0
    last: int = 0
    dropped: int = 0
    complete: bool = True
    problem: str = ""

    def encode(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`, for readers who do not trust the node.

        Raises:
            CorruptData: It is no such document, or contradicts itself.
        """
        value = _object(data, "a description of kept packets")
        try:
            numbers = {
                name: int(value.get(name, 0)) for name in ("size", "chunks", "frames", "first", "last", "dropped")
            }
            made = cls(
                finding=str(value["finding"]), node=str(value["node"])[:253], upload=str(value.get("upload", "")), sha256=str(value.get("sha256", "")),
                complete=bool(value.get("complete", True)), problem=str(value.get("problem", ""))[:512], **numbers,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptData(f"not a description of kept packets: {error!r}") from error
        if not is_finding_id(made.finding) or not all(0 <= number < 1 << 63 for number in numbers.values()):
            raise CorruptData("not a description of kept packets: it names no finding, or a number is none")
        if made.problem:
            return made
        whole = _UPLOAD.fullmatch(made.upload) and _DIGEST.fullmatch(made.sha256)
        if not whole or not 0 < made.chunks <= MAX_CHUNKS or not 0 < made.size <= made.chunks * CHUNK:
            raise CorruptData(
                "not a description of kept packets: upload, chunks, size and sha256 do not belong together"
            )
        return made


@dataclass(frozen=True, slots=True)
class Entry:
    """What the bucket says of a finding: who was asked to keep packets, and what came.

    Attributes:
        finding: Id of the finding.
        node: Plain name of the node that was asked.
        namespace: Namespace of the Finding's object: whoever may read evidence there may read this.
        state: One of STATES.
        armed_ns: When it was asked, ns since 1970.
        seconds: How long packets were to be kept from then on.
        same_as: Id of the finding whose packets are this one's, too; empty for its own.
        kept: What the sensor said.
    """

    finding: str
    node: str
    namespace: str
    state: str = ARMED
    armed_ns: int = 0
    seconds: int = 0
    same_as: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, bucket: str, chunks: str) -> bytes:
        """The object's information as object stores have it (NATS ADR-20), with this in its metadata: any client can list it, and get it when it is kept.

        Args:
            bucket: Name of the bucket.
            chunks: What the chunks' subject ends with; empty before there are any.
        """
        size, count, digest = (self.kept.get(name) for name in ("size", "chunks", "sha256"))
        info = {
            "name": self.finding,
            "description": f"Packets of finding {self.finding}: {self.state}",
            "metadata": {"daemoneye": json.dumps(asdict(self), separators=(",", ":"))},
            "options": {"max_chunk_size": CHUNK},
            "bucket": bucket,
            "nuid": chunks,
            "size": size or 0,
            "chunks": count or 0,
            "digest": f"SHA-256={base64.urlsafe_b64encode(bytes.fromhex(digest)).decode()}" if digest else "",
        }
        return json.dumps(info, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`.

        Raises:
            CorruptData: It is no such document.
        """
        try:
            value = json.loads(_object(data, "an entry of the evidence", 4 * MAX_DOCUMENT)["metadata"]["daemoneye"])
            made = cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(f"not an entry of the evidence: {error!r}") from error
        if made.state not in STATES:
            raise CorruptData(f"not an entry of the evidence: its state is {made.state!r}")
        return made


def _conversation(entry: Mapping[str, Any]) -> Conversation:
    return Conversation(
        str(entry["src_ip"]), str(entry.get("dst_ip", "")), int(entry.get("src_port", 0)), int(entry.get("dst_port", 0)), str(entry.get("proto", ""))
    )  # fmt: skip


def _object(data: bytes, what: str, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    if len(data) > limit:
        raise CorruptData(f"not {what}: it has {len(data)} bytes, at most {limit} are read")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"not {what}: {error}") from error
    if not isinstance(value, dict):
        raise CorruptData(f"not {what}: it is no object")
    return value
