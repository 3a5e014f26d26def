"""Findings: their JSON form, its bounds, and ids that follow from what happened."""

from __future__ import annotations

import json
from dataclasses import replace
from operator import mul
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.errors import CorruptData
from daemoneye.findings import MAX_ARGV, MAX_BYTES, EventReference, Finding, Process, Subject, Technique, finding_id

FINDING = Finding(
    id="0" * 32, time="2026-01-02T03:04:05.000000006Z", severity="high", score=0.8, detector="suspicious_exec", title="Fileless",
    subject=Subject("n1", "host/systemd/a.service", "c" * 64, "uid", 7, "2026-01-02T03:04:05.000000000Z", "/bin/x", ("x", "\x1b[2J"), "f" * 16),
    key="memfd:a", techniques=(Technique("T1620", "Reflective Code Loading"),), explanation=("One.", "Two."), confidence=0.5,
    confidence_reasons=("Because.",), events=(EventReference("n1", 2**60, "urgent", 3, "process_exec"),),
    process_tree=(Process(1, "/sbin/init", ("init",)), Process(7, "/bin/x", ("x",))),
)  # fmt: skip
CONTRACT = {
    "id",
    "time",
    "severity",
    "score",
    "detector",
    "title",
    "techniques",
    "subject",
    "explanation",
    "confidence",
    "events",
}
IDENTITY: dict[str, Any] = {
    "detector": "d",
    "version": 1,
    "node": "n",
    "pid": 7,
    "start_ns": 10,
    "event_ns": 20,
    "key": "k",
}


def test_json_and_back():
    value = json.loads(FINDING.encode())
    assert value["kind"] == "finding"
    assert value.keys() >= CONTRACT
    assert Finding.from_json(value) == FINDING
    assert Finding.decode(FINDING.encode()) == FINDING


def test_unknown_fields_of_newer_writers_are_ignored():
    assert Finding.from_json({**FINDING.to_json(), "new": 1}) == FINDING


@given(
    st.lists(st.builds(mul, st.text(max_size=3), st.sampled_from([1, 500, 20_000])), max_size=4),
    st.builds(mul, st.text(max_size=3), st.sampled_from([1, 100, 2_000])), st.integers(0, 40), st.integers(0, 60),
)  # fmt: skip
def test_never_larger_than_its_bound(argv, text, ancestors, sentences):
    huge = replace(
        FINDING, title=text, key=text, explanation=(text,) * sentences, confidence_reasons=(text,) * sentences,
        subject=replace(FINDING.subject, exe=text, argv=tuple(argv), workload=text),
        process_tree=tuple(Process(i, text, tuple(argv)) for i in range(ancestors)), events=FINDING.events * 1000,
    )  # fmt: skip
    assert len(huge.encode()) <= MAX_BYTES
    assert Finding.decode(huge.encode()).id == FINDING.id


def test_long_arguments_are_cut_and_marked():
    argv = Finding.decode(
        replace(FINDING, subject=replace(FINDING.subject, argv=("a", "b" * 40_000, "c"))).encode()
    ).subject.argv
    assert argv[0] == "a"
    assert argv[1].endswith("…")
    assert len(argv) == 2
    assert MAX_ARGV - 16 < sum(len(a.encode()) for a in argv) <= MAX_ARGV


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"id":1}', b"\xff", b"[" * 20_000, b"x" * 100_000, json.dumps({**FINDING.to_json(), "severity": "bad"}).encode(),
     json.dumps({**FINDING.to_json(), "score": 2}).encode(), json.dumps({**FINDING.to_json(), "events": [3]}).encode(),
     json.dumps({**FINDING.to_json(), "score": float("nan")}).encode(), json.dumps({**FINDING.to_json(), "subject": None}).encode()],
    ids=range(13),
)  # fmt: skip
def test_what_is_no_finding_is_refused(data):
    with pytest.raises(CorruptData):
        Finding.decode(data)


def test_id_follows_from_what_happened():
    assert finding_id(**IDENTITY) == finding_id(**IDENTITY)
    assert len(finding_id(**IDENTITY)) == 32
    others = {
        finding_id(**{**IDENTITY, name: "x" if isinstance(value, str) else value + 1})
        for name, value in IDENTITY.items()
    }
    assert len(others | {finding_id(**IDENTITY)}) == len(IDENTITY) + 1


def test_id_of_parts_that_join_alike_differs():
    assert finding_id(**{**IDENTITY, "node": "a", "detector": "bc"}) != finding_id(
        **{**IDENTITY, "node": "ab", "detector": "c"}
    )
