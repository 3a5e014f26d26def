"""A batch as one message: what it is about (envelope), and its sections.

Layout: magic `DEB1`, u32 little-endian length of the header, header (UTF-8 JSON: the envelope and the list of section headers), body
(one zstd frame with checksum: for each section its fixed part, then its heap). The header is readable without decompressing, so that
a dashboard or a watermark costs microseconds. How it is stored or sent is not this module's affair.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import zstandard

from daemoneye.errors import CorruptData, UnknownSchema
from daemoneye.events.codec import Section, decode_fixed, encode_fixed
from daemoneye.events.former import turned
from daemoneye.events.registry import BY_NAME, READABLE
from daemoneye.events.schema import Record

MAGIC: Final = b"DEB1"
MAX_BODY: Final = 256 * 1024 * 1024
"""Largest decompressed body in bytes; a frame that claims more is refused before anything is allocated."""
_PREFIX: Final = struct.Struct("<4sI")
_MAX_HEADER: Final = 1024 * 1024
_U64: Final = range(1 << 64)
_I64: Final = range(-(1 << 63), 1 << 63)
_MAX_SECTIONS: Final = 256
"""Ten times what a batch has that holds every record, in rows and as context."""
# Level 1: on recorded events level 3 saved 1 to 4 % of the bytes for up to 1.4 times the time (docs/benchmarks.md).
_COMPRESSOR: Final = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """What stands in the body: schema hash, record name, rows, bytes of fixed part and heap, context or not."""

    schema: str
    record: str
    rows: int
    fixed_bytes: int
    heap_bytes: int
    context: bool


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a batch is about.

    Attributes:
        node: Name of the node.
        cluster: Id of the cluster (kube-system's UID), `local` without Kubernetes.
        boot_id: The kernel's boot id: process keys are unique within it.
        epoch: Identity of the rings that the rows came from.
        lane: Lane of the batch.
        first_sequence: Sequence of its first event row.
        rows: Event rows (without context).
        clock_offset_ns: Wall clock minus boot-time clock.
        first_time: Smallest time of its events (boot-time clock, ns), 0 without events.
        last_time: Greatest time.
        positions: Ring name → consumer position after this batch, bytes.
        sections: Headers of the sections, in order of the body.
        source: Name of the source that made it.
    """

    node: str
    boot_id: str
    epoch: int
    lane: str
    first_sequence: int
    rows: int
    clock_offset_ns: int
    cluster: str = "local"
    first_time: int = 0
    last_time: int = 0
    source: str = "ebpf"
    positions: Mapping[str, int] = field(default_factory=dict)
    sections: tuple[SectionHeader, ...] = ()

    @property
    def next_sequence(self) -> int:
        """Sequence of the row after this batch."""
        return self.first_sequence + self.rows


@dataclass(frozen=True, slots=True)
class Batch:
    """An envelope and its decoded sections."""

    envelope: Envelope
    sections: tuple[Section, ...]

    def section(self, name: str, *, context: bool = False) -> Section | None:
        """The section of a record, if the batch has it."""
        return next((s for s in self.sections if s.record.name == name and s.context is context), None)

    def wall_ns(self, boot_ns: np.ndarray) -> np.ndarray:
        """Wall time (ns since 1970) of boot-time stamps, int64."""
        return boot_ns.astype(np.int64) + self.envelope.clock_offset_ns


def encode(envelope: Envelope, sections: Iterable[Section]) -> bytes:
    """One message; the envelope's `rows` and `sections` are taken from the sections, not from the caller."""
    parts: list[bytes] = []
    headers: list[list[Any]] = []
    rows = 0
    for section in sections:
        fixed = encode_fixed(section.record, section.rows)
        heap = section.heap.tobytes()
        parts += (fixed, heap)
        headers.append(
            [section.record.hash, section.record.name, len(section.rows), len(fixed), len(heap), int(section.context)]
        )
        rows += 0 if section.context else len(section.rows)
    header = {
        "node": envelope.node, "cluster": envelope.cluster, "boot": envelope.boot_id, "epoch": envelope.epoch, "lane": envelope.lane,
        "seq": envelope.first_sequence, "rows": rows, "offset": envelope.clock_offset_ns, "first": envelope.first_time,
        "last": envelope.last_time, "source": envelope.source, "pos": dict(envelope.positions), "sections": headers,
    }  # fmt: skip
    head = json.dumps(header, separators=(",", ":")).encode()
    return _PREFIX.pack(MAGIC, len(head)) + head + _COMPRESSOR.compress(b"".join(parts))


def peek(data: bytes | memoryview) -> Envelope:
    """The envelope alone.

    Raises:
        CorruptData: Not a batch, cut short, or a header that is not of this form.
    """
    return _header(data)[0]


def decode(data: bytes | memoryview, schemas: Mapping[str, Record] = READABLE) -> Batch:
    """The whole batch, its rows in today's schemas of their records (`daemoneye.events.former`).

    Args:
        data: One message.
        schemas: Known schemas by hash; pass more to read what older or newer sensors wrote.

    Raises:
        UnknownSchema: It has rows of schemas that are not among these.
        CorruptData: Anything else that does not fit: nothing of a damaged batch is used.
    """
    envelope, at = _header(data)
    unknown = {head.schema: head.record for head in envelope.sections if head.schema not in schemas}
    if unknown:
        named = ", ".join(f"schema {schema} of {record!r}" for schema, record in unknown.items())
        msg = f"batch of {envelope.node}: {named:.500} is unknown to this reader; upgrade it or give it the archived schema"
        raise UnknownSchema(msg, tuple(unknown))
    try:
        body = (
            zstandard.ZstdDecompressor().decompress(bytes(memoryview(data)[at:]), max_output_size=0)
            if _claimed(data, at)
            else b""
        )
    except zstandard.ZstdError as error:
        msg = f"batch of {envelope.node}, sequence {envelope.first_sequence}: body: {error}"
        raise CorruptData(msg) from error
    whole = np.frombuffer(body, np.uint8)
    sections = []
    at = 0
    for head in envelope.sections:
        record = schemas[head.schema]
        if at + head.fixed_bytes + head.heap_bytes > len(whole):
            msg = f"batch of {envelope.node}: section {head.record} goes beyond the body of {len(whole)} bytes"
            raise CorruptData(msg)
        rows = decode_fixed(record, whole[at : at + head.fixed_bytes], head.rows)
        at += head.fixed_bytes
        heap = whole[at : at + head.heap_bytes]
        at += head.heap_bytes
        if int(record.heap_lengths(rows).sum()) != len(heap):
            msg = f"batch of {envelope.node}: section {head.record}: the lengths of its strings do not add up to its heap of {len(heap)} bytes"
            raise CorruptData(msg)
        section = Section(record, rows, heap, head.context)
        today = BY_NAME.get(record.name)
        sections.append(section if today is None or today.hash == record.hash else turned(section, today))
    if at != len(whole):
        msg = f"batch of {envelope.node}: {len(whole) - at} bytes after the last section"
        raise CorruptData(msg)
    return Batch(envelope, tuple(sections))


def _claimed(data: bytes | memoryview, at: int) -> int:
    """Size that the frame claims for its content; refused above `MAX_BODY` before anything is allocated."""
    try:
        size = zstandard.frame_content_size(bytes(memoryview(data)[at : at + 32]))
    except zstandard.ZstdError as error:
        msg = f"batch body is not zstd: {error}"
        raise CorruptData(msg) from error
    if size < 0 or size > MAX_BODY:
        msg = f"batch body claims {size} bytes; at most {MAX_BODY} are read"
        raise CorruptData(msg)
    return size


def _header(data: bytes | memoryview) -> tuple[Envelope, int]:
    if len(data) < _PREFIX.size:
        msg = f"batch of {len(data)} bytes is shorter than its prefix"
        raise CorruptData(msg)
    magic, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        msg = f"not a batch: begins with {bytes(magic)!r}, not {MAGIC!r}"
        raise CorruptData(msg)
    if length > _MAX_HEADER or _PREFIX.size + length > len(data):
        msg = f"batch header of {length} bytes does not fit a message of {len(data)}"
        raise CorruptData(msg)
    try:
        head = json.loads(bytes(memoryview(data)[_PREFIX.size : _PREFIX.size + length]))
        envelope = Envelope(
            node=str(head["node"]), cluster=str(head["cluster"]), boot_id=str(head["boot"]), epoch=int(head["epoch"]), lane=str(head["lane"]),
            first_sequence=int(head["seq"]), rows=int(head["rows"]), clock_offset_ns=int(head["offset"]), first_time=int(head["first"]),
            last_time=int(head["last"]), source=str(head["source"]), positions={str(k): int(v) for k, v in head["pos"].items()},
            sections=tuple(SectionHeader(str(s), str(n), int(r), int(f), int(h), bool(c)) for s, n, r, f, h, c in head["sections"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        msg = f"batch header: {error!r}"
        raise CorruptData(msg) from error
    numbers = (envelope.epoch, envelope.first_sequence, envelope.rows, envelope.first_time, envelope.last_time)
    if any(number not in _U64 for number in numbers) or envelope.clock_offset_ns not in _I64:
        raise CorruptData("batch header: a number that 64 bits do not hold")
    if len(envelope.sections) > _MAX_SECTIONS:
        msg = f"batch header: {len(envelope.sections)} sections, at most {_MAX_SECTIONS} are read"
        raise CorruptData(msg)
    if any(min(s.rows, s.fixed_bytes, s.heap_bytes) < 0 for s in envelope.sections):
        raise CorruptData("batch header: a section has a negative size")
    return envelope, _PREFIX.size + length
