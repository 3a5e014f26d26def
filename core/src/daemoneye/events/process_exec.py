"""process_exec: a program was executed (raw tracepoint sched_process_exec, kernel fs/exec.c)."""

from __future__ import annotations

from daemoneye.events.base import BASE
from daemoneye.events.schema import Field, Record

PROCESS_EXEC = Record(
    id=1,
    name="process_exec",
    lane="urgent",
    tracepoint="sched_process_exec",
    ring="exec",
    ocsf_class=1007,
    ocsf_activity=1,
    doc=(
        "A process replaced its image. The row is written when the new image is in place, so a failed execve leaves none. "
        "Identity and credentials are those of the new image."
    ),
    inline_heap=288,
    fields=(
        *BASE,
        Field(20, "exe_inode", "u64", "Inode number of the executable.", ocsf="process.file.uid"),
        Field(21, "cap_effective", "u64", "Effective capabilities, one bit each (linux/capability.h)."),
        Field(22, "cap_permitted", "u64", "Permitted capabilities."),
        Field(23, "mnt_ns", "u32", "Inode of the mount namespace."),
        Field(24, "pid_ns", "u32", "Inode of the pid namespace."),
        Field(25, "net_ns", "u32", "Inode of the network namespace."),
        Field(26, "user_ns", "u32", "Inode of the user namespace of the credentials."),
        Field(27, "uts_ns", "u32", "Inode of the UTS namespace."),
        Field(28, "ipc_ns", "u32", "Inode of the IPC namespace."),
        Field(29, "cgroup_ns", "u32", "Inode of the cgroup namespace."),
        Field(
            30,
            "tty",
            "u32",
            "Controlling terminal as in /proc/PID/stat (major << 8 | minor), 0 without one.",
            ocsf="process.tty",
        ),
        Field(31, "gid", "u32", "Real group id.", ocsf="process.group.uid"),
        Field(32, "euid", "u32", "Effective user id.", ocsf="process.euid"),
        Field(33, "egid", "u32", "Effective group id.", ocsf="process.egid"),
        Field(34, "loginuid", "u32", "Audit login uid, 4294967295 when unset.", ocsf="process.auid"),
        Field(35, "sessionid", "u32", "Audit session id, 4294967295 when unset.", ocsf="process.session.uid"),
        Field(36, "ns_pid", "u32", "Process id in the process's own pid namespace.", delta=True),
        Field(37, "ns_tid", "u32", "Thread id in the process's own pid namespace.", delta=True),
        Field(38, "exe_dev", "u32", "Device of the executable's file system (major << 20 | minor)."),
        Field(39, "exe_nlink", "u32", "Link count of the executable: 0 when it has no name left."),
        Field(40, "exe_mode", "u32", "File mode of the executable (type and permission bits)."),
        Field(41, "exe_magic", "u32", "Magic number of its file system (linux/magic.h)."),
        Field(42, "exe_uid", "u32", "Owner of the executable.", ocsf="process.file.owner.uid"),
        Field(51, "exe_gid", "u32", "Group of the executable."),
        Field(43, "argc", "u32", "Number of arguments that were given."),
        Field(
            44, "argv_length", "u32", "True length of argv with its terminators, also when it was cut.", unit="bytes"
        ),
        Field(
            45,
            "exe",
            "heap16",
            "Path of the executable in the process's root.",
            text="string",
            ocsf="process.file.path",
        ),
        Field(46, "filename", "heap16", "Path as given to execve: the script's for a script.", text="string"),
        Field(47, "interpreter", "heap16", "Interpreter that a script names, empty otherwise.", text="string"),
        Field(48, "cwd", "heap16", "Working directory.", text="string", ocsf="process.working_directory"),
        Field(
            49,
            "argv",
            "heap32",
            "Arguments, each ended by NUL, at most 16,384 bytes.",
            text="argv",
            ocsf="process.cmd_line",
        ),
        Field(50, "comm", "char16", "Kernel's name of the thread, 15 characters at most.", ocsf="process.name"),
    ),
)
