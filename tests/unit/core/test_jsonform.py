"""Events as JSON and back: the command line's contract, and recordings that replay as they were."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events import jsonread
from daemoneye.events.codec import section_of
from daemoneye.events.flags import Flag, flag_names, flags_of
from daemoneye.events.jsonform import events_json, losses_json
from daemoneye.events.loss import LOSS
from daemoneye.events.pod_identity import POD_IDENTITY
from daemoneye.events.process_exec import PROCESS_EXEC

CONTRACT = {
    "kind", "event", "pid", "ppid", "start_time", "exe", "cwd", "argv", "argv_truncated", "uid", "gid", "euid", "cgroup", "container_id", "pod_uid",
    "workload", "flags", "parent",
}  # fmt: skip
LINE: dict[str, Any] = {
    "kind": "event", "event": "process_exec", "node": "n", "time": "2026-01-02T03:04:05.123456789Z", "pid": 7, "start_time": "2026-01-02T03:04:05Z",
    "exe": "/bin/sh", "argv": ["sh", "-c", "x"], "flags": ["memfd"], "workload": "host/systemd/a.service", "cgroup_id": 5, "identity": "resolved",
    "parent": {"pid": 3, "start_time": "2026-01-02T03:00:00Z", "exe": "/usr/sbin/nginx", "argv": ["nginx"]}, "ppid": 3,
    "parent_start_time": "2026-01-02T03:00:00Z",
}  # fmt: skip


def replayed(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for line in lines if (row := jsonread.parse_line(json.dumps(line).encode()))]
    sections, images, identities = jsonread.sections_of(rows)
    context = type(images)(images.record, images.rows, images.heap, context=True)
    about = Envelope("n", "b", 1, "urgent", 0, 0, 0)
    return list(events_json(envelope.decode(envelope.encode(about, [*sections, context, identities]))))


def test_a_line_comes_back_with_all_that_the_contract_names() -> None:
    (event,) = replayed(LINE)
    assert set(event) >= CONTRACT
    for name in ("time", "start_time", "pid", "exe", "argv", "flags", "workload", "ppid", "event", "identity"):
        want = LINE[name] if name != "start_time" else "2026-01-02T03:04:05.000000000Z"
        assert event[name] == want
    assert event["parent"]["exe"] == "/usr/sbin/nginx"
    assert event["parent"]["argv"] == ["nginx"]


def test_an_event_of_a_pod_says_what_kubernetes_knows() -> None:
    event = section_of(PROCESS_EXEC, {"time": [10, 11, 12], "pid": [5, 6, 7], "cgroup_id": [3, 4, 9]}, 3)
    pods: dict[str, object] = {
        "cgroup_id": [3, 4], "policies": [b"first\0second\0", b"first\0"], "namespace": [b"shop", b""], "pod": [b"checkout", b""],
        "container": [b"main", b""], "image": [b"shop:1", b""], "labels": [b"app=checkout\0odd\0tier=a=b\0", b""],
        "owner_kind": [b"Deployment", b""], "owner_name": [b"checkout", b""], "service_account": [b"default", b""],
    }  # fmt: skip
    batch = envelope.decode(
        envelope.encode(
            Envelope("n", "b", 1, "urgent", 0, 0, 0), [event, section_of(POD_IDENTITY, pods, 2, context=True)]
        )
    )
    inside, outside, nobody = events_json(batch)
    assert (inside["namespace"], inside["pod"], inside["container"], inside["image"]) == (
        "shop",
        "checkout",
        "main",
        "shop:1",
    )
    assert inside["labels"] == {"app": "checkout", "tier": "a=b"}
    assert inside["policies"] == ["first", "second"]
    assert outside["policies"] == ["first"]
    assert "pod" not in outside
    assert "policies" not in nobody


ARGUMENTS = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\0", b"")), min_size=1, max_size=5)


@given(ARGUMENTS)
def test_any_argv_survives_json_twice(argv: list[bytes]) -> None:
    raw = b"".join(a + b"\0" for a in argv)
    section = section_of(PROCESS_EXEC, {"time": 10, "pid": 5, "start_time": 3, "argv": [raw]}, 1)
    about = Envelope("n", "b", 1, "urgent", 0, 0, 0)
    (first,) = events_json(envelope.decode(envelope.encode(about, [section])))
    (second,) = replayed(first)
    assert second["argv"] == first["argv"]
    assert json.dumps(first["argv"]).isascii()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": "file_open"}, "unknown event 'file_open'; known: process_exec"),
        ({"pid": -1}, "process_exec.pid: -1 is not a whole number"),
        ({"pid": "7"}, "not a whole number"),
        ({"time": "yesterday"}, "is not a time like"),
        ({"argv": [1]}, "is not a string"),
        ({"flags": ["fast"]}, "unknown flag 'fast'"),
        ({"flags": [1]}, "flags: .* is not a whole number"),
        ({"flags": -1}, "flags: -1 is not a whole number"),
        ({"time": None}, "time is missing"),
        (
            {"parent": {"pid": 1 << 40, "start_time": "2026-01-01T00:00:00Z"}},
            "an ancestor's pid: .* is not a whole number",
        ),
        ({"ancestors": [{"pid": 1, "uid": -1, "start_time": "2026-01-01T00:00:00Z"}]}, "an ancestor's uid: -1"),
    ],
)
def test_bad_lines_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jsonread.parse_line(json.dumps(LINE | change).encode())


@pytest.mark.parametrize("name", ["time", "pid", "start_time"])
def test_what_a_row_cannot_do_without_is_asked_for(name: str) -> None:
    line = {k: v for k, v in LINE.items() if k != name}
    with pytest.raises(ValueError, match=f"{name} is missing"):
        jsonread.parse_line(json.dumps(line).encode())


def test_lines_of_other_kinds_are_passed_over() -> None:
    assert jsonread.parse_line(b'{"kind":"finding","id":"x"}') is None
    assert jsonread.parse_line(b"\n") is None


def test_flags_have_names_both_ways() -> None:
    value = int(Flag.MEMFD | Flag.SETUID) | 1 << 30
    assert flag_names(value) == ["memfd", "setuid", "bit_30"]
    assert flags_of(flag_names(value)) == value


def test_losses_are_said_in_words() -> None:
    values = {
        "time": [20],
        "since": [10],
        "count": [5],
        "first_sequence": np.array([2**64 - 1], np.uint64),
        "stage": [b"ring"],
        "lane": [b"urgent"],
        "ring": [b"exec"],
        "reason": [b"ring full"],
    }
    batch = envelope.decode(envelope.encode(Envelope("n", "b", 1, "loss", 0, 0, 0), [section_of(LOSS, values, 1)]))
    (loss,) = losses_json(batch)
    assert loss["kind"] == "loss"
    assert (loss["stage"], loss["ring"], loss["count"], loss["first_sequence"]) == ("ring", "exec", 5, None)
    assert not list(events_json(batch))
