"""Programs of the test cluster as processes that outlive us: started detached, remembered by pid and start time, ended by them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_END_S: Final = 15.0
_POLL_S: Final = 0.05


class Processes:
    """The processes of one cluster, in `<directory>/processes.json`; logs are `<directory>/logs/<name>.log`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "processes.json"
        self.logs = directory / "logs"

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start one that goes on without us."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        # Ours, but never waited for: without this, Popen warns when it is forgotten.
        process.returncode = 0
        known = self._known()
        known[name] = [process.pid, _start_time(process.pid)]
        self._file.write_text(json.dumps(known))

    def running(self, name: str) -> bool:
        """Whether it still runs."""
        pid, started = self._known().get(name, (0, 0))
        return bool(pid) and _start_time(pid) == started != 0

    def end(self, name: str, *, number: int = signal.SIGTERM) -> None:
        """End it and wait; after some seconds by SIGKILL. Nothing happens if it does not run."""
        pid, started = self._known().get(name, (0, 0))
        deadline = time.monotonic() + _END_S
        while pid and _start_time(pid) == started != 0:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            _reap(pid)
            time.sleep(_POLL_S)
        _reap(pid)

    def names(self) -> list[str]:
        """All that were started, in order."""
        return list(self._known())

    def tail(self, name: str, lines: int = 15) -> str:
        """End of its log."""
        path = self.logs / f"{name}.log"
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:]) if path.exists() else ""

    def _known(self) -> dict[str, list[int]]:
        with suppress(FileNotFoundError, ValueError):
            return dict(json.loads(self._file.read_text()))
        return {}


def _reap(pid: int) -> None:
    with suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)


def _start_time(pid: int) -> int:
    """Start in clock ticks after boot (proc(5), field 22); 0 where there is no such process, or a dead one."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] == "Z" else int(fields[19])
    return 0
