"""The archive of ``bugtool``: one .tar.gz for a report, bounded, without secrets, with a manifest of what is and is not in it.

Responsible for the file, its limits, and that everything passes :mod:`daemoneye_cli.redact` on its way in; not for what is gathered.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError
from daemoneye_cli.redact import Redactor

MAX_TOTAL: Final = 64 << 20
"""Bytes of all entries before they are packed."""
MAX_ENTRY: Final = 8 << 20
MAX_LOG: Final = 2 << 20
LOG_LINES: Final = 2_000

_MANIFEST: Final = 1 << 20
"""Room that is kept for the manifest."""
_MISSING: Final = 1_000
_WHY: Final = 2_000
_UNSAFE: Final = re.compile(r"[^\w./-]+|\.\.+|^/+", re.ASCII)


def default_name(now: dt.datetime) -> str:
    """Give the archive's name for a moment in UTC."""
    return f"daemoneye-bugtool-{now:%Y%m%dT%H%M%SZ}.tar.gz"


class Bundle:
    """One archive that is being written. A failure while it is leaves no file."""

    def __init__(self, path: Path, redactor: Redactor, *, max_total: int = MAX_TOTAL) -> None:
        self.path = path
        self.redactor = redactor
        self.entries: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self.size = 0
        self._max = max_total - _MANIFEST
        self._folder = path.name.removesuffix(".tar.gz")
        self._now = dt.datetime.now(dt.UTC)

    def __enter__(self) -> Self:
        """Make the file, for this user alone; :class:`ConfigError` if that cannot be."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(f"{self.path} exists already: name another with --output") from None
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from None
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w:gz", format=tarfile.PAX_FORMAT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Close the file; away with it if it is not whole: then :class:`MachineError`."""
        trouble = error.reason if isinstance(error, BrokenFile) else None
        try:
            with contextlib.closing(self._file):
                if error is None:
                    self._tar.close()
        except OSError as failure:
            trouble = trouble or failure
        if error is not None or trouble is not None:
            self.path.unlink(missing_ok=True)
        if trouble is not None:
            message = f"{self.path} cannot be written: {trouble.strerror}"
            raise MachineError(message, fix="make room, or choose another place with --output") from None

    @property
    def full(self) -> bool:
        """Whether nothing more goes in."""
        return self.size >= self._max

    @contextlib.contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Note what keeps a part from being had; the others go on."""
        try:
            yield
        except BrokenFile:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours is worth a report, too: the rest of it must not be lost
            self.lack(what, error)

    def lack(self, what: str, why: Exception | str) -> None:
        """Note that something could not be had."""
        words = why if isinstance(why, str) else str(why) or type(why).__name__
        if not isinstance(why, str | DaemonEyeError | OSError):
            words = f"{type(why).__name__}: {words}"
        if len(self.missing) < _MISSING:
            self.missing.append({"what": self.redactor.text(what), "why": self.redactor.text(words)[:_WHY]})

    def document(self, name: str, value: Any) -> None:
        """Add one value as JSON; one that is too large is left out, for half of it is no JSON."""
        before = self.redactor.count
        data = (json.dumps(self.redactor.value(value), indent=1, ensure_ascii=False, default=str) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        if len(data) > min(MAX_ENTRY, self._max - self.size):
            self.lack(name, f"its {len(data):,} bytes are more than there is room for")
            return
        self._add(name, data, self.redactor.count - before)

    def lines(self, name: str, values: Iterable[Any]) -> None:
        """Add values as JSON, one a line; those for which there is no room are left out, and counted."""
        before, room = self.redactor.count, min(MAX_ENTRY, self._max - self.size)
        buffer, left = io.BytesIO(), 0
        for value in values:
            data = (json.dumps(self.redactor.value(value), separators=(",", ":"), default=str) + "\n").encode()
            if left or buffer.tell() + len(data) > room:
                left += 1
            else:
                buffer.write(data)
        self._add(name, buffer.getvalue(), self.redactor.count - before, f"{left:,} more had no room" if left else "")

    def text(self, name: str, text: str, *, limit: int = MAX_ENTRY, newest: bool = False) -> None:
        """Add text; of what is too long the beginning is kept, or with ``newest`` the end."""
        before = self.redactor.count
        data = self.redactor.text(text).encode("utf-8", "backslashreplace")
        room = max(0, min(limit, self._max - self.size))
        cut = ""
        if len(data) > room:
            cut = f"{'the last' if newest else 'the first'} {room:,} of {len(data):,} bytes"
            data = (data[len(data) - room :].partition(b"\n")[2] if newest else data[:room]) if room else b""
        self._add(name, data, self.redactor.count - before, cut)

    def close(self, **facts: Any) -> None:
        """Add the manifest: what is in the archive, what could not be had and why, and ``facts``."""
        manifest = {
            "kind": "bugtool",
            "time": self._now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            **self.redactor.value(facts),
            "bytes": self.size,
            "entries": self.entries,
            "missing": self.missing,
            "redactions": self.redactor.count,
        }
        self._write("manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())

    def _add(self, name: str, data: bytes, redactions: int, cut: str = "") -> None:
        if cut and not data:
            self.lack(name, f"the archive is full ({self._max + _MANIFEST:,} bytes)")
            return
        name = _UNSAFE.sub("_", self.redactor.text(name))
        self._write(name, data)
        self.size += len(data)
        entry: dict[str, Any] = {"name": name, "bytes": len(data), "redactions": redactions}
        self.entries.append({**entry, "cut": cut} if cut else entry)

    def _write(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(f"{self._folder}/{name}")
        member.size, member.mode, member.mtime = len(data), 0o600, int(self._now.timestamp())
        try:
            self._tar.addfile(member, io.BytesIO(data))
        except OSError as error:
            raise BrokenFile(error) from None


class BrokenFile(Exception):  # noqa: N818 - it names what is broken
    """The archive itself cannot be written: that no part survives."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def without_arguments(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Give a finding without its processes' arguments, also where its sentences quote them: they may be a user's secrets."""
    told: set[str] = set()
    bare: dict[str, Any] = _strip(finding, told)
    arguments = sorted((argument for argument in told if len(argument) >= _SHORTEST), key=len, reverse=True)
    return _unquote(bare, arguments) if arguments else bare


def _strip(value: Any, told: set[str]) -> Any:
    if isinstance(value, Mapping):
        found = {}
        for key, content in value.items():
            if key == "argv" and isinstance(content, list):
                told.update(map(str, content[1:]))  # the first is the program's name
                found[key] = ["left out"] if content else []
            else:
                found[key] = _strip(content, told)
        return found
    return [_strip(one, told) for one in value] if isinstance(value, list) else value


def _unquote(value: Any, arguments: list[str], *, quoting: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {key: _unquote(content, arguments, quoting=quoting or key in _QUOTING) for key, content in value.items()}
    if isinstance(value, list):
        return [_unquote(one, arguments, quoting=quoting) for one in value]
    if quoting and isinstance(value, str):
        for argument in arguments:
            value = value.replace(argument, "…")
    return value


_QUOTING: Final = frozenset({"title", "explanation", "confidence_reasons", "confidenceReasons", "key"})
_SHORTEST: Final = 4
