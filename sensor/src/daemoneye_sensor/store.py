"""The segments of one directory: numbered files that are written at the end, read anywhere and removed from the front.

Responsible for the files, their sizes and descriptors, and for what of them is durable; not for the bytes of a segment
(:mod:`daemoneye_sensor.segment`) nor for what may be removed when (:mod:`daemoneye_sensor.spool`). Every method of the
store may raise OSError; reading raises CorruptData.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from daemoneye.errors import CorruptData, MachineError
from daemoneye_sensor.cursor import Place, sync_directory
from daemoneye_sensor.segment import HEADER_BYTES, MAGIC, Entry, Header, check_magic, read_entry, read_header, write_all
from daemoneye_sensor.segment import salvage as salvage_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECES_KEPT: Final = 4


class SegmentStore:
    """The ``NNNNNNNNNNNN.segment`` and ``NNNNNNNNNNNN-OFFSET.corrupt`` files of ``directory``; not safe for threads.

    ``sizes`` maps a segment's number to its bytes, oldest first; ``synced`` is the place before which everything is
    durable; ``next_number`` has never been a file's.
    """

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        numbers = sorted(int(path.stem) for path in directory.glob("*.segment") if path.stem.isdecimal())
        self.sizes: dict[int, int] = {number: self.path(number).stat().st_size for number in numbers}
        self.next_number = numbers[-1] + 1 if numbers else 1
        self.synced = Place(self.next_number, 0)
        self.dirty = False
        self._segment_total = sum(self.sizes.values())
        pieces = sorted(directory.glob("*.corrupt"), key=lambda path: path.stat().st_mtime_ns)
        self._pieces = {path: path.stat().st_size for path in pieces}
        self._active: int | None = None  # the segment that is being written
        self._writing: dict[int, int] = {}  # segment -> descriptor: the active one and those not yet synced
        self._reading: tuple[int, int] | None = None  # segment, descriptor
        self._names_dirty = False

    @property
    def bytes_used(self) -> int:
        """Bytes of all segments and pieces."""
        return self._segment_total + sum(self._pieces.values())

    def path(self, number: int) -> Path:
        """Where the segment ``number`` is, or would be."""
        return self._directory / f"{number:012d}.segment"

    # --- writing

    def append(self, header: bytes, payload: bytes) -> Place:
        """Write an entry at the end and return its place; after an error the segment is as it was."""
        size = len(header) + len(payload)
        number = self._active
        if number is None or (self.sizes[number] > len(MAGIC) and self.sizes[number] + size > self._segment_bytes):
            number = self._roll()
        fd, offset = self._writing[number], self.sizes[number]
        try:
            write_all(fd, [header, payload])
        except OSError:
            os.ftruncate(fd, offset)
            raise
        self._resize(number, offset + size)
        self.dirty = True
        return Place(number, offset)

    def resume(self, number: int) -> None:
        """Go on writing at the end of an existing segment, the newest."""
        self._writing[number] = os.open(self.path(number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._active, self.dirty = number, True

    def seal(self, number: int) -> None:
        """Write nothing more to segment ``number``."""
        if self._active == number:
            self._active = None

    def sync(self) -> None:
        """Make everything written so far durable."""
        if self.dirty:
            for fd in self._writing.values():
                os.fdatasync(fd)
        if self._names_dirty:
            sync_directory(self._directory)
        self.dirty = self._names_dirty = False
        for number in [number for number in self._writing if number != self._active]:
            os.close(self._writing.pop(number))
        if self._active is None:
            self.synced = Place(self.next_number, 0)
        else:
            self.synced = Place(self._active, self.sizes[self._active])

    def _roll(self) -> int:
        number = self.next_number
        path = self.path(number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, [MAGIC])
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self.sizes[number] = 0
        self._resize(number, len(MAGIC))
        self._writing[number], self._active = fd, number
        self.next_number, self._names_dirty = number + 1, True
        return number

    # --- reading

    def settle(self, place: Place) -> Place | None:
        """Return the place of the first entry at or behind ``place``; None if there is none."""
        if place.offset < self.sizes.get(place.segment, 0):
            settled = Place(place.segment, max(place.offset, len(MAGIC)))
            return settled if settled.offset < self.sizes[place.segment] else None
        if not self.sizes or place.segment >= next(reversed(self.sizes)):
            return None
        following = (number for number, size in self.sizes.items() if number > place.segment and size > len(MAGIC))
        number = next(following, None)
        return None if number is None else Place(number, len(MAGIC))

    def read(self, place: Place) -> Entry:
        """Read and check the entry at ``place``."""
        number, offset = place
        return read_entry(self._open(number), offset, self.sizes[number], str(self.path(number)), number)

    def check_magic(self, number: int) -> None:
        """Raise CorruptData unless segment ``number`` begins as one."""
        check_magic(self._open(number), str(self.path(number)))

    def headers(self, number: int, offset: int) -> Iterator[tuple[int, Header]]:
        """Yield offset and header of every entry of a segment from ``offset`` on, their payloads unread."""
        size, where = self.sizes[number], str(self.path(number))
        while offset < size:
            header = read_header(self._open(number), offset, size, where)
            yield offset, header
            offset += HEADER_BYTES + header.length

    def salvage(self, place: Place) -> Iterator[Entry]:
        """Yield the valid entries of a segment behind the damage at ``place``."""
        number, offset = place
        yield from salvage_file(self._open(number), offset, self.sizes[number], number)

    # --- removing

    def cut(self, place: Place) -> None:
        """Shorten a segment to ``place``; one without an entry left is removed."""
        number, offset = place
        if offset > len(MAGIC) and self.path(number).exists():
            os.truncate(self.path(number), offset)
            self._resize(number, offset)
        else:
            self.remove(number)

    def remove(self, number: int) -> None:
        """Remove a segment."""
        if self._reading is not None and self._reading[0] == number:
            os.close(self._reading[1])
            self._reading = None
        if number in self._writing:
            os.close(self._writing.pop(number))
        self.seal(number)
        self._resize(number, 0)
        del self.sizes[number]
        self.path(number).unlink(missing_ok=True)

    def set_aside(self, place: Place) -> None:
        """Copy what stands behind ``place`` of a segment into a piece; only the newest few pieces are kept."""
        number, offset = place
        while len(self._pieces) >= _PIECES_KEPT:
            self.drop_piece()
        path = self._directory / f"{number:012d}-{offset}.corrupt"
        piece = os.pread(self._open(number), self.sizes[number] - offset, offset)
        try:
            path.write_bytes(piece)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._pieces[path] = len(piece)

    def drop_piece(self) -> bool:
        """Remove the oldest piece; False if there is none."""
        path = next(iter(self._pieces), None)
        if path is None:
            return False
        path.unlink(missing_ok=True)
        del self._pieces[path]
        return True

    def close(self) -> None:
        """Close every descriptor; nothing is made durable."""
        descriptors = list(self._writing.values())
        if self._reading is not None:
            descriptors.append(self._reading[1])
        self._writing.clear()
        self._reading = self._active = None
        for fd in descriptors:
            with suppress(OSError):
                os.close(fd)

    def _open(self, number: int) -> int:
        if self._reading is None or self._reading[0] != number:
            path = self.path(number)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                message = "the segment was removed by somebody else"
                raise CorruptData(message, where=str(path), offset=0) from error
            if self._reading is not None:
                os.close(self._reading[1])
            self._reading = number, fd
        return self._reading[1]

    def _resize(self, number: int, size: int) -> None:
        self._segment_total += size - self.sizes[number]
        self.sizes[number] = size


class SpoolInUse(MachineError):  # noqa: N818 - a state of the spool, and it ends with the other process
    """Another process has the spool."""


def lock_directory(directory: Path) -> int:
    """Make ``directory`` and take it for this process; closing the descriptor gives it free. Raises MachineError, SpoolInUse."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(directory, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        message = f"another process is using the spool {directory}"
        raise SpoolInUse(message, fix="stop the other sensor or give this one its own state directory") from error
    return fd


def unusable(directory: Path, error: OSError) -> MachineError:
    """Word an OSError of the spool's files for the user."""
    return MachineError(
        f"cannot use the spool {directory}: {error.strerror}",
        fix="give the sensor a directory on a local file system that it may write to",
    )
