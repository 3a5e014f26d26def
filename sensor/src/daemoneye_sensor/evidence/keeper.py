"""What is kept: the moments before, as long as nobody asked, and from then on what requests are about.

Responsible for bounds (bytes, time, number of requests) and for arming the kernel's program, which otherwise shows of a conversation only what a parser
wants. `look` comes from whatever thread reads packets, the rest from the event loop; a lock is between them, held for the time of a copy.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from daemoneye.errors import DaemonEyeError
from daemoneye.evidence import Arm
from daemoneye_sensor.evidence.matching import Pair, decoded, matching
from daemoneye_sensor.evidence.seen import Packed, Seen, pack
from daemoneye_sensor.packets.layers import Decoder

LOOK_BACK_BYTES: Final = 8 << 20
LOOK_BACK_S: Final = 60.0
MEMORY: Final = 64 << 20
"""Bytes of all that is collected and not sent yet."""
MAX_REQUESTS: Final = 16
MAX_FRAMES: Final = 200_000
"""Frames of one request: small ones cost more than their bytes in a file."""
_LOOKS: Final = 4096
_INTERFACES: Final = 4096
"""Interfaces of which something is remembered: each pod that comes brings another one."""
_LEAST: Final = 64 << 10
# A block of pcapng has 32 bytes and a padding around each frame, and a comment of 40.
_OF_FRAME: Final = 76

_log = logging.getLogger(__name__)


class Program(Protocol):
    """What of the capture's program is needed (`daemoneye_sensor.packets.capture.CaptureProgram`). Addresses have 16 bytes."""

    def arm(self, src_ip: bytes, src_port: int, dst_ip: bytes, dst_port: int, proto: int) -> None:
        """Show every packet of a conversation."""

    def disarm(self, src_ip: bytes, src_port: int, dst_ip: bytes, dst_port: int, proto: int) -> None:
        """No more of it."""

    def arm_host(self, ip: bytes) -> None:
        """Show every packet of a host."""

    def disarm_host(self, ip: bytes) -> None:
        """No more of it."""


@dataclass(slots=True)
class Collected:
    """What was collected for one request.

    Attributes:
        pairs: What it is about.
        until: When it ends, monotonic seconds.
        parts: Frames in order of their coming.
        bytes: Bytes of frames and of what a file adds to each.
        frames: How many.
        complete: False once its budget was spent.
        names: Names of interfaces by index.
        dropped: Frames that the capture lost meanwhile, by interface's index.
    """

    request: Arm
    pairs: tuple[Pair, ...]
    until: float
    room: int
    parts: list[Packed] = field(default_factory=list)
    bytes: int = 0
    frames: int = 0
    complete: bool = True
    names: dict[int, str] = field(default_factory=dict)
    dropped: Counter[int] = field(default_factory=Counter)

    def add(self, frames: Seen, rows: np.ndarray) -> None:
        """Keep these, as far as there is room."""
        costs = np.cumsum(frames.captured[rows] + _OF_FRAME)
        fits = int(np.searchsorted(costs, self.room - self.bytes, "right"))
        fits = min(fits, MAX_FRAMES - self.frames)
        if fits < len(rows):
            self.complete = False
        if fits:
            self.parts.append(pack(frames, rows[:fits]))
            self.bytes += int(costs[fits - 1])
            self.frames += fits


class Keeper:
    """One node's look-back and requests.

    Attributes:
        refused: Requests that were not taken.
        woken: Called when there is another request, or one's budget is spent: `due_in` is another one then.
    """

    def __init__(
        self,
        *,
        look_back: int = LOOK_BACK_BYTES,
        memory: int = MEMORY,
        late: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is kept before `enable`; what the capture reads comes up to `late` seconds after it was on the wire."""
        self.refused = 0
        self.woken: Callable[[], object] = lambda: None
        self._look_back = look_back
        self._memory = memory
        self._late = late
        self._clock = clock
        self._lock = threading.Lock()
        self._decoder = Decoder()
        self._enabled = False
        self._program: Program | None = None
        self._before: deque[tuple[float, Seen]] = deque(maxlen=_LOOKS)
        self._before_bytes = 0
        self._requests: dict[str, Collected] = {}
        self._names: dict[int, str] = {}
        self._drops: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """Memory of the look-back and of what was collected."""
        return self._before_bytes + sum(one.bytes for one in self._requests.values())

    @property
    def armed(self) -> int:
        """Requests in force."""
        return len(self._requests)

    def enable(self, *, on: bool) -> None:
        """Keep a look-back from now on, or nothing any more; requests in force go on to their end."""
        with self._lock:
            self._enabled = on
            if not on:
                self._before.clear()
                self._before_bytes = 0

    def follow(self, program: Program | None) -> None:
        """The capture's program, whenever there is another; requests in force hold for it, too. None: nothing is captured."""
        with self._lock:
            self._program = program
            for one in self._requests.values():
                self._arm(one)

    def look(self, shown: Sequence[Seen], names: Mapping[int, str], drops: Mapping[int, int] | None = None) -> None:
        """Take what the capture read.

        Args:
            shown: Frames of any interfaces; kept as they are.
            names: Names of interfaces by index.
            drops: Frames that each interface's ring lost since it was opened.
        """
        now = self._clock()
        with self._lock:
            self._count(drops or {})
            _remember(self._names, names)
            _remember(self._drops, drops or {})
            for frames in shown:
                if self._requests:
                    self._collect(frames, list(self._requests.values()))
                if self._enabled and len(frames.begin):
                    self._before.append((now, frames))
                    self._before_bytes += frames.data.nbytes
            while self._before and (
                self._before_bytes > self._look_back
                or now - self._before[0][0] > LOOK_BACK_S
                or len(self._before) == _LOOKS
            ):
                self._before_bytes -= self._before.popleft()[1].data.nbytes

    def arm(self, request: Arm, pairs: tuple[Pair, ...]) -> str:
        """Keep what a request is about, from the look-back on; why not, empty if it is kept."""
        with self._lock:
            problem = self._problem(request, pairs)
            if problem:
                self.refused += 1
                return problem
            left = self._memory - sum(one.room for one in self._requests.values())
            one = Collected(request, pairs, self._clock() + request.seconds + self._late, min(request.max_bytes, left))
            for _, frames in self._before:
                self._collect(frames, [one])
            self._requests[request.finding] = one
            self._arm(one)
        self.woken()
        return ""

    def due_in(self) -> float | None:
        """Seconds until `due` gives something, None while there are no requests."""
        now = self._clock()
        with self._lock:
            ends = [one.until if one.complete else now for one in self._requests.values()]
        return max(min(ends) - now, 0.0) if ends else None

    def due(self) -> list[Collected]:
        """Those whose time is over or whose budget is spent; they are the caller's now."""
        now = self._clock()
        with self._lock:
            over = [one for one in self._requests.values() if now >= one.until or not one.complete]
            for one in over:
                del self._requests[one.request.finding]
                self._disarm(one)
                indexes = {part.ifindex for part in one.parts}
                one.names = {index: self._names.get(index, str(index)) for index in indexes}
        return over

    def _problem(self, request: Arm, pairs: tuple[Pair, ...]) -> str:
        if not self._enabled:
            return "evidence is off on this node: no policy on it asks for it"
        if self._program is None:
            return "no packets are captured on this node"
        if not pairs:
            return "it is about no conversation, and no process of its pod with a network of its own is there"
        if request.finding in self._requests:
            return "its packets are being kept already"
        if len(self._requests) >= MAX_REQUESTS:
            return f"packets of {MAX_REQUESTS} findings are being kept already"
        if sum(one.room for one in self._requests.values()) + _LEAST > self._memory:
            return "there is no memory left for it: packets of other findings are being kept"
        return ""

    def _collect(self, frames: Seen, requests: Sequence[Collected]) -> None:
        packets = decoded(self._decoder, frames)
        for one in requests:
            rows = np.unique(packets.time[matching(packets, one.pairs)].astype(np.int64)) if one.complete else ()
            if len(rows):
                one.add(frames, np.asarray(rows))
                if not one.complete:
                    self.woken()

    def _count(self, drops: Mapping[int, int]) -> None:
        for index, count in drops.items():
            more = count - self._drops.get(index, 0)
            if more > 0:
                for one in self._requests.values():
                    one.dropped[index] += more

    def _arm(self, one: Collected) -> None:
        program = self._program
        if program is None:
            return
        try:
            for pair in one.pairs:
                if pair.exact:
                    program.arm(pair.src_ip, pair.src_port, pair.dst_ip, pair.dst_port, pair.proto)
                else:
                    program.arm_host(pair.src_ip)
        except DaemonEyeError as error:
            # What the parsers want of it comes all the same.
            _log.warning("not every packet of finding %s is kept: %s", one.request.finding, error)

    def _disarm(self, one: Collected) -> None:
        program = self._program
        if program is None:
            return
        others = {pair for other in self._requests.values() for pair in other.pairs}
        for pair in set(one.pairs) - others:
            if pair.exact:
                program.disarm(pair.src_ip, pair.src_port, pair.dst_ip, pair.dst_port, pair.proto)
            elif not any(pair.src_ip == other.src_ip and not other.exact for other in others):
                program.disarm_host(pair.src_ip)


def _remember(known: dict[int, Any], news: Mapping[int, Any]) -> None:
    """Take news of interfaces over; those of which there was none for longest are forgotten."""
    for index, value in news.items():
        known.pop(index, None)
        known[index] = value
    while len(known) > _INTERFACES:
        del known[next(iter(known))]
