"""The spool's cursor file: how far everything was sent, and the newest entry of every lane.

Responsible for making this one small file durable and for reading it back; not for what the places in it mean
(:mod:`daemoneye_sensor.spool`). The file is replaced whole (write, fdatasync, rename, fsync of the directory), so a
crash leaves the old one or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = "cursor"
_TEMPORARY: Final = "cursor.new"
_VERSION: Final = 1

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A byte of a segment; places compare in the order in which they were written."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Note:
    """Where the newest entry of a lane and epoch stands, so that numbering goes on even when the entry is gone."""

    lane: str
    epoch: int
    first_sequence: int
    rows: int
    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """What the file holds: ``place`` is behind the last entry sent; ``next_segment`` has never been a file's number."""

    place: Place
    next_segment: int
    notes: tuple[Note, ...]


def save(directory: Path, cursor: Cursor) -> None:
    """Make ``cursor`` durable; raises OSError."""
    body = json.dumps(
        {
            "version": _VERSION,
            "place": cursor.place,
            "next_segment": cursor.next_segment,
            "notes": [astuple(note) for note in cursor.notes],
        },
    ).encode()
    temporary = directory / _TEMPORARY
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(b"%08x\n%s\n" % (zlib.crc32(body), body))
        os.fdatasync(fd)
    finally:
        os.close(fd)
    temporary.replace(directory / _NAME)
    sync_directory(directory)


def load(directory: Path) -> Cursor | None:
    """Read the cursor; None if there is none or it is damaged (then everything in the spool counts as unsent)."""
    path = directory / _NAME
    try:
        checksum, body = path.read_bytes().split(b"\n")[:2]
        if int(checksum, 16) != zlib.crc32(body):
            message = "its checksum is wrong"
            raise ValueError(message)
        raw = json.loads(body)
        if raw["version"] != _VERSION:
            message = f"it has version {raw['version']}"
            raise ValueError(message)
        return Cursor(Place(*raw["place"]), raw["next_segment"], tuple(Note(*note) for note in raw["notes"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%s): everything in the spool will be sent again", path, error)
        return None


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
