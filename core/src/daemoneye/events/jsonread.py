"""Events from JSON objects: the inverse of `daemoneye.events.jsonform`, for recordings that people can read and edit.

A recording in JSON has wall times and the moment of boot: with it rows get their own clock back, and with that their process keys. Rows without
a moment of boot use wall time as their clock. One Python dict a line: this is for replays, not for the live path.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye.events.addresses import packed, protocol_number
from daemoneye.events.base import derive
from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.codec import Section, section_of
from daemoneye.events.flags import Flag, flags_of
from daemoneye.events.netform import WORDS, number_of
from daemoneye.events.network import OF_PEER
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.registry import EVENTS
from daemoneye.events.schema import Record

_STATES: Final = {"unknown": 0, "partial": 1, "resolved": 2}
_TIME: Final = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)Z$")
_ESCAPED: Final = re.compile(rb"\\x([89a-f][0-9a-f])")
_MAX_LINE: Final = 1 << 20


class Clock(NamedTuple):
    """Whose clock a row's times are of; `offset_ns` is wall time minus that clock."""

    node: str
    boot_id: str
    offset_ns: int


def parse_line(line: bytes) -> dict[str, Any] | None:
    """One line of a recording, checked; None for lines of another kind (findings, status) and blank ones.

    Raises:
        ValueError: What is wrong, in words.
    """
    if not line.strip():
        return None
    if len(line) > _MAX_LINE:
        msg = f"the line is longer than {_MAX_LINE} bytes"
        raise ValueError(msg)
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - bad input, not a caller's mistake
    if event.get("kind", "event") != "event":
        return None
    record = EVENTS.get(str(event.get("event")))
    if record is None:
        msg = f"unknown event {event.get('event')!r}; known: {', '.join(EVENTS)}"
        raise ValueError(msg)
    for name in ("time",) if record.of_network else ("time", "pid", "start_time"):
        if event.get(name) is None:
            msg = f"{record.name}: {name} is missing"
            raise ValueError(msg)
    return _checked(record, event)


def _checked(record: Record, event: dict[str, Any]) -> dict[str, Any]:
    """The event with times as ns and texts as bytes, every value fitting its column."""
    boot = wall_ns(event["boot_time"]) if "boot_time" in event else 0
    peer = event.get("peer") if record.of_network else None
    if isinstance(peer, dict):
        event = {**event, **{column: peer.get(name) for column, name in OF_PEER.items()}}
    row: dict[str, Any] = {
        "event": record.name,
        "clock": Clock(str(event.get("node", "")), str(event.get("boot_id", "replay")), boot),
    }
    for field in record.fields:
        value = event.get(field.name)
        if field.derived or field.name == "event" or value is None:
            continue
        if field.moment:
            row[field.name] = _since_boot(value, boot)
        elif field.name == "flags":
            row["flags"] = _flags(value, field.column_type[0], record.name)
        elif field.text == "argv":
            row[field.name] = b"".join(_bytes(a).replace(b"\0", b"") + b"\0" for a in value)
        elif field.text == "numbers":
            row[field.name] = b"".join(b"%d\0" % int(number or 0) for number in value)
        elif field.type == "ip":
            row[field.name] = packed(str(value))
        elif field.name == "proto":
            row["proto"] = protocol_number(value)
        elif field.name in WORDS:
            row[field.name] = number_of(field.name, value)
        elif field.heap or field.type == "char16":
            row[field.name] = _bytes(value)
        else:
            row[field.name] = _whole(value, field.column_type[0], f"{record.name}.{field.name}")
    above = [event.get("parent"), *(event.get("ancestors") or [])]
    # What a socket's process runs stands beside the row, and maybe nowhere else; other rows' images come with executions.
    own = [
        whose if record.of_network and isinstance(whose, dict) and whose.get("exe") else None for whose in (event, peer)
    ]
    row["chains"] = [_chain([own[0], *above], boot), _chain([own[1]], boot)]
    row["identities"] = [
        ((row.get(f"{side}cgroup_id", 0), row.get(f"{side}cgroup_v1_id", 0)), _identity(whose))
        for side, whose in (("", event), ("peer_", peer))
        if isinstance(whose, dict)
    ]
    return row


def _whole(value: object, column: str, what: str) -> int:
    """A number that a column of this numpy type holds."""
    limits = np.iinfo(np.dtype(column))
    if not isinstance(value, int) or not limits.min <= value <= limits.max:
        msg = f"{what}: {value!r} is not a whole number from {limits.min} to {limits.max}"
        raise ValueError(msg)
    return value


def _flags(value: object, column: str, what: str) -> int:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return flags_of(value)
    return _whole(value, column, f"{what}.flags")


def _identity(whose: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(whose.get(name, "")) for name in ("cgroup", "container_id", "pod_uid", "workload", "identity"))


def _chain(images: Sequence[object], boot: int) -> list[dict[str, Any]]:
    """A process and its ancestors, those that are known."""
    return [_image(image, boot) for image in images if isinstance(image, dict) and image.get("start_time")]


def _since_boot(value: object, boot: int) -> int:
    if (ns := wall_ns(value) - boot) < 0:
        msg = f"{value!r} is before the moment of boot"
        raise ValueError(msg)
    return ns


def _image(image: Mapping[str, Any], boot: int) -> dict[str, Any]:
    return {
        "pid": _whole(image["pid"], "u4", "an ancestor's pid"),
        "start_time": _since_boot(image["start_time"], boot),
        "exe": _bytes(image.get("exe", "")),
        "uid": _whole(image.get("uid", 0), "u4", "an ancestor's uid"),
        "argv": b"".join(_bytes(a) + b"\0" for a in image.get("argv", [])),
    }


def wall_ns(value: object) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time in UTC.

    Raises:
        ValueError: Another form.
    """
    match = _TIME.match(value) if isinstance(value, str) else None
    if match is None:
        msg = f"{value!r} is not a time like 2026-01-02T03:04:05.123456789Z"
        raise ValueError(msg)
    return int(np.datetime64(match[1], "ns").astype(np.int64))


def _bytes(text: object) -> bytes:
    """Bytes of a text; escapes of bytes that were not UTF-8 become those bytes again."""
    if not isinstance(text, str):
        msg = f"{text!r} is not a string"
        raise ValueError(msg)  # noqa: TRY004 - bad input, not a caller's mistake
    raw = text.encode("utf-8", "surrogatepass")
    return _ESCAPED.sub(lambda m: bytes.fromhex(m[1].decode()), raw) if b"\\x" in raw else raw


def sections_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Section], Section, Section]:
    """Checked rows as columns.

    Returns:
        Event sections, images of the ancestors that the rows name (with SNAPSHOT set: nobody saw them start), and cgroup identities.
    """
    sections = []
    for record in EVENTS.values():
        mine = sorted((row for row in rows if row["event"] == record.name), key=lambda row: row["time"])
        if mine:
            sections.append(_section(record, mine))
    return sections, _images(rows), _identities(rows)


def _section(record: Record, rows: Sequence[Mapping[str, Any]]) -> Section:
    values: dict[str, object] = {"event": record.id}
    for field in record.fields:
        if not field.derived and field.name != "event":
            empty: object = bytes(16) if field.type == "ip" else b"" if field.heap or field.type == "char16" else 0
            values[field.name] = [row.get(field.name, empty) for row in rows]
    section = section_of(record, values, len(rows))
    derive(record, section.rows)
    return section


def _images(rows: Sequence[Mapping[str, Any]]) -> Section:
    made: dict[tuple[int, int], dict[str, Any]] = {}
    for chain in (chain for row in rows for chain in row["chains"]):
        for image, above in itertools.zip_longest(chain, chain[1:]):
            full = {
                **image,
                "time": image["start_time"],
                "flags": int(Flag.SNAPSHOT),
                "argv_length": len(image["argv"]),
            }
            if above:
                full |= {"ppid": above["pid"], "parent_start_time": above["start_time"]}
            made.setdefault((image["pid"], image["start_time"]), full)
    return _section(PROCESS_EXEC, list(made.values()))


def _identities(rows: Sequence[Mapping[str, Any]]) -> Section:
    known: dict[tuple[int, int], tuple[str, ...]] = {}
    for pair, identity in (each for row in rows for each in row["identities"]):
        known.setdefault(pair, identity)
    texts = list(known.values())
    names = ("path", "container_id", "pod_uid", "workload")
    values: dict[str, object] = {name: [_bytes(text[i]) for text in texts] for i, name in enumerate(names)}
    values |= {
        "cgroup_id": [v2 for v2, _ in known],
        "cgroup_v1_id": [v1 for _, v1 in known],
        "state": [_STATES.get(text[4], 0) for text in texts],
    }
    section = section_of(CGROUP_IDENTITY, values, len(known))
    return Section(section.record, section.rows, section.heap, context=True)
