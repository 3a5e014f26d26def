r"""Rows as Arrow: the form in which analytics, archives and notebooks work with them.

Responsible for the Arrow schema that follows from a declaration and for the copy of a section's columns into it, by whole
columns and without Python per row. Joins (whose parent, whose cgroup) are `daemoneye.events.ancestry`'s business.

Text is UTF-8 in Arrow, but a process may name itself with any bytes: those that are not UTF-8 become `\xNN`, exactly as
`daemoneye.escape.decode` writes them. Columns that are clean, which is nearly all, are moved as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from daemoneye.envelope import Batch
from daemoneye.escape import decode
from daemoneye.events.codec import Section
from daemoneye.events.schema import Field, Record

_NUMBERS: Final[dict[str, pa.DataType]] = {
    "u8": pa.uint8(), "u16": pa.uint16(), "u32": pa.uint32(), "i32": pa.int32(), "u64": pa.uint64(), "i64": pa.int64(),
}  # fmt: skip
_MOMENT: Final = pa.timestamp("ns", tz="UTC")
_NUL: Final = np.uint8(0)
_LISTS: Final = ("argv", "numbers")
"""Texts that are lists; whether a number is one is for its reader to see."""


def schema(record: Record, columns: Iterable[str] | None = None) -> pa.Schema:
    """The Arrow schema of a record, one Arrow field for each declared field.

    Args:
        record: The declaration.
        columns: Names of the fields that are wanted, in any order; all of them by default.

    Returns:
        Fields in order of declaration with the metadata `id`, `doc`, `unit` and `ocsf`; the schema's own name the record.
    """
    return _schema(record, None if columns is None else frozenset(columns))


@lru_cache(maxsize=256)
def _schema(record: Record, wanted: frozenset[str] | None) -> pa.Schema:
    """Made once for each choice of columns, of which the code knows a few dozen: it takes as long as a hundred rows."""
    fields = [
        pa.field(
            f.name,
            _type(f),
            nullable=False,
            metadata={"id": str(f.id), "doc": f.doc, "unit": f.unit, "ocsf": f.ocsf},
        )
        for f in record.fields
        if wanted is None or f.name in wanted
    ]
    about = {"record": record.name, "id": str(record.id), "hash": record.hash, "doc": record.doc}
    return pa.schema(fields, metadata=about)


def to_arrow(batch: Batch, section: Section, columns: Iterable[str] | None = None) -> pa.RecordBatch:
    """One section's rows as Arrow, shape (n rows, fields of `schema`).

    Args:
        batch: The batch that the section came with: its clock offset turns boot-time stamps into wall time (UTC, ns).
        section: The rows.
        columns: Names of the fields that are wanted; all of them by default.
    """
    made = schema(section.record, columns)
    by_name = {f.name: f for f in section.record.fields}
    arrays = [_array(batch, section, by_name[name], kind) for name, kind in zip(made.names, made.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=made)


def _type(field: Field) -> pa.DataType:
    if field.moment:
        return _MOMENT
    if field.text in _LISTS:
        return pa.list_(pa.field("item", pa.string(), nullable=False))
    if field.text == "string" or field.type == "char16":
        return pa.string()
    if field.type == "ip":
        return pa.binary(16)
    return pa.binary() if field.heap else _NUMBERS[field.type]


def _array(batch: Batch, section: Section, field: Field, kind: pa.DataType) -> pa.Array:
    if field.heap:
        offsets, data = section.bytes_column(field.name)
        if field.text in _LISTS:
            return _arguments(offsets, data, kind)
        return _strings(offsets, data) if field.text else _binary(pa.binary(), offsets, data)
    column = section.rows[field.column]
    if field.type == "char16":
        return _strings(*_fixed_text(column))
    values = batch.wall_ns(column) if field.moment else np.ascontiguousarray(column)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _fixed_text(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NUL-padded bytes of one width as (offsets, bytes) without the padding."""
    width = column.dtype.itemsize
    table = np.ascontiguousarray(column).view(np.uint8).reshape(len(column), width)
    length = np.char.str_len(column).astype(np.int64)
    return _offsets(length), table[np.arange(width) < length[:, None]]


def _offsets(lengths: np.ndarray) -> np.ndarray:
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def _binary(kind: pa.DataType, offsets: np.ndarray, data: np.ndarray) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


def _strings(offsets: np.ndarray, data: np.ndarray) -> pa.Array:
    """Text from bytes of which string i is data[offsets[i]:offsets[i+1]]."""
    high = data >= 0x80
    if not high.any() or _is_utf8(offsets, data):
        return _binary(pa.string(), offsets, data)
    # Only rows with bytes beyond ASCII can be wrong, and only those are looked at one by one.
    before = np.zeros(len(data) + 1, np.int64)
    np.cumsum(high, out=before[1:])
    suspects = np.flatnonzero(before[offsets[1:]] > before[offsets[:-1]])
    whole = data.tobytes()
    texts = [decode(whole[offsets[i] : offsets[i + 1]]).encode() for i in suspects.tolist()]
    mask = np.zeros(len(offsets) - 1, bool)
    mask[suspects] = True
    fixed = pc.replace_with_mask(_binary(pa.binary(), offsets, data), pa.array(mask), pa.array(texts, pa.binary()))
    return fixed.cast(pa.string())


def _is_utf8(offsets: np.ndarray, data: np.ndarray) -> bool:
    """Whether every string is UTF-8 by itself: the whole is, and none begins within a character."""
    try:
        bytes(data).decode()
    except UnicodeDecodeError:
        return False
    first = data[offsets[:-1][offsets[1:] > offsets[:-1]]]
    return not bool(((first & 0xC0) == 0x80).any())


def _arguments(offsets: np.ndarray, data: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Lists of arguments from NUL-terminated ones: region i is data[offsets[i]:offsets[i+1]]."""
    filled = np.flatnonzero(offsets[1:] > offsets[:-1])
    ends = offsets[1:][filled]
    # An argv that was cut ends in the middle of an argument; it gets the terminator that it lost.
    cut = filled[data[ends - 1] != _NUL]
    if len(cut):
        data = np.insert(data, offsets[1:][cut], _NUL)
        grown = np.zeros(len(offsets) - 1, np.int64)
        grown[cut] = 1
        offsets = offsets + _offsets(grown)
    nul = data == _NUL
    stops = np.flatnonzero(nul)
    begins = np.zeros(len(stops), np.int64)
    begins[1:] = stops[:-1] + 1
    items = _strings(_offsets(stops - begins), data[~nul])
    lists = np.searchsorted(stops, offsets).astype(np.int32)
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(lists)], children=[items])
