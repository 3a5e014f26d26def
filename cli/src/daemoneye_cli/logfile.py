"""A log file that cannot fill the disk, and the reading of a process's log lines.

Responsible for keeping at most two files of :data:`MAX_BYTES` a process and for telling a warning from chatter; not for
where the lines come from.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from daemoneye.escape import escape

MAX_BYTES: Final = 5 * 1024 * 1024
MAX_LINE: Final = 64 * 1024

_LEVEL: Final = re.compile(
    r"^(?:\[?[\d:.,TZ+\- ]+\]?\s*)?[\[(]?(CRITICAL|FATAL|ERROR|ERR|WARNING|WARN|FTL)\b", re.IGNORECASE
)
_LEVELS: Final = {"critical": "error", "fatal": "error", "ftl": "error", "error": "error", "err": "error"}
_LEVELS_WARNING: Final = {"warning", "warn"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a process wrote; ``text`` is safe for a terminal."""

    source: str
    level: str
    text: str

    @classmethod
    def parse(cls, source: str, raw: bytes) -> LogLine:
        """Read a line, a JSON object with ``level`` and ``message`` or plain text; anything is a line of some kind."""
        text = raw.decode("utf-8", "backslashreplace").rstrip()
        if text.startswith("{"):
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict):
                message = next((str(content[key]) for key in ("message", "msg", "event") if content.get(key)), text)
                return cls(source, _level(str(content.get("level", ""))), escape(message))
        if text.startswith(f"daemoneye-{source}: "):  # how our processes say why they end: it comes with their status
            return cls(source, "fatal", escape(text.partition(": ")[2]))
        found = _LEVEL.match(text)
        level = _level(found[1]) if found else "info"
        return cls(source, level, escape(text))

    @property
    def matters(self) -> bool:
        """Whether a person should see it now."""
        return self.level in {"warning", "error"}


def _level(name: str) -> str:
    name = name.lower()
    return _LEVELS.get(name) or ("warning" if name in _LEVELS_WARNING else "info")


class LogFile:
    """Appends lines to a file; the one before is kept as ``<name>.1``. A full disk loses lines, never the process."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, line: bytes) -> None:
        """Append one line; the newline is added."""
        data = line.rstrip(b"\n") + b"\n"
        try:
            if self._file is None or self._size + len(data) > self._max_bytes:
                self._open()
            if self._file is not None:
                self._file.write(data)
                self._size += len(data)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> None:
        if self._file is not None:
            self.close()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        elif self.path.exists() and self.path.stat().st_size >= self._max_bytes:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        # Unbuffered: a log that is read after a crash must have the last line.
        self._file = self.path.open("ab", buffering=0)
        self.path.chmod(0o600)
        self._size = self._file.tell()
