"""A BPF ring buffer read as numpy arrays, in place.

Layout (kernel/bpf/ringbuf.c): one page with the consumer position (read-write), one with the producer position, then the data, mapped
twice in a row so that any span is contiguous. A record is an 8-byte header (u32 length with busy and discard bits, u32 page offset) and
its bytes, padded to 8. With records of one size, a span is one structured array.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from daemoneye_sensor import bpfsys

_BUSY: Final = np.uint32(1 << 31)
_DISCARD: Final = np.uint32(1 << 30)
_LENGTH: Final = np.uint32((1 << 30) - 1)


@dataclass(frozen=True, slots=True)
class Span:
    """What one look at a ring gave.

    Attributes:
        records: View of the ring's memory, shape (n,); valid until the ring's position is advanced past `end`.
        end: Consumer position after them, bytes.
        malformed: Records of another size, which were passed over.
        more: More records were ready than were asked for.
    """

    records: np.ndarray
    end: int
    malformed: int
    more: bool


class Ring:
    """One ring buffer of fixed-size records.

    On machines with weaker ordering than x86 a record's busy bit is read before its bytes; the interpreter's own work between the two
    reads, and the second look that a busy record forces, stand in for the acquire barrier that libbpf uses.
    """

    def __init__(self, fd: int, dtype: np.dtype[Any]) -> None:
        """Map the ring of a map descriptor, which the ring then owns.

        Args:
            fd: Descriptor of a BPF_MAP_TYPE_RINGBUF map.
            dtype: The record; its size must be a multiple of 8.
        """
        self.fd = fd
        self.size = int(bpfsys.fdinfo(fd)["max_entries"])
        self.dtype = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", dtype)])
        page = mmap.PAGESIZE
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data_map = mmap.mmap(fd, page + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._data_map, np.uint64, 1)
        self._data = np.frombuffer(self._data_map, np.uint8, 2 * self.size, page)

    @property
    def stride(self) -> int:
        """Bytes from record to record."""
        return self.dtype.itemsize

    @property
    def position(self) -> int:
        """Consumer position, bytes since the ring was made."""
        return int(self._consumer[0])

    @property
    def produced(self) -> int:
        """Producer position, bytes since the ring was made."""
        return int(self._producer[0])

    def read(self, limit: int, until: int | None = None) -> Span:
        """Look at up to `limit` records from the consumer position on (and not past the position `until`), without consuming them."""
        start = self.position
        end = self.produced if until is None else until
        ready = max(end - start, 0) // self.stride
        take = min(ready, limit)
        begin = start % self.size
        rows = self._data[begin : begin + take * self.stride].view(self.dtype)
        # Copied first: the headers lie a record apart, and are looked at twice.
        length = np.ascontiguousarray(rows["length"])
        busy = np.flatnonzero(length & _BUSY)
        if len(busy):
            rows, length = rows[: busy[0]], length[: busy[0]]
        good = length == np.uint32(self.dtype["record"].itemsize)
        malformed = 0
        records = rows["record"]
        if not good.all():
            malformed = int((~good & (length & _DISCARD == 0)).sum())
            records = records[good]
        return Span(records, start + len(rows) * self.stride, malformed, ready > take)

    def held(self) -> int:
        """Records that nobody has read, by their headers alone: for a ring whose records are not `dtype`. One step a record."""
        at, end, count = self.position, self.produced, 0
        while at < end:
            (header,) = struct.unpack_from("<I", self._data_map, mmap.PAGESIZE + at % self.size)
            length = header & int(_LENGTH)
            if not length:  # no record is empty: whatever this is, nobody can say what follows
                break
            count += not header & int(_DISCARD)
            at += 8 + -(-length // 8) * 8
        return count

    def advance(self, position: int) -> None:
        """Give the space before `position` back to the kernel; a position behind the present one changes nothing."""
        if position > self.position:
            self._consumer[0] = position

    def close(self) -> None:
        """Unmap; views that were handed out must be gone."""
        del self._consumer, self._producer, self._data
        self._consumer_map.close()
        self._data_map.close()
