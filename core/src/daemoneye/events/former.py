"""Schemas that records had before, or have in newer releases: what other sensors write and what lies in streams, spools and recordings is read as today's rows.

Responsible for the archive (`former.json`, descriptors by hash, append-only) and for turning rows by field id. A field that today's record has and a
another has not is 0 or empty; one that today's has not is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.events.base import derive
from daemoneye.events.codec import Section, gather
from daemoneye.events.schema import Record

ARCHIVE: Final = Path(__file__).with_name("former.json")
FORMER: Final[dict[str, Record]] = {
    key: Record.from_descriptor(descriptor) for key, descriptor in json.loads(ARCHIVE.read_text("utf-8")).items()
}
"""Former schemas by hash."""


def turned(section: Section, record: Record) -> Section:
    """The rows of a section as rows of another schema of the same record; by whole columns.

    Raises:
        CorruptData: A field has another type than it had: ids and types never change, so one of the two is no schema of ours.
    """
    known = {field.id: field for field in section.record.fields}
    rows = np.zeros(len(section.rows), record.dtype)
    begins, lengths = [], []
    nothing = np.zeros(len(rows), np.int64)
    for field in record.fields:
        former = known.get(field.id)
        if former is not None:
            column = section.rows[former.column]
            if former.heap != field.heap or not np.can_cast(column.dtype, rows.dtype[field.column], "safe"):
                msg = f"{record.name}.{field.name} (field {field.id}) is {former.type} there and {field.type} here: no schema of this record"
                raise CorruptData(msg)
            rows[field.column] = column
        if field.heap:
            begin, length = section.column(former.name) if former else (nothing, nothing)
            begins.append(begin)
            lengths.append(length)
    heap = (
        gather(section.heap, np.stack(begins, axis=1).ravel(), np.stack(lengths, axis=1).ravel())
        if begins
        else section.heap[:0]
    )
    derive(record, rows)
    return Section(record, rows, heap, section.context)
