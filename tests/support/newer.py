"""What a sensor of a newer release writes: a record with one field more and one less, and a record that there is not here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from daemoneye.envelope import Envelope, encode
from daemoneye.events.base import BASE
from daemoneye.events.codec import Section, section_of
from daemoneye.events.former import turned
from daemoneye.events.registry import BY_NAME
from daemoneye.events.schema import Field, Record
from tests.unit.analytics import factory
from tests.unit.analytics.factory import Exec

EXEC = BY_NAME["process_exec"]
_ADDED = (Field(900, "mood", "u64", ""), Field(901, "mood_reason", "heap16", "", text="string"))
_FILL = (Field(902, "mood_a", "u16", ""), Field(903, "mood_b", "u32", ""))
NEWER = replace(EXEC, fields=(*(f for f in EXEC.fields if f.name not in ("argv", "exe_uid")), *_ADDED, *_FILL))
"""`process_exec` without argv and exe_uid, and with a number and a string more."""
ADDED = Record(900, "thing_done", "urgent", "", (*BASE, Field(20, "what", "u64", "")))


def descriptor(record: Record) -> bytes:
    """As sensors announce it."""
    return json.dumps(record.descriptor(), separators=(",", ":")).encode()


def newer(rows: list[Exec]) -> Section:
    """Executions as such rows."""
    section = turned(factory.execs(rows), NEWER)
    section.rows["mood"] = 7
    return section


def message(rows: list[Exec], *, first: int = 0, things: int = 0) -> bytes:
    """A batch of executions and, before them, rows of the added record."""
    about = Envelope(
        node="n1", boot_id="b", epoch=7, lane="urgent", first_sequence=first, rows=0, clock_offset_ns=factory.OFFSET,
        first_time=1, last_time=1 << 40,
    )  # fmt: skip
    made = section_of(ADDED, {"time": np.arange(things), "what": 3}, things)
    context = [
        factory.execs([factory.INIT], context=True),
        factory.cgroups({1: factory.WORKLOAD}),
        factory.pods({1: factory.CHECKOUT}),
    ]
    return encode(about, [*([made] if things else []), *([newer(rows)] if rows else []), *context])
