"""One interface's packets: an AF_PACKET socket whose ring the kernel fills with what the capture program exports.

The ring is TPACKET_V3's (Documentation/networking/packet_mmap.rst): blocks that the kernel hands over when they are full or 250 ms old. A block's
frames are a chain, which is walked in Python, one step an exported packet; everything else is columns.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye_sensor.errors import BAD_PROGRAM, MISSING_FEATURE, ProgramError
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.namespace import within

_SOL_PACKET, _SO_ATTACH_BPF = 263, 50
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 1, 5, 6, 10, 23
_V3, _PROMISCUOUS, _ALL = 2, 1, 3
_BLOCK_MS: Final = 250
_BLOCK: Final = 1 << 18
_LEAST_BLOCKS: Final = 4
_RUN: Final = 1 << 20
"""Bytes of blocks that are given back at once. Evidence keeps runs whole and forgets them whole, so several must fit into its look-back."""

_LOOPBACK: Final = 772
_ETHERNET, _IP = 1, 101
# ARPHRD_* of linux/if_arp.h. On Linux, PPP's frames reach a packet socket without their header.
_LINKS: Final = {1: _ETHERNET, _LOOPBACK: _ETHERNET, **dict.fromkeys((512, 519, 65534, 768, 769, 776, 778, 823), _IP)}

# struct tpacket_block_desc: status, frames, offset of the first one, bytes in use.
_DESCRIPTION: Final = struct.Struct("=8xIIII")
_STATUS_AT: Final = 8
_TO_USER: Final = 1
_FRAME: Final = np.dtype({
    "names": ["seconds", "nanoseconds", "captured", "size", "status", "mac", "tci", "tpid", "kind"],
    "formats": ["u4", "u4", "u4", "u4", "u4", "u2", "u4", "u2", "u1"],
    "offsets": [4, 8, 12, 16, 20, 24, 32, 36, 58],
    "itemsize": 68,
})  # fmt: skip
"""struct tpacket3_hdr and the sockaddr_ll behind it."""
_NEXT: Final = struct.Struct("=I")
_TAGGED, _TYPED = 0x10, 0x40
_TAG: Final = 4
_ADDRESSES: Final = 12
"""Bytes of an Ethernet frame before its EtherType, or tag."""
_VLAN: Final = 0x8100

_NO_INTERFACE, _DEGRADED = "NoSuchInterface", "CaptureDegraded"


class Tap:
    """A ring of one interface. Traffic passes it as if it were not there, and with the process it is gone.

    Attributes:
        fd: Becomes readable when a block of the ring is ready (at most 250 ms after its first frame).
        link: Link type of its frames.
        interface: Its name.
        ifindex: Its index, which flows of the program are keyed by.
        ring_bytes: Size of the ring.
    """

    def __init__(
        self,
        interface_name: str,
        ifindex: int,
        program: CaptureProgram,
        *,
        ring_bytes: int,
        promiscuous: bool,
        netns: Path | None = None,
    ) -> None:
        """Begin to capture.

        Args:
            interface_name: The interface.
            ifindex: Its index, as whoever chose it read it: another interface of that name is not opened.
            program: What counts flows and chooses what is exported. Several taps may share one, if their indexes differ.
            ring_bytes: Size of the ring; rounded up to whole blocks.
            promiscuous: Whether frames for other hosts are wanted. It ends with the socket.
            netns: Path of the network namespace that the interface is in (as /proc/PID/ns/net); None: our own.

        Raises:
            ProgramError: No such interface or namespace, a link layer that cannot be read, no permission, no memory for the ring.
        """
        self.interface, self.ifindex = interface_name, ifindex
        self._accounted = (0, 0, 0)
        self._socket = self._opened(netns)
        try:
            self.link = self._link()
            self._block, self._blocks = _shape(ring_bytes)
            self.ring_bytes = self._block * self._blocks
            self._attach(program, promiscuous=promiscuous)
            ring = self._ring()
        except BaseException:
            self._socket.close()
            raise
        self._map: mmap.mmap | None = ring
        self._data = np.frombuffer(ring, np.uint8)
        self._at = 0
        self.fd = self._socket.fileno()
        self._bind()

    def blocks(self) -> Iterator[Frames]:
        """What is ready now, oldest first; never waits, raises nothing when the interface is gone.

        What is yielded is the caller's already: whoever stops early loses nothing.
        """
        while (ring := self._map) is not None:
            parts: list[np.ndarray] = []
            firsts: list[tuple[int, int]] = []
            begins: list[int] = []
            size = 0
            while size < _RUN and len(parts) < self._blocks:
                status, count, first, used = _DESCRIPTION.unpack_from(ring, self._at)
                if not status & _TO_USER:
                    break
                firsts.append((size + first, count))
                begins.append(self._at)
                parts.append(self._data[self._at : self._at + used])
                size += used
                self._at = (self._at + self._block) % self.ring_bytes
            if not parts:
                return
            data = np.concatenate(parts)
            for begin in begins:  # they are the kernel's again
                _NEXT.pack_into(ring, begin + _STATUS_AT, 0)
            yield self._frames(data, firsts)

    def filling(self) -> bool:
        """Whether a quarter of the ring waits to be read, of a small one two blocks."""
        if self._map is None:
            return False
        last = (self._at + (max(self._blocks // 4, 2) - 1) * self._block) % self.ring_bytes
        return bool(_DESCRIPTION.unpack_from(self._map, last)[0] & _TO_USER)

    def statistics(self) -> tuple[int, int, int]:
        """(packets, drops, freezes) since the beginning: exported packets, those of them that found no room in the ring, how often it was full."""
        if self._map is not None:
            raw = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)  # the kernel forgets them when they are read
            packets, drops, freezes = (a + b for a, b in zip(self._accounted, struct.unpack("=3I", raw), strict=True))
            self._accounted = packets, drops, freezes
        return self._accounted

    @property
    def alive(self) -> bool:
        """Whether the interface is still there. One that is only down is, and goes on by itself when it is up again."""
        if self._map is None:
            return False
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # ENETDOWN would keep `fd` readable
        return bool(self._socket.getsockname()[0])  # it is bound to an index; of one that is gone there is no name

    def close(self) -> None:
        """End; may be called twice."""
        if self._map is not None:
            self.statistics()
            ring, self._map = self._map, None
            del self._data
            with contextlib.suppress(BufferError):  # somebody is in the middle of `blocks`: it goes with that
                ring.close()
            self._socket.close()

    # --- opening

    def _opened(self, netns: Path | None) -> socket.socket:
        """A packet socket that receives nothing yet, of the right network namespace."""
        try:
            return within(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        except PermissionError as error:
            raise self._error(
                "it is not permitted", "give the process CAP_NET_RAW (and CAP_SYS_ADMIN for another network namespace)"
            ) from error
        except OSError as error:
            where = "the socket cannot be made" if netns is None else f"the network namespace {netns} cannot be entered"
            raise self._error(f"{where}: {error.strerror}", "") from error

    def _link(self) -> int:
        """Link type, asked by the interface's name and held against its index."""
        try:
            self._socket.bind((self.interface, 0))  # to no protocol: still nothing is received
            kind = self._socket.getsockname()[3]
            index = self._index()
        except OSError as error:
            raise self._error("there is no such interface", "see `ip link`", _NO_INTERFACE) from error
        if index != self.ifindex:
            raise self._error(
                f"it is another interface now (index {index}, not {self.ifindex})", "look again", _NO_INTERFACE
            )
        link = _LINKS.get(kind)
        if link is None:
            raise self._error(
                f"its link layer cannot be read (ARPHRD {kind})", "choose an interface with Ethernet or IP"
            )
        if kind == _LOOPBACK:  # whatever is sent comes in again
            self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        return link

    def _index(self) -> int:
        """Index of the interface that has our name, in the socket's namespace."""
        request = struct.pack("16si20x", self.interface.encode()[:15], 0)
        return int(struct.unpack_from("i", fcntl.ioctl(self._socket, 0x8933, request), 16)[0])  # SIOCGIFINDEX

    def _attach(self, program: CaptureProgram, *, promiscuous: bool) -> None:
        fd = program.fd if self.link == _ETHERNET else program.raw_fd
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, struct.pack("i", fd))
        except OSError as error:
            raise self._error(f"the program cannot be attached: {error.strerror}", "", BAD_PROGRAM) from error
        if promiscuous:
            member = struct.pack("iHH8x", self.ifindex, _PROMISCUOUS, 0)
            try:
                self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
            except OSError as error:
                msg = f"promiscuous mode is refused: {error.strerror}"
                raise self._error(msg, "capture without it, or allow it on the host of this machine") from error

    def _ring(self) -> mmap.mmap:
        available = _available()
        if self.ring_bytes > available:
            msg = f"a ring of {self.ring_bytes >> 20} MiB does not fit into memory, of which {available >> 20} MiB may be used"
            raise self._error(msg, "make bufferSizeMb smaller", _DEGRADED)
        frame = 1 << 11
        try:
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _V3)
            shape = (self._block, self._blocks, frame, self._block // frame * self._blocks, _BLOCK_MS, 0, 0)
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("=7I", *shape))
            return mmap.mmap(self._socket.fileno(), self.ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOMEM, errno.EINVAL):
                raise self._error(f"its ring cannot be made: {error.strerror}", "") from error
            msg = f"the kernel has no memory for a ring of {self.ring_bytes >> 20} MiB"
            raise self._error(msg, "make bufferSizeMb smaller", _DEGRADED) from error

    def _bind(self) -> None:
        """Begin to receive."""
        try:
            self._socket.bind((self.interface, _ALL))
        except OSError as error:
            self.close()
            raise self._error("there is no such interface", "see `ip link`", _NO_INTERFACE) from error

    def _error(self, what: str, fix: str, reason: str = MISSING_FEATURE) -> ProgramError:
        return ProgramError(f"packets of {self.interface!r} cannot be captured: {what}", fix=fix, reason=reason)

    # --- reading

    def _frames(self, data: np.ndarray, firsts: list[tuple[int, int]]) -> Frames:
        places: list[int] = []
        raw = data.data
        for first, count in firsts:
            at = first
            for _ in range(count):
                places.append(at)
                at += _NEXT.unpack_from(raw, at)[0]
        place = np.array(places, np.int64)
        heads = np.ascontiguousarray(data[place[:, None] + np.arange(_FRAME.itemsize)]).view(_FRAME).reshape(-1)
        offset = time.time_ns() - (now := time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        moment = heads["seconds"].astype(np.int64) * 1_000_000_000 + heads["nanoseconds"] - offset
        begin, captured, size = place + heads["mac"], heads["captured"].astype(np.int64), heads["size"].astype(np.int64)
        tagged = np.flatnonzero((heads["status"] & _TAGGED != 0) & (captured >= _ADDRESSES) & (self.link == _ETHERNET))
        vlan = np.zeros(len(place), np.uint16)
        if len(tagged):
            vlan[tagged] = heads["tci"][tagged] & 0xFFF
            _put_back(data, begin[tagged], heads[tagged])
            begin[tagged] -= _TAG
            captured[tagged] += _TAG
            size[tagged] += _TAG
        moment = np.clip(moment, 0, now).astype(np.uint64)
        return Frames(data, begin, captured, size, moment, vlan, heads["kind"], self.link, self.ifindex)


def _put_back(data: np.ndarray, begin: np.ndarray, heads: np.ndarray) -> None:
    """Write the tags of these frames where they were; the kernel leaves room before a frame."""
    before = np.arange(_ADDRESSES)
    addresses = data[begin[:, None] + before]
    data[begin[:, None] - _TAG + before] = addresses
    tpid = np.where(heads["status"] & _TYPED, heads["tpid"], _VLAN)
    tag = np.stack([tpid >> 8, tpid & 0xFF, heads["tci"] >> 8 & 0xFF, heads["tci"] & 0xFF], axis=1)
    data[begin[:, None] - _TAG + _ADDRESSES + np.arange(_TAG)] = tag.astype(np.uint8)


def _shape(ring_bytes: int) -> tuple[int, int]:
    """Size and number of blocks. A frame that is longer than a block is cut."""
    block = min(_BLOCK, 1 << max((ring_bytes // _LEAST_BLOCKS).bit_length() - 1, 0))
    block = max(block, mmap.PAGESIZE)
    return block, max(-(-ring_bytes // block), _LEAST_BLOCKS)


def _available() -> int:
    """Half of what /proc/meminfo says is to be had: the other half is for those whom we watch."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // 2
    return 1 << 62
