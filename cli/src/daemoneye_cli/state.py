"""The state directory of one machine's installation.

Responsible for where it is, for its parts, for private files in it and for keeping two runs from sharing it; not for
what is in the broker's store or the sensor's spool.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError

SYSTEM_STATE: Final = Path("/var/lib/daemoneye")


def default_state_directory(environ: Mapping[str, str] = os.environ, *, uid: int | None = None) -> Path:
    """Where state lives without ``--state``: ``$DAEMONEYE_STATE``, root's place, or the user's."""
    if chosen := environ.get("DAEMONEYE_STATE"):
        return Path(chosen)
    if (os.geteuid() if uid is None else uid) == 0:
        return SYSTEM_STATE
    home = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "daemoneye"


@dataclass(frozen=True, slots=True)
class State:
    """A state directory and its parts."""

    path: Path

    @classmethod
    def at(cls, chosen: Path | None) -> State:
        """Take the directory of ``--state``, or the default."""
        return cls((chosen or default_state_directory()).absolute())

    @property
    def run(self) -> Path:
        """Configuration of the running processes, with their passwords."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """What the processes write to their stderr."""
        return self.path / "log"

    @property
    def broker(self) -> Path:
        """The broker's configuration and store."""
        return self.path / "broker"

    @property
    def instance(self) -> str:
        """Name that tells this installation's pinned eBPF objects from another's on the same machine."""
        return f"run-{sha256(os.fsencode(self.path)).hexdigest()[:10]}"

    def prepare(self) -> None:
        """Make the directories, for this user alone; :class:`MachineError` if that cannot be."""
        for directory in (self.path, self.run, self.logs, self.broker):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise _unusable(directory, error) from None
        try:
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise _unusable(self.path, error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one run; :class:`DaemonEyeError` if another run has it."""
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise DaemonEyeError(
                    f"process {holder} runs daemoneye with {self.path} already: "
                    "stop it, or give this run a directory of its own with --state"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def write_private(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write a JSON file of ``run/`` that only this user reads, whole or not at all."""
        path = self.run / name
        descriptor, temporary = tempfile.mkstemp(dir=self.run, prefix=f".{name}.")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file, indent=1)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path

    def read_private(self, name: str) -> dict[str, Any]:
        """Read what :meth:`write_private` wrote; :class:`MachineError` if there is no run to speak to."""
        path = self.run / name
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise MachineError(
                f"no daemoneye runs with {self.path}", fix="start one with: daemoneye run (or name its --state)"
            ) from None
        except PermissionError:
            raise MachineError(
                f"{path} belongs to another user", fix="run this command as that user, or with sudo"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{path}: broken JSON: {error}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: no JSON object")
        return content


def _unusable(directory: Path, error: OSError) -> MachineError:
    return MachineError(
        f"the state directory {directory} is not usable: {error.strerror}",
        fix="run as root, or choose a writable directory with --state",
    )
