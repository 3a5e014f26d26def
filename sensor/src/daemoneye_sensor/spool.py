"""The spool: a bounded directory of segments between the rings and the broker, and the node's flight recorder.

Responsible for keeping batches in order within a disk budget, for remembering how far they were sent, and for coming
back whole after a crash; not for the bytes of a segment (:mod:`daemoneye_sensor.segment`), for the files
(:mod:`daemoneye_sensor.store`) nor for sending (:mod:`daemoneye_sensor.publisher`).

::

    <directory>/lock                       held by flock for as long as the spool is open
    <directory>/cursor                     how far everything was sent (:mod:`daemoneye_sensor.cursor`)
    <directory>/000000000042.segment       entries in the order in which they were appended
    <directory>/000000000042-1234.corrupt  what stood in segment 42 from a damaged byte 1234 on

What was sent stays as the flight recorder until the budget needs its room. Room is made oldest first, so everything
sent goes before anything unsent; an unsent batch that has to go is counted (:meth:`Spool.take_evicted`).

Damage: bytes at the end behind which nothing valid follows are a torn write and are cut off at open. Damage with valid entries behind it moves the
rest of its segment into a ``.corrupt`` file; the unsent batches recognised there count as evicted (the damaged one itself shows as a jump in its
lane's sequence), and reading goes on with the next segment.

Memory is bounded: an entry is read when it is asked for, the index holds one line a segment. Several threads may call.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemoneye.errors import CorruptData, MachineError
from daemoneye_sensor import cursor as cursor_file
from daemoneye_sensor.cursor import Cursor, Note, Place
from daemoneye_sensor.segment import (
    HEADER_BYTES,
    MAGIC,
    Entry,
    Header,
    encode_header,
    read_recording,
    write_recording,
)
from daemoneye_sensor.store import SegmentStore, lock_directory, unusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Entry", "Evicted", "Spool", "SpoolFull", "read_recording", "write_recording"]

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SEGMENTS_AT_LEAST: Final = 4
_EPOCHS_NOTED: Final = 4

_log = logging.getLogger(__name__)


class SpoolFull(MachineError):  # noqa: N818 - a state of the spool, and named so in its contract
    """There is no room for a batch even though everything else was evicted."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """Rows that were removed before they were sent: neighbours of one lane and epoch in one range."""

    lane: str
    epoch: int
    first_sequence: int
    rows: int


@dataclass(slots=True)
class _Unsent:
    """How much of a segment is unsent."""

    entries: int = 0
    bytes: int = 0


class Spool:
    """An open spool directory.

    ``max_bytes`` bounds everything in ``directory`` but the small cursor, ``segment_bytes`` one segment (at most a
    quarter of the budget). Raises :class:`MachineError` if the directory cannot be used or another process has it.
    """

    def __init__(self, directory: Path, *, max_bytes: int, segment_bytes: int = 8 << 20) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._guard = threading.RLock()
        self._lock = lock_directory(directory)
        self._cursor = Place(0, 0)
        self._cursor_dirty = True
        self._unsent: dict[int, _Unsent] = {}  # of every segment from the cursor on
        self._notes: dict[tuple[str, int], Note] = {}  # by lane and epoch, oldest first
        self._evicted: list[Evicted] = []
        self._quarantined = 0
        try:
            self._store = SegmentStore(directory, min(segment_bytes, max_bytes // _SEGMENTS_AT_LEAST))
            self._recover()
        except OSError as error:
            os.close(self._lock)
            raise unusable(directory, error) from error

    def append(self, payload: bytes, *, lane: str, epoch: int, first_sequence: int, rows: int) -> None:
        """Write one batch behind all others; it is durable, and can be sent, from the next :meth:`sync` on.

        Evicts the oldest segments when there is no room. Raises :class:`SpoolFull` if that does not help, :class:`MachineError` if the directory
        fails in another way, ValueError for an unknown lane.
        """
        header = encode_header(payload, lane=lane, epoch=epoch, first_sequence=first_sequence, rows=rows)
        need = len(header) + len(payload)
        with self._guard:
            # Room for a new segment's magic is always asked for, so that the test needs to know nothing of segments.
            if need + len(MAGIC) > self._max_bytes:
                raise self._full(need)
            while self._store.bytes_used + need + len(MAGIC) > self._max_bytes:
                self._evict_oldest()
            place = self._write(header, payload)
            unsent = self._unsent.setdefault(place.segment, _Unsent())
            unsent.entries += 1
            unsent.bytes += need
            self._take_note(Note(lane, epoch, first_sequence, rows, *place))

    def sync(self) -> None:
        """Make everything appended so far durable (one fdatasync, rarely more); raises :class:`MachineError`."""
        with self._guard:
            try:
                self._store.sync()
            except OSError as error:
                raise unusable(self._directory, error) from error

    def unsent(self) -> Iterator[Entry]:
        """Yield the durable entries from the cursor on, in order."""
        entry = self.next_unsent(None)
        while entry is not None:
            yield entry
            entry = self.next_unsent(entry)

    def next_unsent(self, after: Entry | None) -> Entry | None:
        """Return the first durable entry behind both ``after`` and the cursor; None if there is none yet.

        What is not durable is not sent: a crash would take it back, and its numbers would be given again.
        """
        with self._guard:
            start = self._cursor if after is None else max(self._cursor, Place(after.segment, after.end))
            return self._first_from(start, self._store.synced)

    def acknowledge(self, entry: Entry) -> None:
        """Move the cursor behind ``entry``; without effect if it was evicted or acknowledged already.

        Keeping to the order is the caller's duty: everything before ``entry`` counts as sent too.
        """
        with self._guard:
            end = Place(entry.segment, entry.end)
            if end <= self._cursor or entry.segment not in self._store.sizes:
                return
            if self._store.settle(self._cursor) == (entry.segment, entry.offset):
                unsent = self._unsent[entry.segment]
                unsent.entries -= 1
                unsent.bytes -= entry.end - entry.offset
                self._cursor = end
            else:
                self._cursor = end
                self._count_unsent(entry.segment)
            for number in [number for number in self._unsent if number < entry.segment]:
                del self._unsent[number]
            self._cursor_dirty = True

    def save_cursor(self) -> None:
        """Make the cursor durable; without cost if nothing changed. Raises :class:`MachineError`."""
        with self._guard:
            try:
                self._save_cursor()
            except OSError as error:
                raise unusable(self._directory, error) from error

    def last(self, lane: str, epoch: int | None = None) -> Entry | None:
        """Return the newest entry of ``lane`` (of ``epoch``), sent or not; of one that is no longer kept the numbers, with an empty payload."""
        with self._guard:
            for note in reversed(self._notes.values()):
                if note.lane == lane and epoch in {None, note.epoch}:
                    break
            else:
                return None
            if note.offset < self._store.sizes.get(note.segment, 0):
                with suppress(CorruptData):
                    return self._store.read(Place(note.segment, note.offset))
            return Entry(note.lane, note.epoch, note.first_sequence, note.rows, b"", note.segment, note.offset)

    def noted(self) -> list[tuple[str, int]]:
        """Return the (lane, epoch) of which `last` knows an entry."""
        return list(self._notes)

    def entries(self) -> Iterator[Entry]:
        """Yield everything kept, oldest first; what is evicted meanwhile is left out."""
        place = Place(0, 0)
        while True:
            with self._guard:
                entry = self._first_from(place, Place(self._store.next_number, 0))
            if entry is None:
                return
            yield entry
            place = Place(entry.segment, entry.end)

    def take_evicted(self) -> list[Evicted]:
        """Return what was removed unsent since the last call."""
        with self._guard:
            evicted, self._evicted = self._evicted, []
            return evicted

    @property
    def bytes_used(self) -> int:
        """Bytes of all segments and quarantined pieces."""
        with self._guard:
            return self._store.bytes_used

    @property
    def bytes_unsent(self) -> int:
        """Bytes of the entries behind the cursor."""
        with self._guard:
            return sum(unsent.bytes for unsent in self._unsent.values())

    @property
    def entries_unsent(self) -> int:
        """Entries behind the cursor."""
        with self._guard:
            return sum(unsent.entries for unsent in self._unsent.values())

    @property
    def quarantined(self) -> int:
        """Damaged pieces set aside since the spool was opened."""
        return self._quarantined

    def close(self) -> None:
        """Make everything durable and give the directory free; further calls do nothing."""
        with self._guard:
            if self._lock < 0:
                return
            try:
                self.save_cursor()
            finally:
                self._store.close()
                os.close(self._lock)
                self._lock = -1

    # --- recovery and damage

    def _recover(self) -> None:
        store = self._store
        newest = max(store.sizes, default=0)
        saved = cursor_file.load(self._directory) or Cursor(Place(0, 0), 1, ())
        store.next_number = max(store.next_number, saved.next_segment)
        self._notes = {(note.lane, note.epoch): note for note in saved.notes}
        self._cursor = saved.place
        for number in [number for number in store.sizes if number >= saved.place.segment]:
            try:
                self._check(number, every_byte=number == newest)
            except CorruptData as damage:
                place = Place(number, max(damage.offset or 0, len(MAGIC)))
                if number == newest and next(store.salvage(place), None) is None:
                    _log.info("%s: a torn write was cut off at byte %d", store.path(number), place.offset)
                    store.cut(place)
                else:
                    self._quarantine(place, damage)
                    newest = 0  # whatever follows the damage starts in a new segment
            if number in store.sizes:
                self._count_unsent(number)
        if newest in store.sizes:
            store.resume(newest)
        with suppress(OSError):  # a disk too full for it: the old cursor is as good, only older
            self._save_cursor()

    def _check(self, number: int, *, every_byte: bool) -> None:
        """Note a segment's entries; ``every_byte`` of the newest, which a crash may have torn."""
        store = self._store
        store.check_magic(number)
        for offset, header in store.headers(number, len(MAGIC)):
            if every_byte:
                store.read(Place(number, offset))
            self._take_note(Note(header.lane, header.epoch, header.first_sequence, header.rows, number, offset))

    def _quarantine(self, place: Place, damage: CorruptData) -> None:
        """Set a segment's bytes from ``place`` on aside and count the unsent entries that are recognised in them."""
        store, number = self._store, place.segment
        self._quarantined += 1
        _log.error("%s; the rest of this segment is set aside", damage)
        store.seal(number)  # appending goes on in a new one
        with suppress(CorruptData):
            for entry in store.salvage(place):
                self._take_note(Note(entry.lane, entry.epoch, entry.first_sequence, entry.rows, number, entry.offset))
                if (number, entry.offset) >= self._cursor:
                    self._count_evicted(entry)
            with suppress(OSError):  # without room for a copy the piece is only dropped
                store.set_aside(place)
        store.cut(place)
        if number in store.sizes:
            self._count_unsent(number)
        else:
            self._unsent.pop(number, None)
        self._cursor_dirty = True
        with suppress(OSError):
            self._save_cursor()

    def _first_from(self, place: Place, end: Place) -> Entry | None:
        """Read the first entry at or behind ``place`` and before ``end``, with what is damaged put out of the way."""
        while (settled := self._store.settle(place)) is not None and settled < end:
            try:
                return self._store.read(settled)
            except CorruptData as damage:
                self._quarantine(settled, damage)
        return None

    # --- making room

    def _write(self, header: bytes, payload: bytes) -> Place:
        while True:
            try:
                return self._store.append(header, payload)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise unusable(self._directory, error) from error
                # An empty segment is what the failed attempt itself has left.
                if self._store.bytes_used <= len(MAGIC) or not self._evict_oldest():
                    raise self._full(len(header) + len(payload)) from error

    def _evict_oldest(self) -> bool:
        """Remove the oldest damaged piece or else segment and count its unsent entries; False if nothing is left."""
        store = self._store
        if store.drop_piece():
            return True
        number = next(iter(store.sizes), None)
        if number is None:
            return False
        if self._unsent.pop(number, _Unsent()).entries:
            with suppress(CorruptData):
                for _, header in store.headers(number, self._unsent_from(number)):
                    self._count_evicted(header)
        if self._cursor.segment <= number:
            self._cursor = Place(number + 1, 0)
            self._cursor_dirty = True
        # Before the segment goes, or a crash between the two would leave a cursor and notes that point at nothing.
        # A disk too full even for the cursor is the exception: then room comes first, and the cursor right behind.
        with suppress(OSError):
            self._save_cursor()
        store.remove(number)
        with suppress(OSError):
            self._save_cursor()
        return True

    def _count_evicted(self, lost: Entry | Header) -> None:
        first, rows = lost.first_sequence, lost.rows
        if self._evicted:
            before = self._evicted[-1]
            neighbour = (before.lane, before.epoch, before.first_sequence + before.rows)
            if neighbour == (lost.lane, lost.epoch, first):
                self._evicted.pop()
                first, rows = before.first_sequence, before.rows + rows
        self._evicted.append(Evicted(lost.lane, lost.epoch, first, rows))

    def _full(self, need: int) -> SpoolFull:
        return SpoolFull(
            f"the spool {self._directory} has no room for a batch of {need} bytes (its budget is {self._max_bytes})",
            fix="free space on its file system or give it a larger budget",
        )

    # --- the index

    def _save_cursor(self) -> None:
        if not (self._cursor_dirty or self._store.dirty):
            return
        self._store.sync()  # or the notes would name entries that a crash may still take back
        notes = tuple(self._notes.values())
        cursor_file.save(self._directory, Cursor(self._cursor, self._store.next_number, notes))
        self._cursor_dirty = False

    def _unsent_from(self, number: int) -> int:
        return max(len(MAGIC), self._cursor.offset) if number == self._cursor.segment else len(MAGIC)

    def _count_unsent(self, number: int) -> None:
        if number < self._cursor.segment:
            return
        unsent = self._unsent[number] = _Unsent()
        with suppress(CorruptData):
            for _, header in self._store.headers(number, self._unsent_from(number)):
                unsent.entries += 1
                unsent.bytes += HEADER_BYTES + header.length

    def _take_note(self, note: Note) -> None:
        known = self._notes.pop((note.lane, note.epoch), None)
        self._notes[note.lane, note.epoch] = note
        if known is None:
            epochs = [key for key in self._notes if key[0] == note.lane]
            for key in epochs[:-_EPOCHS_NOTED]:
                del self._notes[key]
