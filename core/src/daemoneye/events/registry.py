"""Every record there is. The one place that lists them; ids are append-only."""

from __future__ import annotations

from typing import Final

from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.loss import LOSS
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.process_exit import PROCESS_EXIT
from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye.events.process_signal import PROCESS_SIGNAL
from daemoneye.events.schema import Record

RECORDS: Final[tuple[Record, ...]] = (
    PROCESS_EXEC,
    PROCESS_FORK,
    PROCESS_EXIT,
    PROCESS_SIGNAL,
    CGROUP_IDENTITY,
    LOSS,
)

EVENTS: Final[dict[str, Record]] = {r.name: r for r in RECORDS if r.lane in {"urgent", "bulk", "rollup"}}
BY_NAME: Final[dict[str, Record]] = {r.name: r for r in RECORDS}
BY_ID: Final[dict[int, Record]] = {r.id: r for r in RECORDS}
BY_HASH: Final[dict[str, Record]] = {r.hash: r for r in RECORDS}

if len(BY_ID) != len(RECORDS) or len(BY_NAME) != len(RECORDS):  # pragma: no cover - a mistake in a declaration
    raise ValueError("two records share an id or a name")
