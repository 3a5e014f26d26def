"""`python -m tests.run [WORDS]`: the pytest part of `make test`. With words it is one call of pytest that gets them, in one process.

Without any there are two calls, for the sake of time: first the tests that can share this machine, on all its cores, then those that must have it for
themselves, one after another. Both run whatever the first one says; the last line sums them up as pytest would.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

FOLDERS: Final = ("accuracy", "cluster", "images", "kernel")
"""Whose tests all have the machine for themselves: they load programs into the kernel, count what happens on the whole machine, or are a cluster."""
MIXED: Final = "integration"
"""Where some have: those with a marker of these. No other folder has any (tests/unit/test_workspace.py)."""
MARKERS: Final = ("kernel", "cluster", "alone")
TALLY: Final = "DAEMONEYE_TALLY"
"""Names the file into which tests/conftest.py writes what came of a call: {"counts": {outcome: number}, "bad": [lines]}."""
_MOST: Final = 5
"""Workers at once: each may have an API server of its own."""
_OUTCOMES: Final = ("failed", "passed", "skipped", "error")


def main(words: Sequence[str]) -> int:
    """Exit status: pytest's own with words, else 1 when any of the calls failed."""
    if words:
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *words])
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    signal.signal(signal.SIGINT, interrupt)  # pytest gets it, too, and ends as it does
    began, counts, bad, failed = time.monotonic(), Counter[str](), list[str](), False
    # One more than cores: half of what tests/integration does is to wait.
    for call in (_together(min(len(os.sched_getaffinity(0)) + 1, _MOST)), _alone()):
        if interrupted:
            break
        status, tally = _called(call)
        failed |= status != 0
        counts.update(tally["counts"])
        bad += tally["bad"]
    _section("both calls")
    print(*bad, sep="\n", end="\n" if bad else "")
    seconds = time.monotonic() - began
    told = ", ".join(f"{counts[one]} {one}" for one in _OUTCOMES if counts[one])
    _section(f"{told or 'no tests ran'} in {seconds:.2f}s ({dt.timedelta(seconds=int(seconds))})")
    return int(failed or interrupted)


def _together(workers: int) -> list[str]:
    """Words of the first call. The order of files stays: the long ones of tests/integration come before the many short ones of tests/unit."""
    spread = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    return [*spread, "-m", f"not ({' or '.join(MARKERS)})", *(f"--ignore=tests/{folder}" for folder in FOLDERS)]


def _alone() -> list[str]:
    """Words of the second."""
    return ["-m", " or ".join(MARKERS), *(f"tests/{folder}" for folder in sorted((*FOLDERS, MIXED)))]


def _called(words: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Exit status of one call of pytest, and what came of it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tally.json"
        command = [sys.executable, "-m", "pytest", *words]
        status = subprocess.Popen(command, env={**os.environ, TALLY: str(path)}).wait()
        if path.exists():
            return status, json.loads(path.read_text())
    return status or 1, {
        "counts": {"error": 1},
        "bad": [f"ERROR pytest {' '.join(words)}: ended with {status} before its end"],
    }


def _section(title: str) -> None:
    print(f" {title} ".center(80, "="), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
