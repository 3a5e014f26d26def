"""Chunks of the blob ring put together: the strings of rows whose heap region was too long for their record, and names of cgroups."""

from __future__ import annotations

from typing import Final

import numpy as np

from daemoneye.events.codec import Section, gather, starts
from daemoneye.events.flags import Flag
from daemoneye.events.schema import Record

STRINGS: Final = 1
CGROUP: Final = 2
_DATA: Final = 992
"""Bytes of a chunk: DE_BLOB_DATA of bpf/include/common.bpf.h."""
BLOB: Final = np.dtype(
    [
        ("time", "<u8"),
        ("key", "<u8"),
        ("kind", "<u4"),
        ("total", "<u4"),
        ("offset", "<u4"),
        ("length", "<u4"),
        ("data", "u1", (_DATA,)),
    ]
)
"""`struct de_blob` of bpf/include/common.bpf.h."""


def regions(record: Record, records: np.ndarray, chunks: np.ndarray) -> tuple[Section, int, np.ndarray]:
    """A section from ring records whose regions are inline or in chunks.

    Args:
        record: Declaration of the rows.
        records: Array of `record.ring_dtype`, shape (n,); copied, not kept.
        chunks: Array of BLOB with the strings' chunks, in ring order.

    Returns:
        The section; how many rows have lost strings (their lengths are 0 and STRINGS_TRUNCATED is set); and which chunks no row has asked
        for, a boolean array of their shape: their rows come later, or found no room in their ring.
    """
    # The fixed columns lie at the beginning of both forms: they move as bytes, not column by column.
    rows = records.getfield(np.dtype((np.void, record.dtype.itemsize))).copy().view(record.dtype)
    spilled = rows["flags"] & np.uint32(Flag.STRINGS_SPILLED) != 0
    lost = 0
    chunk_heap = np.zeros(0, np.uint8)
    unclaimed = chunks["kind"] == STRINGS
    begin = np.arange(len(records), dtype=np.int64) * record.inline_heap
    if spilled.any():
        chunk_heap, where, claimed = _joined(rows, spilled, chunks, record)
        unclaimed &= ~claimed
        incomplete = spilled & (where < 0)
        lost = int(incomplete.sum())
        for field in record.heap_fields:
            rows[field.column][incomplete] = 0
        rows["flags"][incomplete] |= np.uint32(Flag.STRINGS_TRUNCATED)
        rows["flags"] &= ~np.uint32(Flag.STRINGS_SPILLED)  # how the strings travelled says nothing to a reader
        begin = np.where(spilled, where + records["heap"].size, begin)
        begin[incomplete] = 0
    heap = (
        np.concatenate([np.ascontiguousarray(records["heap"]).reshape(-1), chunk_heap])
        if len(chunk_heap)
        else np.ascontiguousarray(records["heap"]).reshape(-1)
    )
    return Section(record, rows, gather(heap, begin, record.heap_lengths(rows))), lost, unclaimed


def _joined(
    rows: np.ndarray, spilled: np.ndarray, chunks: np.ndarray, record: Record
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole regions of the chunks one after another, where each row's begins (-1: incomplete), and the chunks that belong to a row."""
    claimed = np.zeros(len(chunks), bool)
    strings = np.flatnonzero(chunks["kind"] == STRINGS)
    order = strings[np.lexsort(tuple(chunks[name][strings] for name in ("offset", "time", "key")))]
    chunks = chunks[order]
    data = np.ascontiguousarray(chunks["data"]).reshape(-1)
    length = np.minimum(chunks["length"], _DATA).astype(np.int64)
    heap = gather(data, np.arange(len(chunks), dtype=np.int64) * _DATA, length)
    where = np.full(len(rows), -1, np.int64)
    if not len(chunks):
        return heap, where, claimed
    new = np.ones(len(chunks), bool)
    new[1:] = (chunks["key"][1:] != chunks["key"][:-1]) | (chunks["time"][1:] != chunks["time"][:-1])
    first = np.flatnonzero(new)
    begins = starts(length)[first]
    got = np.add.reduceat(length, first)
    identity = _identity(chunks["key"][first], chunks["time"][first])
    by = np.argsort(identity)
    index = np.flatnonzero(spilled)
    wanted = _identity(rows["process_uid"][index], rows["time"][index])
    at = np.minimum(np.searchsorted(identity[by], wanted), len(by) - 1)
    hit = by[at]
    known = identity[hit] == wanted
    whole = known & (got[hit] == record.heap_lengths(rows)[index])
    where[index[whole]] = begins[hit[whole]]
    group = np.zeros(len(first), bool)
    group[hit[known]] = True
    claimed[order] = group[np.cumsum(new) - 1]
    return heap, where, claimed


def _identity(key: np.ndarray, time: np.ndarray) -> np.ndarray:
    """One number for (process, moment): keys are already mixed well."""
    return key ^ (time * np.uint64(0x9E3779B97F4A7C15))


def cgroup_paths(chunks: np.ndarray) -> dict[int, tuple[str, str]]:
    """Announced cgroups: pair key (v2 id << 32 ^ v1 id) → (v2 path, v1 path). Few rows: Python over them is no hot path."""
    found: dict[int, bytearray] = {}
    for chunk in chunks[chunks["kind"] == CGROUP]:
        found.setdefault(int(chunk["key"]), bytearray()).extend(
            chunk["data"][: min(int(chunk["length"]), _DATA)].tobytes()
        )
    return {key: _paths(bytes(raw)) for key, raw in found.items()}


def _paths(raw: bytes) -> tuple[str, str]:
    """Names leaf first, each ended by NUL; an empty one parts the two hierarchies."""
    v2, v1 = b"\0" + raw, b""
    at = raw.find(b"\0\0") if not raw.startswith(b"\0") else 0
    if raw.startswith(b"\0"):
        v2, v1 = b"", raw[1:]
    elif at >= 0:
        v2, v1 = raw[: at + 1], raw[at + 2 :]
    return _path(v2), _path(v1)


def _path(names: bytes) -> str:
    parts = [n for n in names.split(b"\0") if n]
    return "/" + "/".join(p.decode("utf-8", "backslashreplace") for p in reversed(parts))
