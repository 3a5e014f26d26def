"""Capture files, block by block: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng).

The one loop that runs Python per frame here walks from record to record, whose lengths nothing else tells; everything behind it is columns.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.errors import CorruptData

BLOCK: Final = 16_384
"""Frames at once."""
MAX_FRAME: Final = 1 << 18
MAX_INTERFACES: Final = 256
_LATEST: Final = 1 << 62
"""Nanoseconds since 1970 in the year 2116: no capture is younger, and whatever says so is broken."""
_PCAP: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}  # fmt: skip
_PACKED: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zX": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
}
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_NAME, _RESOLUTION, _OFFSET = 2, 9, 14


@dataclass(frozen=True, slots=True)
class Block:
    """Frames of one interface; arrays of shape (n,).

    Attributes:
        data: The whole file, uint8.
        begin: Where each frame begins, int64.
        captured: Bytes of it that the file has, int64.
        size: Bytes that it had, int64.
        time: Its moment, ns since 1970, int64.
        link: Link type.
        interface: Name of the interface, empty where the file has none.
    """

    data: np.ndarray
    begin: np.ndarray
    captured: np.ndarray
    size: np.ndarray
    time: np.ndarray
    link: int
    interface: str


@dataclass(slots=True)
class _Interface:
    link: int
    name: str = ""
    unit_ns: tuple[int, int] = (1000, 1)  # numerator, denominator
    offset_ns: int = 0


class CaptureFile:
    """An open capture file."""

    def __init__(self, path: Path) -> None:
        """Map it.

        Raises:
            CorruptData: It cannot be read, is empty, or is no capture file.
        """
        self._path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            reason = "the file is empty" if isinstance(error, ValueError) else f"cannot be read: {error.strerror}"
            raise CorruptData(reason, where=str(path)) from error
        magic = self._map[:4]
        if magic != _SECTION and (magic not in _PCAP or len(self._map) < 24):
            self._map.close()
            packed = next((name for beginning, name in _PACKED.items() if magic.startswith(beginning)), None)
            raise CorruptData(
                f"compressed by {packed}: unpack it first" if packed else "neither pcap nor pcapng", where=str(path), offset=0
            )  # fmt: skip
        self._data = np.frombuffer(self._map, np.uint8)
        self._magic = magic

    def blocks(self) -> Iterator[Block]:
        """All frames, those of each interface in the order of the file.

        Raises:
            CorruptData: From here on the file cannot be read; what came before is good.
        """
        return self._pcapng() if self._magic == _SECTION else self._pcap()

    def close(self) -> None:
        """Unmap it; while somebody still has a block (a traceback does), the map goes with that."""
        del self._data
        with contextlib.suppress(BufferError):
            self._map.close()

    def _bad(self, reason: str, offset: int) -> CorruptData:
        return CorruptData(reason, where=str(self._path), offset=offset)

    def _pcap(self) -> Iterator[Block]:
        order, unit = _PCAP[self._magic]
        header = struct.Struct(f"{order}IIII").unpack_from
        data, end, at = self._map, len(self._map), 24
        (network,) = struct.unpack_from(f"{order}I", data, 20)
        trouble = None
        while at < end and trouble is None:
            frames: list[int] = []
            limit = 4 * BLOCK
            while at + 16 <= end and len(frames) < limit:
                seconds, fraction, captured, size = header(data, at)
                at += 16
                if captured > MAX_FRAME or at + captured > end:
                    what = "is cut short" if captured <= MAX_FRAME else f"says that it has {captured} bytes"
                    trouble = self._bad(f"a frame {what}", at - 16)
                    break
                frames += (at, captured, size, seconds * 1_000_000_000 + fraction * unit)
                at += captured
            else:
                if at < end and len(frames) < limit:
                    trouble = self._bad("a frame's header is cut short", at)
            if frames:
                yield self._block(frames, network & 0xFFFF)
        if trouble is not None:
            raise trouble

    def _block(self, frames: list[int], link: int, name: str = "") -> Block:
        """Frames from four numbers each, one after another: where it begins, bytes captured, bytes that it had, moment."""
        begin, captured, size, time = np.ascontiguousarray(np.array(frames, np.int64).reshape(-1, 4).T)
        return Block(self._data, begin, captured, size, time, link, name)

    def _pcapng(self) -> Iterator[Block]:
        data, end, at = self._map, len(self._map), 0
        order = "<"
        interfaces: list[_Interface] = []
        waiting: dict[
            tuple[int, str], list[int]
        ] = {}  # what one link layer and name have is one block, however interfaces take turns
        count = 0
        trouble = None
        while at + 12 <= end:
            if data[at : at + 4] == _SECTION:
                order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
                interfaces = []
            kind, length = struct.unpack_from(f"{order}II", data, at)
            if length < 12 or length % 4 or at + length > end:
                trouble = self._bad("a block is cut short or has no sensible length", at)
                break
            try:
                if kind == _INTERFACE and len(interfaces) >= MAX_INTERFACES:
                    trouble = self._bad(f"it describes more than {MAX_INTERFACES} interfaces", at)
                    break
                if kind == _INTERFACE:
                    interfaces.append(self._interface(order, at, length))
                elif kind in (_ENHANCED, _SIMPLE, _PACKET):
                    number, frame = self._packet(order, kind, at, length, interfaces)
                    waiting.setdefault((interfaces[number].link, interfaces[number].name), []).extend(frame)
                    count += 1
            except (struct.error, IndexError):
                trouble = self._bad("a block contradicts itself, or names an interface that was not described", at)
                break
            at += length
            if count >= BLOCK:
                yield from self._blocks(waiting)
                waiting, count = {}, 0
        yield from self._blocks(waiting)
        if trouble is None and at < end:
            trouble = self._bad("a block is cut short", at)
        if trouble is not None:
            raise trouble

    def _blocks(self, waiting: dict[tuple[int, str], list[int]]) -> Iterator[Block]:
        for (link, name), frames in waiting.items():
            yield self._block(frames, link, name)

    def _packet(
        self, order: str, kind: int, at: int, length: int, interfaces: list[_Interface]
    ) -> tuple[int, tuple[int, int, int, int]]:
        if kind == _SIMPLE:
            (size,) = struct.unpack_from(f"{order}I", self._map, at + 8)
            if not interfaces:
                raise IndexError
            captured = min(size, length - 16)
            if not 0 <= captured <= MAX_FRAME:
                raise IndexError
            return 0, (at + 12, captured, size, 0)
        # The obsolete block of packets tells drops beside the interface's number, and is else the enhanced one.
        numbers = "HxxIIII" if kind == _PACKET else "IIIII"
        number, high, low, captured, size = struct.unpack_from(f"{order}{numbers}", self._map, at + 8)
        interface = interfaces[number]
        if captured > min(length - 32, MAX_FRAME):
            raise IndexError
        numerator, denominator = interface.unit_ns
        moment = (high << 32 | low) * numerator // denominator + interface.offset_ns
        if not 0 <= moment < _LATEST:
            raise IndexError
        return number, (at + 28, captured, size, moment)

    def _interface(self, order: str, at: int, length: int) -> _Interface:
        (link,) = struct.unpack_from(f"{order}H", self._map, at + 8)
        made = _Interface(link)
        place, end = at + 16, at + length - 4
        while place + 4 <= end:
            code, size = struct.unpack_from(f"{order}HH", self._map, place)
            value = self._map[place + 4 : place + 4 + size]
            if code == 0:
                break
            if code == _NAME:
                made.name = value.rstrip(b"\0").decode("utf-8", "replace")[:64]
            elif code == _RESOLUTION and value:
                exponent = value[0] & 0x7F
                base = 2 if value[0] & 0x80 else 10
                made.unit_ns = (1_000_000_000, base**exponent)
            elif code == _OFFSET and size == 8:
                made.offset_ns = struct.unpack(f"{order}q", value)[0] * 1_000_000_000
            place += 4 + -(-size // 4) * 4
        return made
