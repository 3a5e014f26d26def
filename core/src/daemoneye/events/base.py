"""The columns with which every kernel event begins, so that one span of mixed events can be told apart and joined."""

from __future__ import annotations

from typing import Final

import numpy as np

from daemoneye.events.schema import Field, Record

BASE: Final[tuple[Field, ...]] = (
    Field(1, "time", "u64", "Moment of the event by the kernel's boot-time clock.", unit="ns", ocsf="time", delta=True),
    Field(2, "event", "u16", "Id of the record."),
    Field(3, "cpu", "u16", "Processor on which the program ran."),
    Field(4, "flags", "u32", "Bits of daemoneye.events.flags.Flag."),
    Field(
        5,
        "process_uid",
        "u64",
        "Process key folded into one number: splitmix64(start_time ^ splitmix64(pid)).",
        ocsf="process.uid",
        key_of=("pid", "start_time"),
    ),
    Field(6, "pid", "u32", "Process id in the host's namespace (thread group).", ocsf="process.pid", delta=True),
    Field(7, "tid", "u32", "Thread id in the host's namespace.", ocsf="process.tid", delta=True),
    Field(
        8,
        "start_time",
        "u64",
        "Start of the process by the boot-time clock; with pid and boot it is the process key.",
        unit="ns",
        ocsf="process.created_time",
        delta=True,
    ),
    Field(
        9,
        "parent_uid",
        "u64",
        "Key of the parent (real_parent), folded like process_uid.",
        ocsf="process.parent_process.uid",
        key_of=("ppid", "parent_start_time"),
    ),
    Field(
        10,
        "parent_start_time",
        "u64",
        "Start of the parent by the boot-time clock.",
        unit="ns",
        ocsf="process.parent_process.created_time",
        delta=True,
    ),
    Field(
        11,
        "ppid",
        "u32",
        "Process id of the parent in the host's namespace.",
        ocsf="process.parent_process.pid",
        delta=True,
    ),
    Field(12, "uid", "u32", "Real user id in the initial user namespace.", ocsf="process.user.uid"),
    Field(13, "cgroup_id", "u64", "Id (inode) of the process's cgroup in the v2 hierarchy.", ocsf=""),
    Field(
        14,
        "cgroup_v1_id",
        "u64",
        "Id of its cgroup in the v1 hierarchy of the memory controller, 0 where that is on v2.",
    ),
)
"""Fields 1–14, 80 bytes. Records that begin with them declare their own fields from id 20 on."""


def splitmix64(value: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), u64 → u64, any shape."""
    x = value + np.uint64(0x9E3779B97F4A7C15)
    # In place as far as it goes: whole columns are hashed, and a new array a step costs as much as the step.
    y = x >> np.uint64(30)
    y ^= x
    y *= np.uint64(0xBF58476D1CE4E5B9)
    x = y >> np.uint64(27)
    x ^= y
    x *= np.uint64(0x94D049BB133111EB)
    y = x >> np.uint64(31)
    y ^= x
    return y


def process_uid(pid: np.ndarray, start_time: np.ndarray) -> np.ndarray:
    """Process keys, u64, shape (n,): what `de_process_uid` computes in the kernel. A pid of 0 (no process) gives 0."""
    pid64 = np.asarray(pid).astype(np.uint64)
    uid = splitmix64(np.asarray(start_time).astype(np.uint64) ^ splitmix64(pid64))
    return np.where(pid64 == 0, np.uint64(0), uid)


def derive(record: Record, rows: np.ndarray) -> None:
    """Fill the columns of process keys that do not travel, in place."""
    for field in record.fields:
        if field.key_of:
            pid, start = field.key_of
            rows[field.name] = process_uid(rows[pid], rows[start])
