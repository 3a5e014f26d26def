"""process_exit: the last thread of a process ended (raw tracepoint sched_process_exit, kernel/exit.c)."""

from __future__ import annotations

from daemoneye.events.base import BASE
from daemoneye.events.schema import Field, Record

PROCESS_EXIT = Record(
    id=3,
    name="process_exit",
    lane="urgent",
    tracepoint="sched_process_exit",
    ring="process",
    ocsf_class=1007,
    ocsf_activity=2,
    doc="A process ended. Status and signal are those that wait(2) gives its parent.",
    fields=(
        *BASE,
        Field(20, "exit_code", "u32", "Exit status 0–255, 0 when a signal ended it.", ocsf="exit_code"),
        Field(21, "exit_signal", "u32", "Signal that ended it, 0 for a normal exit."),
    ),
)
