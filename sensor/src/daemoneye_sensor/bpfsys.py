"""The few bpf(2) calls that the long-running sensor needs: no libbpf, no BCC in its memory.

Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Final

from daemoneye.errors import MachineError

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY, _OBJ_GET = 3, 4, 7
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        msg = f"the bpf system call's number on {platform.machine()} is not known to this release"
        raise MachineError(msg, fix="use x86_64 or aarch64")
    buffer = ctypes.create_string_buffer(attr, 128)
    result = int(_LIBC.syscall(number, command, buffer, len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def obj_get(path: Path) -> int:
    """A descriptor of the object pinned at a path.

    Raises:
        OSError: Nothing is pinned there, or the privilege is missing.
    """
    name = ctypes.create_string_buffer(str(path).encode())
    return _bpf(_OBJ_GET, struct.pack("<QII", ctypes.addressof(name), 0, 0))


def clear_u64_map(fd: int) -> None:
    """Delete every key of a map with u64 keys."""
    key = ctypes.create_string_buffer(8)
    while True:
        try:
            _bpf(_MAP_GET_NEXT_KEY, struct.pack("<IIQQQ", fd, 0, 0, ctypes.addressof(key), 0))
            _bpf(_MAP_DELETE_ELEM, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(key), 0, 0))
        except FileNotFoundError:
            return


def fdinfo(fd: int) -> dict[str, str]:
    """What the kernel says of a bpf descriptor (/proc/self/fdinfo)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
