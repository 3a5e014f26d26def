"""`python -m tests.run [WORDS]`: the pytest part of `make test`. With words it is one call of pytest that gets them, in one process.

Without any there are three calls, for the sake of time: first the tests that can share this machine, on all its cores; then those of the kernel side, two
at a time, for each has rings, pins and network namespaces of its own; then those that must have the machine for themselves, one after another. All run
whatever the ones before say; the last line sums them up as pytest would.
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

KERNEL: Final = "kernel"
"""Whose tests share the machine with one another alone: what else loads programs and captures may count what happens on the whole machine."""
CROWDED: Final = ("test_loss_and_restart.py", "test_socket_table.py", "test_upgrade.py")
"""Of these, those that fill rings and tables for which the whole machine's processes and sockets count: they share it with nobody."""
FOLDERS: Final = ("accuracy", "cluster", "images", KERNEL)
"""Whose tests all stay out of the first call: they load programs into the kernel, count what happens on the whole machine, or are a cluster."""
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
    cores = len(os.sched_getaffinity(0))
    # One more than cores: half of what tests/integration does is to wait.
    for call in (_together(min(cores + 1, _MOST)), _kernel(min(cores, 2)), _alone()):
        if interrupted:
            break
        status, tally = _called(call)
        failed |= status != 0
        counts.update(tally["counts"])
        bad += tally["bad"]
    _section("all calls")
    print(*bad, sep="\n", end="\n" if bad else "")
    seconds = time.monotonic() - began
    told = ", ".join(f"{counts[one]} {one}" for one in _OUTCOMES if counts[one])
    _section(f"{told or 'no tests ran'} in {seconds:.2f}s ({dt.timedelta(seconds=int(seconds))})")
    return int(failed or interrupted)


def _together(workers: int) -> list[str]:
    """Words of the first call. The order of files stays: the long ones of tests/integration come before the many short ones of tests/unit."""
    return [
        *_spread(workers),
        "-m",
        f"not ({' or '.join(MARKERS)})",
        *(f"--ignore=tests/{folder}" for folder in FOLDERS),
    ]


def _kernel(workers: int) -> list[str]:
    """Words of the second."""
    return [*_spread(workers), f"tests/{KERNEL}", *(f"--ignore=tests/{KERNEL}/{name}" for name in CROWDED)]


def _alone() -> list[str]:
    """Words of the third."""
    folders = sorted({*FOLDERS, MIXED} - {KERNEL})
    crowded = [f"tests/{KERNEL}/{name}" for name in CROWDED]
    return ["-m", " or ".join(MARKERS), *(f"tests/{folder}" for folder in folders), *crowded]


def _spread(workers: int) -> list[str]:
    return ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]


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
