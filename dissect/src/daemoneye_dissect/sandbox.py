# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel refuses the process once scapy is loaded, whoever its user is: files, sockets, programs, other processes.

Responsible for two fences, each of which holds without the other: landlock (no file, no TCP), where the kernel has it, and a seccomp filter that
answers EPERM to system calls that only an intruder would make. Neither takes a privilege, and neither can be taken back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_SECCOMP, _FILTER = 22, 2
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_EVERY_FILE_RIGHT: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_NEWEST: Final = (1 << 16) - 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _EQUALS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# By name: the numbers on x86_64 and on aarch64. A way around one of them by another architecture's numbers is refused as a whole.
_CALLS: Final = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "sendto": (44, 206), "sendmsg": (46, 211),
    "socketpair": (53, 199), "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "clone": (56, 220),
    "clone3": (435, 435), "ptrace": (101, 117), "process_vm_writev": (311, 271), "process_vm_readv": (310, 270), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "bpf": (321, 280), "perf_event_open": (298, 241), "mount": (165, 40), "umount2": (166, 39),
    "chroot": (161, 51), "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268), "init_module": (175, 105), "finit_module": (313, 273),
    "keyctl": (250, 219), "add_key": (248, 217), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat2": (316, 276), "chmod": (90, None),
    "fchmodat": (268, 53), "mknodat": (259, 33), "symlinkat": (266, 36), "linkat": (265, 37),
}  # fmt: skip
_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32: Final = 0x40000000


def close() -> tuple[str, ...]:
    """Close both fences; which of them stand.

    Called with no_new_privs set and every module loaded: no file is opened after this.
    """
    return tuple(name for name, stands in (("landlock", _landlock()), ("seccomp", _seccomp())) if stands)


def _landlock() -> bool:
    version = _LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return False
    files = _EVERY_FILE_RIGHT.get(version, _NEWEST)
    rules = struct.pack("=QQ", files, 3) if version >= 4 else struct.pack("=Q", files)
    made = _LIBC.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint(0))
    if made < 0:
        return False
    done = _LIBC.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(made), ctypes.c_uint(0)) == 0
    os.close(made)
    return done


def _seccomp() -> bool:
    found = _MACHINES.get(platform.machine())
    if found is None:
        return False
    architecture, place = found
    numbers = sorted({number for pair in _CALLS.values() if (number := pair[place]) is not None})
    n = len(numbers)
    code = [(_LOAD, 0, 0, 4), (_EQUALS, 0, n + 3, architecture), (_LOAD, 0, 0, 0), (_AT_LEAST, n + 1, 0, _X32)]
    code += [(_EQUALS, n - i, 0, number) for i, number in enumerate(numbers)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(raw))
    return _LIBC.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0) == 0
