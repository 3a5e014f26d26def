"""Whether capture filters compile, in libpcap's own words.

Responsible for asking libpcap; not for capturing. It is asked in a child process, which is this file run as a script: libpcap is C that reads
a user's text, and it resolves host names, which may take as long as it likes. So this module imports the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 5.0
_LIBRARIES: Final = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
_DLT_EN10MB: Final = 1
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def check(filters: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """What is wrong with each of (expression, snapshot length in bytes); the good ones are left out. Takes up to TIMEOUT_S a filter.

    A machine without libpcap judges none, as nothing could be captured there either.
    """
    problems = {}
    for expression, snaplen in set(filters):
        if problem := _ask(expression, snaplen):
            problems[expression, snaplen] = problem
    return problems


def _ask(expression: str, snaplen: int) -> str:
    if not expression.strip():
        return ""
    if "\0" in expression:  # libpcap would read up to it
        return "it holds a zero byte"
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__))],
            input=json.dumps([expression, snaplen]),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"libpcap did not compile it within {TIMEOUT_S:g} s; does it name a host that does not resolve? Write its address"
    except OSError:
        return ""
    try:
        return str(json.loads(done.stdout))
    except ValueError:
        return f"libpcap did not survive compiling it (status {done.returncode})"


def _compile(expression: str, snaplen: int) -> str:
    """Words of libpcap's complaint; empty when it has none, or is not here."""
    library: Any = None
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return ""
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = [ctypes.c_void_p]
    library.pcap_compile.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
    ]
    handle = library.pcap_open_dead(_DLT_EN10MB, snaplen)
    program = _Program()
    if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, _NETMASK_UNKNOWN) < 0:
        return str(library.pcap_geterr(handle).decode("utf-8", "backslashreplace"))
    return ""  # the process ends: nothing is to be freed


if __name__ == "__main__":
    json.dump(_compile(*json.load(sys.stdin)), sys.stdout)
