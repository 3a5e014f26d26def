"""Rows as Arrow: the same values as the naive way, for any bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.envelope import Batch, Envelope
from daemoneye.escape import decode
from daemoneye.events import arrow
from daemoneye.events.codec import Section, section_of
from daemoneye.events.jsonform import split_argv
from daemoneye.events.registry import BY_NAME, RECORDS

OFFSET = 1_700_000_000_123_456_789
EXEC = BY_NAME["process_exec"]
# Bytes where text breaks: ASCII, terminators, halves and wholes of longer characters, what is no UTF-8 at all.
PIECES = st.sampled_from(
    [b"a", b"/usr/bin/x", b"\0", "é".encode(), "😀".encode(), b"\xc3", b"\xa9", b"\xff", b"\x1b[2J", b"\xed\xa0\x80"]
)
TEXT = st.lists(PIECES, max_size=6).map(b"".join)
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT, st.integers(0, 2**50), st.integers(0, 2**32 - 1)), max_size=12)


def batch_of(*sections: Section) -> Batch:
    return Batch(Envelope("n", "b", 1, "urgent", 0, 0, OFFSET), sections)


@given(ROWS)
def test_same_as_the_naive_way(rows):
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    exe, argv, comm, time, uid = columns
    section = section_of(
        EXEC, {"exe": exe, "argv": argv, "comm": [c[:16] for c in comm], "time": time, "uid": uid}, len(rows)
    )
    made = arrow.to_arrow(batch_of(section), section)
    made.validate(full=True)
    assert made.schema.equals(arrow.schema(EXEC), check_metadata=True)
    assert made.column("exe").to_pylist() == [decode(e) for e in exe]
    assert made.column("argv").to_pylist() == [split_argv(a) for a in argv]
    assert made.column("comm").to_pylist() == [decode(c) for c in section.rows["comm"].tolist()]
    assert made.column("uid").to_pylist() == list(uid)
    assert made.column("time").cast(pa.int64()).to_pylist() == [t + OFFSET for t in time]


@given(st.lists(TEXT, min_size=1, max_size=8))
def test_a_character_is_not_joined_across_rows(texts):
    # The heap as a whole may be UTF-8 where a single row is not.
    section = section_of(EXEC, {"cwd": texts}, len(texts))
    assert arrow.to_arrow(batch_of(section), section, ["cwd"]).column(0).to_pylist() == [decode(t) for t in texts]


def test_two_halves_of_a_character_in_neighbouring_rows():
    section = section_of(EXEC, {"exe": [b"\xc3", b"\xa9"]}, 2)
    assert arrow.to_arrow(batch_of(section), section, ["exe"]).column(0).to_pylist() == ["\\xc3", "\\xa9"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.name)
def test_every_record_has_a_schema_with_documented_fields(record):
    schema = arrow.schema(record)
    assert schema.names == [f.name for f in record.fields]
    for field in record.fields:
        metadata = schema.field(field.name).metadata
        assert metadata[b"doc"].decode() == field.doc
        assert metadata[b"unit"].decode() == field.unit
        assert metadata[b"ocsf"].decode() == field.ocsf
        assert int(metadata[b"id"]) == field.id
    section = section_of(record, {}, 3)
    made = arrow.to_arrow(batch_of(section), section)
    made.validate(full=True)
    assert made.num_rows == 3


def test_moments_are_wall_time_and_counts_are_not():
    schema = arrow.schema(BY_NAME["loss"])
    assert schema.field("time").type == schema.field("since").type == pa.timestamp("ns", tz="UTC")
    assert schema.field("count").type == pa.uint64()


def test_chosen_columns_and_no_rows():
    section = section_of(EXEC, {}, 0)
    made = arrow.to_arrow(batch_of(section), section, ["argv", "exe", "comm"])
    assert made.schema.names == ["exe", "argv", "comm"]
    assert made.num_rows == 0


def test_an_argv_that_was_cut_keeps_its_last_argument():
    section = section_of(EXEC, {"argv": [b"a\0bc", b"", b"\0", b"x\0"]}, 4)
    assert arrow.to_arrow(batch_of(section), section, ["argv"]).column(0).to_pylist() == [["a", "bc"], [], [""], ["x"]]


def test_columns_do_not_follow_later_changes_of_another_array():
    rows = section_of(EXEC, {"uid": np.arange(4)}, 4)
    made = arrow.to_arrow(batch_of(rows), rows, ["uid"])
    rows.rows["uid"] = 9
    assert made.column(0).to_pylist() == [0, 1, 2, 3]
