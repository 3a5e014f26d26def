"""Schemas of newer releases: which descriptors are believed, and what is read of their rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from daemoneye import envelope
from daemoneye.broker.descriptors import MAX_BYTES, parse
from daemoneye.errors import CorruptData, UnknownSchema
from daemoneye.events.registry import READABLE, RECORDS
from daemoneye.events.schema import Field, Record
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.registry import build
from tests.support.newer import ADDED, EXEC, NEWER, descriptor, message
from tests.unit.analytics.factory import Exec

ROWS = [Exec(exe=b"/bin/a", argv=(b"a", b"b"), pid=10, uid=5), Exec(exe=b"/memfd:b", pid=11, flags=1 << 1)]


def test_a_batch_says_which_schemas_are_missing() -> None:
    with pytest.raises(UnknownSchema, match=rf"schema {ADDED.hash} of 'thing_done', schema {NEWER.hash} of") as caught:
        envelope.decode(message(ROWS, things=2))
    assert caught.value.schemas == (ADDED.hash, NEWER.hash)


def test_what_is_known_is_read_by_field_id() -> None:
    learned = {record.hash: parse(record.hash, descriptor(record)) for record in (NEWER, ADDED)}
    batch = envelope.decode(message(ROWS, things=2), {**learned, **READABLE})
    section = batch.section("process_exec")
    assert section
    assert section.record is EXEC
    assert section.rows["pid"].tolist() == [10, 11]
    assert section.rows["uid"].tolist() == [5, 0]
    assert section.values("exe") == [b"/bin/a", b"/memfd:b"]
    assert section.values("argv") == [b"", b""], "the newer schema has none"
    assert (section.rows["process_uid"] != 0).all()


def test_a_pipeline_counts_the_rows_of_records_that_it_does_not_know_once() -> None:
    learned = {record.hash: record for record in (NEWER, ADDED)}
    batch = envelope.decode(message(ROWS, things=3), {**learned, **READABLE})
    one = Pipeline(build())
    one.process(batch)
    one.process(batch)
    assert (one.counts.events, one.counts.unread) == (5, 3)
    assert one.watermarks.by_node() == {"n1": {"7": {"urgent": 5}}}
    more = envelope.decode(message(ROWS, first=4, things=3), {**learned, **READABLE})
    one.process(more)
    assert (one.counts.events, one.counts.unread) == (9, 5), "one of the three was there before"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_todays_own_descriptors_are_good_ones(record: Record) -> None:
    assert parse(record.hash, descriptor(record)).dtype == record.dtype


def _told(**changed: Any) -> dict[str, Any]:
    return {**NEWER.descriptor(), **changed}


def _with(field: dict[str, Any]) -> dict[str, Any]:
    return _told(fields=[*NEWER.descriptor()["fields"], field])


FIELD = {"id": 990, "name": "x", "type": "u64", "delta": False, "key_of": None, "text": ""}


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        (_told(name="process_exit"), "another one's"),
        (_with({**FIELD, "type": "u128"}), "of a form that this release does not know"),
        (_with({**FIELD, "unit": 3, "shape": 3}), "of a form that this release does not know"),
        (_with({**FIELD, "key_of": ["pid", "nothing"]}), "is the key of"),
        (_with({**FIELD, "type": "char16", "delta": True}), "cannot be a difference"),
        (_with({**FIELD, "type": "u8"}), "add or widen a field"),
        (_with({**FIELD, "id": 1}), "used twice"), (_with({**FIELD, "name": "x\ny"}), "a name that is none"),
        (_told(fields=[{**FIELD, "id": 900 + n, "name": f"x{n}"} for n in range(129)]), "more than 128 fields"),
        (_told(fields=3), "of a form"), ({}, "of a form"), ([], "of a form"), (None, "of a form"), ("x", "of a form"), (3, "of a form"),
    ],
    ids=str,
)  # fmt: skip
def test_a_descriptor_that_is_none_is_not_believed(descriptor: Any, reason: str) -> None:
    with pytest.raises(CorruptData, match=reason):
        parse(NEWER.hash, json.dumps(descriptor).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 60_000, b" " * (MAX_BYTES + 1)], ids=lambda data: data[:3])
def test_bytes_that_are_no_descriptor(data: bytes) -> None:
    with pytest.raises(CorruptData, match="descriptor of schema"):
        parse(NEWER.hash, data)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("thing_done", ()), ("process_exec", ()), ("process_exec", (Field(1, "time", "u64", ""),)),
        ("thing_done", (*EXEC.fields[:8], *(Field(900 + i, f"k{i}", "u64", "", key_of=("pid", "start_time")) for i in range(90)))),
    ],
    ids=["no columns", "none of ours", "few of ours", "derived columns"],
)  # fmt: skip
def test_a_schema_whose_rows_would_grow_is_refused(name: str, fields: tuple[Field, ...]) -> None:
    record = replace(ADDED, name=name, fields=fields)
    with pytest.raises(CorruptData, match="too little in common"):
        parse(record.hash, descriptor(record))
