"""Rows ⇄ bytes: the two parts of a section, both made and read by whole columns.

The fixed part is byte-transposed (all first bytes of all rows, then all second bytes, …; the "shuffle" of Blosc), after columns that
rise slowly were replaced by their differences; derived columns are left out. The heap part is the rows' heap regions one after another.
Both are then compressed together by the envelope. Nothing here runs Python per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.events.base import derive
from daemoneye.events.schema import Field, Record

_DELTA_VIEW: dict[str, np.dtype[Any]] = {
    "u32": np.dtype("<u4"),
    "u64": np.dtype("<u8"),
    "i64": np.dtype("<u8"),
    "i32": np.dtype("<u4"),
    "u16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one record.

    Attributes:
        record: Declaration of the rows.
        rows: Structured array of `record.dtype`, shape (n,).
        heap: uint8 array with the rows' heap regions one after another.
        context: Rows that explain others (ancestors, identities): they have no sequence of their own.
    """

    record: Record
    rows: np.ndarray
    heap: np.ndarray
    context: bool = False

    def take(self, index: np.ndarray) -> Section:
        """The section of some of the rows, in the order of `index` (int array or boolean mask)."""
        where = np.flatnonzero(index) if index.dtype == bool else index
        rows = rows_at(self.rows, where)
        heap = gather(self.heap, self.starts()[where], self.record.heap_lengths(rows))
        return Section(self.record, rows, heap, self.context)

    def starts(self) -> np.ndarray:
        """Where each row's heap region begins, shape (n,), int64."""
        return starts(self.record.heap_lengths(self.rows))

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Begin and length in `heap` of one heap field of every row: two int64 arrays of shape (n,)."""
        begin = self.starts()
        for field in self.record.heap_fields:
            length = self.rows[field.column].astype(np.int64)
            if field.name == name:
                return begin, length
            begin = begin + length
        msg = f"{self.record.name} has no heap field {name!r}"
        raise KeyError(msg)

    def bytes_column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One heap field of every row as Arrow would hold it: (offsets int64 of shape (n+1,), bytes)."""
        begin, length = self.column(name)
        offsets = np.zeros(len(length) + 1, np.int64)
        np.cumsum(length, out=offsets[1:])
        return offsets, gather(self.heap, begin, length)

    def values(self, name: str) -> list[bytes]:
        """One heap field of every row as bytes objects: for what a person will read, not for the hot path."""
        begin, length = self.column(name)
        whole = self.heap.tobytes()
        return [whole[b : b + n] for b, n in zip(begin.tolist(), length.tolist(), strict=True)]


@lru_cache(maxsize=64)
def _layout(record: Record) -> tuple[np.ndarray, tuple[tuple[str, np.dtype[np.unsignedinteger], int, int], ...]]:
    """Which bytes of a row travel, in order of the wire, and the columns of which differences do (with place and size)."""
    planes: list[int] = []
    deltas = []
    offsets: Mapping[str, Any] = record.dtype.fields or {}
    for field in record.fields:
        if field.derived:
            continue
        size, begin = field.column_type[1], offsets[field.column][1]
        if field.delta:
            deltas.append((field.column, _DELTA_VIEW[field.type], len(planes), size))
        planes += range(begin, begin + size)
    return np.array(planes), tuple(deltas)


def rows_at(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Some rows of a contiguous structured array, moved as bytes: numpy copies them field by field, which takes twenty times as long."""
    return rows.view(np.dtype((np.void, rows.dtype.itemsize)))[at].view(rows.dtype)


def starts(lengths: np.ndarray) -> np.ndarray:
    """Exclusive running sum of lengths, int64, shape (n,)."""
    out = np.zeros(len(lengths), np.int64)
    if len(lengths) > 1:
        np.cumsum(lengths[:-1], out=out[1:])
    return out


def gather(heap: np.ndarray, begin: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Ragged copy: the bytes heap[begin[i] : begin[i]+length[i]] one after another, uint8."""
    total = int(length.sum())
    if not total:
        return np.zeros(0, np.uint8)
    if total == len(heap) and len(begin) and begin[0] == 0 and bool((begin[1:] == begin[:-1] + length[:-1]).all()):
        return heap
    # Half the bytes of an index are half its time; heaps are far smaller than 2 GiB.
    kind: type[np.signedinteger[Any]] = np.int32 if len(heap) < 2**31 and total < 2**31 else np.int64
    index = np.arange(total, dtype=kind)
    index += np.repeat((begin - starts(length)).astype(kind), length)
    return heap.take(index)


def section_of(record: Record, values: dict[str, object], n: int, *, context: bool = False) -> Section:
    """A section from columns: arrays or scalars for fixed columns, sequences of n bytes objects for heap fields; what is missing is 0 or empty."""
    rows = np.zeros(n, record.dtype)
    parts: list[list[bytes]] = []
    for field in record.fields:
        if field.name not in values:
            continue
        if not field.heap:
            rows[field.name] = values[field.name]
            continue
        strings = list(map(bytes, values[field.name])) or [b""] * n  # type: ignore[call-overload]
        lengths = list(map(len, strings))
        limit = 0xFFFF if field.type == "heap16" else 0xFFFFFFFF
        if max(lengths, default=0) > limit:
            strings = [s[:limit] for s in strings]
            lengths = list(map(len, strings))
        rows[field.column] = lengths
        parts.append(strings)
    heap = b"".join(map(b"".join, zip(*parts, strict=True)))
    return Section(record, rows, np.frombuffer(heap, np.uint8), context)


def concatenate(sections: list[Section]) -> Section:
    """Sections of one record as one. There must be at least one."""
    first = sections[0]
    if len(sections) == 1:
        return first
    return Section(
        first.record,
        _joined([s.rows for s in sections]),
        np.concatenate([s.heap for s in sections]),
        first.context,
    )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Rows one after another, moved as bytes: numpy joins structured arrays column by column."""
    opaque = np.dtype((np.void, parts[0].dtype.itemsize))
    return np.concatenate([np.ascontiguousarray(part).view(opaque) for part in parts]).view(parts[0].dtype)


def encode_fixed(record: Record, rows: np.ndarray) -> bytes:
    """The fixed part's wire form: n × wire size bytes, transposed."""
    planes, deltas = _layout(record)
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), record.dtype.itemsize)
    out = raw.T[planes]
    for column, kind, at, size in deltas:
        values = np.ascontiguousarray(rows[column])
        out[at : at + size] = _difference(values, kind).view(np.uint8).reshape(-1, size).T
    return out.tobytes()


def decode_fixed(record: Record, data: np.ndarray, n: int) -> np.ndarray:
    """Rows from the wire form; `data` is a uint8 array.

    Raises:
        CorruptData: The size does not fit the number of rows.
    """
    wire = record.wire_dtype
    if len(data) != n * wire.itemsize:
        msg = f"section {record.name}: {len(data)} bytes for {n} rows of {wire.itemsize}"
        raise CorruptData(msg)
    rows = np.zeros(n, record.dtype)
    planes = data.reshape(wire.itemsize, n)
    at = 0
    for field in record.fields:
        if field.derived:
            continue
        rows[field.column] = _column(field, planes[at : at + field.column_type[1]])
        at += field.column_type[1]
    derive(record, rows)
    return rows


def _difference(column: np.ndarray, unsigned: np.dtype[Any]) -> np.ndarray:
    """First value, then differences, wrapping: for columns that rise slowly. Row-wise zigzag is not worth its time: falls are rare."""
    values = column.view(unsigned)
    out = values.copy()
    np.subtract(values[1:], values[:-1], out=out[1:])
    return out


def _column(field: Field, planes: np.ndarray) -> np.ndarray:
    column = np.ascontiguousarray(planes.T).view(np.dtype(field.column_type[0])).reshape(-1)
    if field.delta:
        unsigned = _DELTA_VIEW[field.type]
        return np.cumsum(column.view(unsigned), dtype=unsigned).view(column.dtype)
    return column
