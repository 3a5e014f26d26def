"""Rows about sockets as JSON and back: numbers that are words for people."""

from __future__ import annotations

import json

import pytest

from daemoneye.envelope import Batch, Envelope
from daemoneye.events.addresses import packed
from daemoneye.events.base import derive
from daemoneye.events.codec import Section, section_of
from daemoneye.events.jsonform import events_json
from daemoneye.events.jsonread import parse_line, sections_of
from daemoneye.events.network import Attribution
from daemoneye.events.registry import BY_NAME
from daemoneye.events.sockets import Direction, Ending


def closed(**values: object) -> Section:
    record = BY_NAME["socket_close"]
    row: dict[str, object] = {
        "time": 9_000, "event": record.id, "pid": 7, "tid": 8, "start_time": 100, "cgroup_id": 0, "src_ip": packed("10.0.0.1"), "dst_ip": packed("fd00::2"),
        "src_port": 40_000, "dst_port": 443, "proto": 6, "attribution": Attribution.EXACT, "begin_time": 1_000, "netns": 4_026_531_840,
        "direction": Direction.OUTBOUND, "family": 6, "established": 1, "ending": Ending.RESET, "src_bytes": 1 << 40, "dst_bytes": 2, "last_time": 8_000,
        "src_calls": 3, "dst_calls": 4, "retransmits": 5, "rtt": 6,
    }  # fmt: skip
    section = section_of(record, {name: [value] for name, value in {**row, **values}.items()}, 1)
    derive(record, section.rows)
    return section


def events(section: Section) -> list[dict[str, object]]:
    return list(events_json(Batch(Envelope("n", "b", 1, "bulk", 0, 1, 10_000), (section,))))


def test_what_is_written_is_read_back() -> None:
    section = closed()
    (event,) = events(section)
    assert (event["direction"], event["ending"], event["attribution"]) == ("outbound", "reset", "exact")
    assert (event["src_ip"], event["dst_ip"], event["proto"]) == ("10.0.0.1", "fd00::2", "tcp")
    row = parse_line(json.dumps(event).encode())
    assert row
    ((again,), _, _) = sections_of([row])
    names = [f.name for f in section.record.fields if f.name not in {"cpu", "cgroup_id", "cgroup_v1_id"}]
    assert [again.rows[0][name] for name in names] == [section.rows[0][name] for name in names]


def test_a_row_without_a_process_says_so() -> None:
    (event,) = events(closed(pid=0, tid=0, start_time=0, attribution=0))
    assert event["attribution"] == "none"
    assert "pid" not in event
    assert "parent" not in event


def test_numbers_of_a_later_release_pass_through() -> None:
    (event,) = events(closed(direction=200, ending=201))
    assert (event["direction"], event["ending"]) == ("200", "201")
    row = parse_line(json.dumps(event).encode())
    assert row
    assert (row["direction"], row["ending"]) == (200, 201)


@pytest.mark.parametrize("column", ["direction", "ending", "attribution"])
def test_a_word_that_nobody_knows_is_refused(column: str) -> None:
    (event,) = events(closed())
    with pytest.raises(ValueError, match=f"{column} 'sideways' is none of"):
        parse_line(json.dumps({**event, column: "sideways"}).encode())


def test_a_socket_is_explained_by_its_own_process() -> None:
    for name in ("socket_open", "socket_close"):
        assert BY_NAME[name].explained_keys == ("process_uid",)
        assert BY_NAME[name].of_network
