"""The few bpf(2) calls that the long-running sensor needs: no libbpf, no BCC in its memory.

Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye.errors import MachineError

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY, _OBJ_GET = 1, 2, 3, 4, 7
_MAP_LOOKUP_BATCH, _MAP_LOOKUP_AND_DELETE_BATCH = 24, 25
_LINK_CREATE, _LINK_UPDATE = 28, 29
_BATCH: Final = struct.Struct("<QQQQIIQQ")
_AT_ONCE: Final = 4096
_NOT_SUPPORTED: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, 524})
"""524 is the kernel's own ENOTSUPP."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        msg = f"the bpf system call's number on {platform.machine()} is not known to this release"
        raise MachineError(msg, fix="use x86_64 or aarch64")
    buffer = ctypes.create_string_buffer(attr, 128) if isinstance(attr, bytes) else attr
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


def lookup_batch(fd: int, value: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Everything that a hash map with u64 keys holds: keys (n,) and values (n,). What comes and goes meanwhile may be in it or not."""
    return _batches(_MAP_LOOKUP_BATCH, fd, np.dtype(np.uint64), value)


def drain(fd: int, key: np.dtype[Any], value: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Take everything out of a hash map: keys (n,) and values (n,); one by one before 5.6."""
    try:
        return _batches(_MAP_LOOKUP_AND_DELETE_BATCH, fd, key, value)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    keys, values = [], []
    following = ctypes.create_string_buffer(key.itemsize)
    while True:
        try:
            _bpf(_MAP_GET_NEXT_KEY, struct.pack("<IIQQQ", fd, 0, 0, ctypes.addressof(following), 0))
        except FileNotFoundError:
            break
        if (found := lookup(fd, following.raw, value.itemsize)) is not None:
            keys.append(following.raw)
            values.append(found)
        delete(fd, following.raw)
    return np.frombuffer(b"".join(keys), key), np.frombuffer(b"".join(values), value)


def _batches(command: int, fd: int, key: np.dtype[Any], value: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    cursor = np.zeros(1, np.uint64)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    more = True
    while more:
        keys, values = np.empty(_AT_ONCE, key), np.empty(_AT_ONCE, value)
        begin = cursor.ctypes.data if parts else 0
        attr = ctypes.create_string_buffer(
            _BATCH.pack(begin, cursor.ctypes.data, keys.ctypes.data, values.ctypes.data, _AT_ONCE, fd, 0, 0), 128
        )
        try:
            _bpf(command, attr)
        except FileNotFoundError:  # the end
            more = False
        count = _BATCH.unpack_from(attr)[4]
        parts.append((keys[:count], values[:count]))
    return np.concatenate([keys for keys, _ in parts]), np.concatenate([values for _, values in parts])


def lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """A value of `size` bytes (of a per-CPU map: those of all processors); None without one."""
    name, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        _bpf(_MAP_LOOKUP_ELEM, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set a value.

    Raises:
        OSError: No room (E2BIG).
    """
    name, new = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE_ELEM, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(new), 0))


def delete(fd: int, key: bytes) -> bool:
    """Remove a key; whether it was there."""
    name = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE_ELEM, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(name), 0, 0))
    except FileNotFoundError:
        return False
    return True


def link_create(program: int, target: int, attach_type: int, flags: int) -> int:
    """Attach a program by a link, whose descriptor is given: when the last one is closed, the program is off again.

    Raises:
        OSError: The kernel refuses.
    """
    return _bpf(_LINK_CREATE, struct.pack("<IIII", program, target, attach_type, flags))


def link_update(link: int, program: int) -> None:
    """Have another program take the place of the link's own.

    Raises:
        OSError: The kernel refuses, or what it was attached to is gone.
    """
    _bpf(_LINK_UPDATE, struct.pack("<IIII", link, program, 0, 0))


def processors() -> int:
    """How many processors a value of a per-CPU map is for: those that may ever be there."""
    ranges = [part.split("-") for part in Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


def fdinfo(fd: int) -> dict[str, str]:
    """What the kernel says of a bpf descriptor (/proc/self/fdinfo)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
