"""The compile children (`loader/`): started with the distribution's Python, whose BCC compiles; asked in JSON, and what goes wrong is one error.

Responsible for how one asks and what an answer says is wrong; what is asked for is their callers' affair.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from daemoneye_sensor.errors import BAD_PROGRAM, MISSING_FEATURE, ProgramError

TIMEOUT_S: Final = 120
_LOADERS: Final = Path(__file__).parent / "loader"
_TELLING: Final = re.compile(r"error:|invalid|cannot|not allowed|unknown func|too large|too many|R\d.*(min|max) value")
"""Lines of clang and of the verifier that say why."""
_LACKING: Final = re.compile(
    r"could not open bpf map|unknown func|invalid func|cannot use helper|Operation not permitted|permission|cannot be attached"
)
"""What BCC, the verifier and our child say when the kernel lacks a kind of map, a helper or a tracepoint, or forbids them."""


def ask(
    what: str, loader: str, python: str, request: Mapping[str, Any], fd: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Have a file of `loader/` compile `what` (as people call it); it is given a descriptor, if there is one, and its number.

    Raises:
        ProgramError: There is no such Python, or it takes too long.
    """
    numbers = [] if fd is None else [fd]
    try:
        return subprocess.run(
            [python, "-I", str(_LOADERS / loader), *map(str, numbers)],
            input=json.dumps(request), capture_output=True, text=True, check=False, timeout=TIMEOUT_S, pass_fds=numbers,
        )  # fmt: skip
    except FileNotFoundError as error:
        msg = f"{python} is missing: BCC belongs to the distribution's Python"
        raise ProgramError(msg, fix="apt-get install python3 python3-bpfcc") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(
            f"compiling {what} took longer than {TIMEOUT_S} s", fix="look at the machine's load"
        ) from error


def answer(what: str, done: subprocess.CompletedProcess[str], said: str | bytes) -> dict[str, Any]:
    """What it said, if that is good.

    Raises:
        ProgramError: It is not, or nothing was said: the kernel, a privilege, BCC or headers are missing, or the kernel refuses the program.
    """
    try:
        answered: dict[str, Any] = json.loads(said)
    except ValueError:
        answered = {"error": f"the compile child ended with status {done.returncode}"}
    if answered.get("ok"):
        return answered
    error = str(answered.get("error"))
    lacking = _LACKING.search(f"{done.stderr}\n{error}")
    reason = str(answered.get("reason") or (MISSING_FEATURE if lacking else BAD_PROGRAM))
    fix = str(answered.get("fix") or "run `daemoneye doctor`")
    raise ProgramError(f"{what} cannot be loaded: {error}{detail(done)}", fix=fix, reason=reason)


def detail(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of clang or the verifier that says why, in brackets; empty if there is none."""
    line = next((line.strip() for line in reversed(done.stderr.splitlines()) if _TELLING.search(line)), "")
    return f" ({line})" if line else ""
