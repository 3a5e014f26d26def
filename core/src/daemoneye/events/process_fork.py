"""process_fork: a process (not a thread) was created (raw tracepoint sched_process_fork, kernel/fork.c)."""

from __future__ import annotations

from daemoneye.events.base import BASE
from daemoneye.events.schema import Field, Record

PROCESS_FORK = Record(
    id=2,
    name="process_fork",
    lane="urgent",
    tracepoint="sched_process_fork",
    ring="process",
    ocsf_class=1007,
    ocsf_activity=1,
    doc="A new process exists; the row describes the child, the parent columns the process that created it.",
    fields=(
        *BASE,
        Field(20, "ns_pid", "u32", "Process id of the child in its own pid namespace.", delta=True),
        Field(21, "parent_tid", "u32", "Thread of the parent that called fork, vfork or clone.", delta=True),
    ),
)
