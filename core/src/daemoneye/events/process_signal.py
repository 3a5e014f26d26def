"""process_signal: a process signalled another, or a fault did (raw tracepoint signal_generate, kernel/signal.c)."""

from __future__ import annotations

from daemoneye.events.base import BASE
from daemoneye.events.schema import Field, Record

PROCESS_SIGNAL = Record(
    id=4,
    name="process_signal",
    lane="urgent",
    tracepoint="signal_generate",
    ring="process",
    ocsf_class=1007,
    ocsf_activity=5,
    doc=(
        "The row's process sent a signal to the target; for faults (SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGSYS, SIGABRT) both are the same. "
        "SIGCHLD, SIGWINCH, SIGURG, SIGCONT, timers' signals and what a process sends itself otherwise are left out in the kernel."
    ),
    fields=(
        *BASE,
        Field(
            20,
            "target_uid",
            "u64",
            "Key of the process that is signalled, folded like process_uid.",
            key_of=("target_pid", "target_start_time"),
        ),
        Field(21, "target_start_time", "u64", "Start of the target by the boot-time clock.", unit="ns"),
        Field(22, "target_pid", "u32", "Process id of the target.", ocsf="process.pid"),
        Field(23, "signal", "u32", "Signal number."),
        Field(24, "code", "i32", "si_code: who made it (SI_USER 0, SI_KERNEL 128, SI_TKILL -6 …)."),
        Field(
            25,
            "result",
            "i32",
            "0 delivered, 1 ignored, 2 already pending, 3 and 4 overflow (linux trace/events/signal.h).",
        ),
    ),
)
