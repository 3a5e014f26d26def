"""The program behind every tap: counts flows in the kernel, and chooses the few packets that user space is to see.

Layouts and hashes are those of bpf/include/packets.bpf.h and bpf/programs/packets.bpf.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import struct
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np

from daemoneye_sensor import bpfsys
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets import compiling

_KEY: Final = np.dtype([
    ("src_ip", "u1", (16,)), ("dst_ip", "u1", (16,)), ("src_port", "<u2"), ("dst_port", "<u2"), ("vlan", "<u2"), ("proto", "u1"), ("pad", "u1"),
    ("ifindex", "<u4"), ("unused", "<u4"),
])  # fmt: skip
_VALUE: Final = np.dtype([
    ("packets", "<u8"), ("bytes", "<u8"), ("last", "<u8"), ("tcp_flags", "<u4"), ("unused_", "<u4"), ("first", "<u8"),
])  # fmt: skip
FLOW: Final = np.dtype(_KEY.descr + _VALUE.descr)
"""One direction of a conversation since it was drained last. Addresses are 16 bytes, IPv4 mapped. Ports are as `columns.Packets` has them: type and
code of ICMP, 0 where there are none. `packets` and `bytes` (of the IP packets, headers included) are those of the wire: a super-frame counts as its
segments. `first` and `last` are CLOCK_BOOTTIME ns."""

SWITCHES: Final = ("flows", "dns", "tls", "http", "quic", "json", "odd")
"""What may be switched off, in order of their bits: counting of flows, and the export of each protocol. `json` is JSON-RPC in the clear, as mining
pools speak it."""
_LIMITS: Final = {"follow": (0, 4096), "snaplen": (64, 262_144), "budget": (0, 0xFFFFFFFF)}
_SETTINGS: Final = struct.Struct("=IIIIIIQ")
_COUNTERS: Final = ("frames", "not_ip", "short", "malformed", "fragments", "map_full", "exported", "over_budget", "filtered")  # fmt: skip
_COUNTER_WORDS: Final = 11
_FUNCTIONS: Final = ("packets_ethernet", "packets_raw")
_MAPS: Final = ("flows", "armed", "settings", "counters", "arrivals")
_ZERO: Final = bytes(4)
_U64: Final = (1 << 64) - 1
ADDRESS: Final = 16


class CaptureProgram:
    """A loaded program and its maps. Nothing is pinned: it is gone with the process, or with `close` and the last tap.

    Its flows are keyed by interface index: interfaces of different network namespaces that have the same index need a program each.

    Attributes:
        fd: The program for interfaces with Ethernet frames.
        raw_fd: The one for interfaces with IP packets and nothing before them. Taps choose by themselves.
        filters: The capture filters, compiled: which of them take exported frames is asked of them.
        problems: What libpcap says of filters that do not compile, by their position. They match nothing, and stop nobody else.
        xdp: The programs that count what arrives at an interface, for Ethernet frames and for IP packets; none where they were not asked for.
        xdp_problem: Why the kernel does not take these.
    """

    def __init__(self, descriptors: Sequence[int], filters: compiling.Filters, xdp_problem: str = "") -> None:
        """Of descriptors of functions and maps: see `load`."""
        self._open = [*descriptors]
        self.fd, self.raw_fd, self._flows, self._armed, self._settings, self._counters, self._arrivals, *xdp = descriptors  # fmt: skip
        self.xdp, self.xdp_problem = tuple(xdp), xdp_problem
        self._elsewhere: set[int] = set()
        self.filters, self.problems = filters, filters.problems
        self._processors = bpfsys.processors()
        self._salt = secrets.randbits(64)
        self._armed_keys: set[int] = set()
        self._values = {**dict.fromkeys(SWITCHES, 1), "odd": 0, "follow": 32, "snaplen": 65_535, "budget": 0}
        self.set()

    @classmethod
    def load(
        cls,
        bpf_dir: Path,
        filters: Sequence[tuple[str, int]],
        *,
        python: str = "/usr/bin/python3",
        max_flows: int = 65_536,
        xdp: bool = False,
    ) -> Self:
        """Compile and load it; takes a few seconds.

        Args:
            bpf_dir: The folder `bpf` of this release.
            filters: (expression, snapshot length) as :mod:`daemoneye_sensor.filters` takes them, at most 64. An empty expression matches everything.
                Any of them admits a packet; without a filter everything is admitted. Flow counts and DNS do not depend on them.
            python: The distribution's Python, which has BCC.
            max_flows: Directions of conversations between two drains; more are counted as `map_full`.
            xdp: Whether programs for XDP are wanted, too. That the kernel does not take them is no error.

        Raises:
            ProgramError: The kernel, a privilege, BCC or headers are missing, or the program is refused.
            ConfigError: More than 64 filters, or together too long a program.
        """
        compiled = compiling.Filters.of(filters)
        source = compiling.text(bpf_dir, compiled)
        other = compiling.xdp_text(bpf_dir) if xdp else ""
        descriptors, refused = compiling.load(source, _FUNCTIONS, _MAPS, {"DE_MAX_FLOWS": max_flows}, python, other)
        return cls(descriptors, compiled, refused)

    def set(self, **settings: int) -> None:
        """Change settings while it runs; those that are not named stay.

        Args:
            **settings: `SWITCHES`, all on at first but `odd` (a client's first words at a well-known port that begin nothing known); `follow`: payload
                segments that are exported after one that began something (32; a super-frame is as many as it holds);
                `snaplen`: bytes of a packet of IP (65,535) that are kept with all that is before it, of a super-frame as many times that as it has
                segments; `budget`: packets a second and processor that are exported at most, 0 for any number (0); armed ones do not count.

        Raises:
            ValueError: No such setting, or out of range.
        """
        for name, value in settings.items():
            low, high = _LIMITS.get(name, (0, 1))
            if name not in self._values or not low <= value <= high:
                raise ValueError(f"{name}={value!r} is no setting of a capture program")
            self._values[name] = int(value)
        switches = sum(self._values[name] << bit for bit, name in enumerate(SWITCHES))
        others = (self._values[name] for name in ("follow", "snaplen", "budget"))
        packed = _SETTINGS.pack(switches, *others, bool(self._armed_keys), bool(self._elsewhere), self._salt)
        bpfsys.update(self._settings, _ZERO, packed)

    def leave_arrivals(self, interfaces: Collection[int]) -> None:
        """Have XDP count what arrives at these interfaces (by index), and packet sockets what leaves them alone; at all others sockets count both."""
        former, wanted = self._elsewhere, {*interfaces}
        self._elsewhere = former | wanted
        self.set()  # whether the table is asked comes first: both sides change by one entry, and nothing counts twice
        for index in former - wanted:
            bpfsys.delete(self._arrivals, struct.pack("=I", index))
        for index in wanted - former:
            bpfsys.update(self._arrivals, struct.pack("=I", index), b"\1")
        self._elsewhere = wanted
        self.set()

    def flows(self) -> np.ndarray:
        """What was counted since the last call, taken out of the map: rows of `FLOW`, of all interfaces."""
        keys, values = bpfsys.drain(self._flows, _KEY, _VALUE)
        rows = np.empty(len(keys), FLOW)
        for part in (keys, values):
            for name in part.dtype.names or ():
                rows[name] = part[name]
        return rows

    def counters(self) -> dict[str, int]:
        """Since it was loaded, over all interfaces.

        `frames` that were seen; of these `not_ip`, `short`, `malformed`, `fragments` (later ones, whose first one was not seen) are in no flow, nor are
        `map_full` (packets), which found no room. `exported` went to a ring (whether it had room, `Tap.statistics` says); `over_budget` and `filtered`
        (no filter wants them) would have.
        """
        raw = bpfsys.lookup(self._counters, _ZERO, 8 * _COUNTER_WORDS * self._processors) or b""
        sums = np.frombuffer(raw, np.uint64).reshape(-1, _COUNTER_WORDS).sum(axis=0)
        return dict(zip(_COUNTERS, sums.tolist(), strict=False))

    def arm(self, src_ip: bytes, src_port: int, dst_ip: bytes, dst_port: int, proto: int) -> None:
        """Export every packet of a conversation from now on, either way, whatever filters and budget say. Addresses have 16 bytes.

        Raises:
            ProgramError: Too many are armed (1,024).
        """
        self._arm(self._pair(src_ip, src_port, dst_ip, dst_port, proto))

    def disarm(self, src_ip: bytes, src_port: int, dst_ip: bytes, dst_port: int, proto: int) -> None:
        """No more of it; nothing happens if it was not armed."""
        self._disarm(self._pair(src_ip, src_port, dst_ip, dst_port, proto))

    def arm_host(self, ip: bytes) -> None:
        """The same as `arm` for every packet from and to an address.

        Raises:
            ProgramError: Too many are armed (1,024).
        """
        self._arm(self._host(ip))

    def disarm_host(self, ip: bytes) -> None:
        """No more of it; nothing happens if it was not armed."""
        self._disarm(self._host(ip))

    def close(self) -> None:
        """Let go of program and maps; taps that are open go on until they are closed. May be called twice."""
        while self._open:
            os.close(self._open.pop())

    def _arm(self, key: int) -> None:
        try:
            bpfsys.update(self._armed, struct.pack("=Q", key), b"\1")
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            raise ProgramError("as many conversations are armed as can be: 1,024", fix="disarm others") from error
        self._armed_keys.add(key)
        self.set()

    def _disarm(self, key: int) -> None:
        with contextlib.suppress(KeyError):
            self._armed_keys.remove(key)
            bpfsys.delete(self._armed, struct.pack("=Q", key))
            self.set()

    def _host(self, ip: bytes) -> int:
        if len(ip) != ADDRESS:
            raise ValueError(f"an address of {len(ip)} bytes: IPv4 has to be mapped")
        high, low = (int.from_bytes(half, sys.byteorder) for half in (ip[:8], ip[8:]))
        return _mix(_mix(high ^ self._salt) ^ low)

    def _pair(self, src_ip: bytes, src_port: int, dst_ip: bytes, dst_port: int, proto: int) -> int:
        """Name of a conversation, the same for both directions (`de_pair`)."""
        ends = sorted(_mix(self._host(ip) ^ port) for ip, port in ((src_ip, src_port), (dst_ip, dst_port)))
        return _mix(_mix(ends[0] ^ proto) ^ ends[1])


def _mix(x: int) -> int:
    """One number of splitmix64."""
    x = (x + 0x9E3779B97F4A7C15) & _U64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _U64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _U64
    return x ^ (x >> 31)
