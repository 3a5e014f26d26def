"""What one machine holds of an installation, for a report: its configuration, logs, spool, and the kernel's facts.

Responsible for what is read from the state directory and of the machine; not for the broker (:mod:`daemoneye_cli.brokerbundle`). The broker's
password file is never read. Nothing is changed, and nothing needs to run.
"""

from __future__ import annotations

import json
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from daemoneye_cli.bundle import LOG_LINES, MAX_LOG, Bundle
from daemoneye_cli.check import Check
from daemoneye_cli.checks import Wanted, examine
from daemoneye_cli.machine import Machine
from daemoneye_cli.redact import is_secret_name
from daemoneye_cli.show.checks import plain_line
from daemoneye_cli.state import State

_FACTS: Final = (
    "/proc/sys/kernel/osrelease", "/proc/sys/kernel/version", "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/kernel/perf_event_paranoid",
    "/proc/sys/kernel/kptr_restrict", "/proc/sys/net/core/bpf_jit_enable", "/sys/kernel/security/lockdown", "/sys/kernel/security/lsm",
    "/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/self/cgroup",
)  # fmt: skip
_CONFIGURATION_BYTES: Final = 4 << 20
_FILES: Final = 20_000


def gather_machine(machine: Machine, wanted: Wanted, bundle: Bundle) -> None:
    """Put what doctor says, and what the kernel is like, into ``bundle``."""
    with bundle.part("doctor.txt"):
        checks: list[Check] = list(examine(machine, wanted))
        bundle.text("doctor.txt", "".join(f"{plain_line(check)}\n" for check in checks))
    with bundle.part("machine.json"):
        bundle.document("machine.json", {name: machine.text(name).strip() or None for name in _FACTS})
    with bundle.part("pins.jsonl"):
        bundle.lines("pins.jsonl", _tree(machine.path("/sys/fs/bpf/daemoneye")))


def learn_passwords(state: State, bundle: Bundle) -> None:
    """Let the installation's own passwords be taken out wherever they stand, before anything else is read."""
    for path in _configurations(state):
        with bundle.part(f"passwords of {path}, which rules alone take out now"):
            bundle.redactor.learn(_secrets(json.loads(_beginning(path))))


def gather_state(state: State, bundle: Bundle) -> None:
    """Put the state directory's configuration, logs and list of files into ``bundle``."""
    if not state.path.is_dir():
        bundle.lack("state", f"{state.path} is not there: nothing has run with it")
        return
    for path in _configurations(state):
        entry = f"configuration/{path.name}"
        with bundle.part(entry):
            bundle.document(entry, json.loads(_beginning(path)))
    with bundle.part("files.jsonl"):
        bundle.lines("files.jsonl", _tree(state.path))
    with bundle.part("logs"):
        for path in sorted({*state.logs.glob("*.log*"), *state.broker.glob("broker.log*")}):
            with bundle.part(f"logs/{path.name}"):
                bundle.text(f"logs/{path.name}", _tail(path), limit=MAX_LOG, newest=True)


def _configurations(state: State) -> list[Path]:
    return [path for path in (*sorted(state.run.glob("*.json")), state.broker / "broker.json") if path.is_file()]


def _secrets(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, content in value.items():
            yield from _secrets(content, key)
    elif isinstance(value, list):
        for content in value:
            yield from _secrets(content, name)
    elif isinstance(value, str) and is_secret_name(name):
        yield value


def _tree(top: Path) -> Iterator[dict[str, Any]]:
    """Every file below, with size and time: what the spool and the streams take, and how old they are."""
    count = 0
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            count += 1
            if count > _FILES:
                yield {"left_out": f"what comes after {_FILES} files"}
                return
            try:
                told = path.lstat()
            except OSError as error:
                yield {"path": str(path), "error": error.strerror}
                continue
            yield {
                "path": str(path),
                "mode": stat.filemode(told.st_mode),
                "bytes": told.st_size,
                "time": round(told.st_mtime, 3),
            }


def _beginning(path: Path) -> str:
    with path.open(encoding="utf-8", errors="backslashreplace") as file:
        return file.read(_CONFIGURATION_BYTES)


def _tail(path: Path) -> str:
    """The newest lines of a log, from its end: it may be large."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * MAX_LOG))
        if file.tell():
            file.readline()
        return b"".join(deque(file, maxlen=LOG_LINES)).decode("utf-8", "backslashreplace")
