"""The segment: DaemonEye's append-only file of checksummed batches, used by the spool and as recording form.

Responsible for the bytes of one file; not for which files there are, their budget or what was sent
(:mod:`daemoneye_sensor.spool`).

Format, all numbers little-endian::

    file  = magic "DEYESEG" + version u8 (1), then entries up to the end
    entry = crc32 u32 | length u32 | lane u8 | mark "DEe" | rows u32 | epoch u64 | first_sequence u64 | payload

``crc32`` (zlib's) covers everything of the entry behind itself, ``length`` counts the payload's bytes, ``lane`` is the
lane's place in :data:`daemoneye.subjects.LANES`. The mark is there to be searched for: behind a damaged entry, readers
can tell a torn tail (nothing valid follows) from damage in the middle (something does).
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from daemoneye.errors import ConfigError, CorruptData
from daemoneye.subjects import LANES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAGIC: Final = b"DEYESEG\x01"
MAX_PAYLOAD: Final = 64 << 20
_MARK: Final = b"DEe"
_MARK_AT: Final = 9
_CRC: Final = struct.Struct("<I")
_BODY: Final = struct.Struct("<IB3sIQQ")
HEADER_BYTES: Final = _CRC.size + _BODY.size


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch as it stands in a segment.

    ``rows`` counts the rows that have sequence numbers, from ``first_sequence`` on; ``segment`` is the segment's number
    (0 in a recording) and ``offset`` the byte in it at which the entry's header begins.
    """

    lane: str
    epoch: int
    first_sequence: int
    rows: int
    payload: bytes | memoryview
    segment: int
    offset: int

    @property
    def end(self) -> int:
        """Byte in the segment behind this entry."""
        return self.offset + HEADER_BYTES + len(self.payload)


class Header(NamedTuple):
    """An entry's header, its checksum not yet compared with anything; ``length`` in bytes."""

    crc: int
    length: int
    lane: str
    rows: int
    epoch: int
    first_sequence: int


def encode_header(payload: bytes | memoryview, *, lane: str, epoch: int, first_sequence: int, rows: int) -> bytes:
    """Header to be written before ``payload``; raises ValueError for an unknown lane or a payload above MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        message = f"a batch of {len(payload)} bytes is larger than an entry may be ({MAX_PAYLOAD})"
        raise ValueError(message)
    body = _BODY.pack(len(payload), LANES.index(lane), _MARK, rows, epoch, first_sequence)
    return _CRC.pack(zlib.crc32(payload, zlib.crc32(body))) + body


def read_header(fd: int, offset: int, size: int, where: str) -> Header:
    """Read the header at ``offset`` of a file of ``size`` bytes; raises CorruptData unless an entry can stand there."""
    raw = os.pread(fd, HEADER_BYTES, offset)
    if len(raw) < HEADER_BYTES:
        message = f"the file ends within an entry's header ({len(raw)} of {HEADER_BYTES} bytes)"
        raise CorruptData(message, where=where, offset=offset)
    (crc,) = _CRC.unpack_from(raw)
    length, lane, mark, rows, epoch, first_sequence = _BODY.unpack_from(raw, _CRC.size)
    if mark != _MARK or lane >= len(LANES) or length > MAX_PAYLOAD:
        message = "these bytes are not an entry's header"
        raise CorruptData(message, where=where, offset=offset)
    if offset + HEADER_BYTES + length > size:
        message = f"the file ends within an entry ({size - offset} of {HEADER_BYTES + length} bytes)"
        raise CorruptData(message, where=where, offset=offset)
    return Header(crc, length, LANES[lane], rows, epoch, first_sequence)


def read_entry(fd: int, offset: int, size: int, where: str, segment: int = 0) -> Entry:
    """Read the entry at ``offset`` of a file of ``size`` bytes; raises CorruptData if its checksum is wrong."""
    header = read_header(fd, offset, size, where)
    raw = os.pread(fd, HEADER_BYTES + header.length - _CRC.size, offset + _CRC.size)
    if zlib.crc32(raw) != header.crc:
        message = "an entry's checksum does not fit its bytes"
        raise CorruptData(message, where=where, offset=offset)
    payload = memoryview(raw)[_BODY.size :]
    return Entry(header.lane, header.epoch, header.first_sequence, header.rows, payload, segment, offset)


def check_magic(fd: int, where: str) -> None:
    """Raise CorruptData unless the file begins as a segment of a version that this program reads."""
    magic = os.pread(fd, len(MAGIC), 0)
    if magic[:-1] == MAGIC[:-1] and len(magic) == len(MAGIC) and magic != MAGIC:
        message = f"this recording has version {magic[-1]}, this program reads version {MAGIC[-1]}"
        raise CorruptData(message, where=where, offset=len(MAGIC) - 1)
    if magic != MAGIC:
        message = "this is not a DaemonEye recording"
        raise CorruptData(message, where=where, offset=0)


def salvage(fd: int, offset: int, size: int, segment: int = 0) -> Iterator[Entry]:
    """Every entry with a right checksum that begins behind the damaged place at ``offset``, found by its mark."""
    window = os.pread(fd, max(0, size - offset), offset)
    at = window.find(_MARK, _MARK_AT + 1)
    while at >= 0:
        following = at + 1
        with suppress(CorruptData):
            entry = read_entry(fd, offset + at - _MARK_AT, size, "", segment)
            following = entry.end - offset + _MARK_AT
            yield entry
        at = window.find(_MARK, following)


def write_all(fd: int, parts: list[bytes | memoryview]) -> None:
    """Write ``parts`` in one system call; a short write, which a full disk may give, is raised as OSError(ENOSPC)."""
    expected = sum(len(part) for part in parts)
    if os.writev(fd, parts) != expected:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_recording(path: Path) -> Iterator[Entry]:
    """Every entry of a segment file, in order.

    Raises ConfigError if ``path`` cannot be read, CorruptData naming the path and the byte at which it stops making
    sense; everything before that byte has been yielded by then.
    """
    where = str(path)
    with _opened(path) as fd:
        size = os.fstat(fd).st_size
        check_magic(fd, where)
        offset = len(MAGIC)
        while offset < size:
            entry = read_entry(fd, offset, size, where)
            yield entry
            offset = entry.end


def write_recording(path: Path, entries: Iterable[Entry]) -> int:
    """Write ``entries`` as a segment file and return how many there were; ``path`` appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with temporary.open("wb") as file:
            file.write(MAGIC)
            for entry in entries:
                file.write(
                    encode_header(
                        entry.payload,
                        lane=entry.lane,
                        epoch=entry.epoch,
                        first_sequence=entry.first_sequence,
                        rows=entry.rows,
                    ),
                )
                file.write(entry.payload)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ConfigError(message) from error
    try:
        if os.path.isdir(path):  # os.open opens a directory without complaint
            message = f"cannot read {path}: it is a directory"
            raise ConfigError(message)
        yield fd
    finally:
        os.close(fd)
