"""Whether capture filters compile, in libpcap's own words, and what it makes of them.

Responsible for asking libpcap; not for capturing, nor for what the instructions mean (:mod:`daemoneye_sensor.packets.cbpf`). It is asked in a child
process, which is this file run as a script: libpcap is C that reads a user's text, and it resolves host names, which may take as long as it likes.
So this module imports the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 5.0
ETHERNET: Final = 1
"""Link type of Ethernet frames (DLT_EN10MB)."""
RAW: Final = 12
"""Link type of IP packets without anything before them (DLT_RAW)."""
MOST: Final = 4096
"""Instructions of a filter (BPF_MAXINSNS)."""
_ADMIT_ALL: Final = ((6, 0, 0, 0xFFFFFFFF),)
_JUMP: Final = 5
_BACK: Final = 1 << 31
_LIBRARIES: Final = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF


Answer = tuple[str, tuple[tuple[int, int, int, int], ...]]
"""What is wrong with a filter, and its instructions."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


def check(filters: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """What is wrong with each of (expression, snapshot length in bytes); the good ones are left out. Takes up to TIMEOUT_S a filter.

    A machine without libpcap judges none, as nothing could be captured there either.
    """
    asked = sorted(set(filters))
    answers = _ask([(*one, ETHERNET) for one in asked])
    return {one: problem for one, (problem, _) in zip(asked, answers, strict=True) if problem}


def compiled(filters: Sequence[tuple[str, int, int]]) -> list[Answer]:
    """What is wrong with each filter, empty when nothing is, and its instructions (code, jt, jf, k).

    Args:
        filters: Expression of pcap-filter(7), which may be empty and then admits everything; snapshot length in bytes; `ETHERNET` or `RAW`.
    """
    missing = "libpcap is not installed here (apt-get install libpcap0.8)"
    return [(problem or ("" if made else missing), made) for problem, made in _ask(filters)]


def _ask(filters: Sequence[tuple[str, int, int]]) -> list[Answer]:
    """Answers for all; a filter that keeps the child from answering for the others is found by asking for each."""
    answers = [_known(expression) for expression, _, _ in filters]
    open_ = [place for place, answer in enumerate(answers) if answer is None]
    together = _run([filters[place] for place in open_]) if len(open_) > 1 else None
    for at, place in enumerate(open_):
        if isinstance(together, list):
            answers[place] = together[at]
        else:
            alone = _run([filters[place]])
            answers[place] = alone[0] if isinstance(alone, list) else (alone, ())
    return [answer or ("", ()) for answer in answers]


def _known(expression: str) -> Answer | None:
    if not expression.strip():
        return "", _ADMIT_ALL
    return ("it holds a zero byte", ()) if "\0" in expression else None  # libpcap would read up to it


def _run(filters: list[tuple[str, int, int]]) -> list[Answer] | str:
    """The child's answers, or why there are none."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__))],
            input=json.dumps(filters),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"libpcap did not compile it within {TIMEOUT_S:g} s; does it name a host that does not resolve? Write its address"
    except OSError:
        return [("", ())] * len(filters)
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        return f"libpcap did not survive compiling it (status {done.returncode})"
    return [(problem, tuple(tuple(one) for one in made)) for problem, made in answers]


def _compile(expression: str, snaplen: int, link: int) -> tuple[str, list[tuple[int, int, int, int]]]:
    """Words of libpcap's complaint, empty when it has none or is not here, and the instructions."""
    library: Any = None
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return "", []
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
    handle = library.pcap_open_dead(link, snaplen)
    program = _Program()
    if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, _NETMASK_UNKNOWN) < 0:
        return str(library.pcap_geterr(handle).decode("utf-8", "backslashreplace")), []
    if program.length > MOST:
        return f"it is too long: {program.length} instructions, and a filter may have {MOST}", []
    made = [program.instructions[i] for i in range(program.length)]
    if any(one.code == _JUMP and one.k >= _BACK for one in made):
        return "it loops (protochain), which a filter of the kernel may not", []
    return "", [(one.code, one.jt, one.jf, one.k) for one in made]  # the process ends: nothing is to be freed


if __name__ == "__main__":
    json.dump([_compile(*one) for one in json.load(sys.stdin)], sys.stdout)
