"""The source `packets`: packets of this machine's interfaces, live: conversations counted by the kernel, and the messages of a few protocols.

Responsible for the order of things and for the cost; what a packet says is :mod:`daemoneye_sensor.packets`', which interfaces are open
:mod:`daemoneye_sensor.packets.taps`', what is lost :mod:`daemoneye_sensor.sources.tally`'s. About every second a turn reads what the rings hold.
Every five seconds it also takes what the kernel counted: only then, when both are here, conversations are told.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.events.codec import Section
from daemoneye.events.packet_flow import PACKET_FLOW
from daemoneye_sensor import bpfsys, procfs
from daemoneye_sensor.packets.arrivals import Arrivals
from daemoneye_sensor.packets.askers import Askers
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.governor import Governor, Level, said
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.packets.layers import Decoder
from daemoneye_sensor.packets.links import Link
from daemoneye_sensor.packets.live import Watcher, packets_from, packets_of
from daemoneye_sensor.packets.oddities import Oddities
from daemoneye_sensor.packets.taps import DEGRADED, Taps
from daemoneye_sensor.sources.base import Drain, Lost, Origin
from daemoneye_sensor.sources.batches import batches
from daemoneye_sensor.sources.tally import Tally

READ_S: Final = 0.9
"""Rings are read so often, or sooner when one fills: a read costs as much for three messages as for thirty. It is a little less than three turns."""
COUNT_S: Final = 5.0
"""What the kernel counted is taken so often."""
_ROWS: Final = 16_384
"""Rows of a batch, and frames that are read at once."""
_FEW: Final = 4
_SEGMENTS: Final = 32
"""Segments of a message that follow its first, when all is well."""
_EXPORTS: Final = ("tls", "http", "quic", "json")

_log = logging.getLogger(__name__)


class PacketSource:
    """Packets of this machine.

    Nothing of it outlives the process: there is nothing to take over, and `resume` means nothing.
    """

    name = "packets"
    patient = False

    def __init__(
        self,
        *,
        bpf_dir: Path,
        capture: Capture,
        netns: Path | None = None,
        watcher: Watcher | None = None,
        oddities: Oddities | None = None,
    ) -> None:
        """Nothing is loaded before `open`.

        Args:
            bpf_dir: Where the programs' sources lie.
            capture: What is to be captured.
            netns: Network namespace whose interfaces are meant, as a file (`/proc/1/ns/net` is the node's); None: our own.
            watcher: Who else is shown what is read.
            oddities: Who takes packets apart that nobody could read or knows.
        """
        self._bpf_dir = bpf_dir
        self._capture = capture
        self._askers = Askers(capture)
        self._netns = netns
        self._watcher = watcher
        self._program: CaptureProgram | None = None
        self._taps: Taps | None = None
        self._arrivals = Arrivals(netns)
        self._decoder = Decoder()
        self._inspector = Inspector()
        self._inspector.flows.names.clear()  # they come with their interfaces
        self._tally = Tally(self._decoder.seen, self._inspector)
        self._oddities = self._inspector.oddities = Oddities() if oddities is None else oddities
        self._apart = oddities is not None
        self._oddities.wanted = self._apart and capture.evidence
        self._governor = Governor(capture.cpu_percent)
        self._ready: deque[Drain] = deque()
        self._more = False
        self._went: list[int] = []  # numbers of interfaces whose conversations are to be told
        self._read_at = self._counted_at = float("-inf")
        self._finishing = False
        self._kernel_ns = 0
        self._rows = 0
        self._spent = 0.0

    @property
    def capture(self) -> Capture:
        """What is captured."""
        return self._capture

    @property
    def netns(self) -> int:
        """The network namespace of the interfaces (inode)."""
        return (self._netns or Path("/proc/self/ns/net")).stat().st_ino

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:  # noqa: ARG002 - nothing outlives the process
        """Load the program and begin, on whichever of the interfaces there are; takes seconds.

        Sequences go on in the epoch of the newest batch: an epoch a start would push others' out of what the spool remembers.

        Raises:
            MachineError: The program cannot be loaded, or the namespace not be looked into. An interface that is missing is no error: it may come
                (`problem`).
        """
        self._program, self._taps = self._begin(self._capture)
        self._speak(self._program)
        self._follow(self._program)
        self._counted_at = time.monotonic()
        return Origin("", procfs.boot_id(), secrets.randbits(48) if epoch is None else epoch, procfs.clock_offset_ns())

    def change(self, capture: Capture) -> None:
        """Go on with another capture; what is known of conversations stays. Takes seconds if more than its budget is another.

        Nobody may `drain` meanwhile, and what comes waits in the rings; `status` and `problem` may be asked.

        Raises:
            MachineError: Its program cannot be loaded; the former capture goes on.
        """
        former = self._capture
        alike = replace(capture, cpu_percent=former.cpu_percent, policies=former.policies, evidence=former.evidence)
        self._oddities.wanted = self._apart and capture.evidence
        if alike != former:
            self._renew(capture)
        elif capture.evidence != former.evidence and self._program is not None:
            self._speak(self._program)
        self._capture = capture
        self._askers.follow(capture)
        self._governor.percent = capture.cpu_percent

    def wake_fd(self) -> int | None:
        """None: rings are sized for turns that come anyway, and waking for each block that is full would cost more than it gives."""
        return None

    def finish(self) -> None:
        """The next look is the last: it tells whatever is known and not told yet."""
        self._finishing = True

    def drain(self) -> Drain | None:
        """What the rings hold, when it is time, as rows of lane `bulk`; every five seconds also what the kernel counted. None when that made no rows."""
        if not self._ready:
            began, now = time.thread_time(), time.monotonic()
            sections, self._more = self._look(now)
            if sections:
                self._ready.extend(self._drains(sections))
            self._govern(now, time.thread_time() - began)
        if not self._ready:
            return Drain("bulk", (), more=True) if self._more else None
        drain = self._ready.popleft()
        self._rows += drain.rows
        return replace(drain, more=self._more or bool(self._ready))

    def commit(self, drain: Drain) -> None:
        """Nothing is kept for a second look: frames are given back to the kernel when they are read."""

    def lost(self) -> list[Lost]:
        """Frames, counts and messages that were lost."""
        return self._tally.news()

    def positions(self) -> dict[str, int]:
        """None."""
        return {}

    def problem(self) -> tuple[str, str]:
        """Reason (CamelCase) and sentence why capture is not as it was asked for; both empty when it is."""
        if self._program is None or self._taps is None:
            return "", ""
        for number, words in self._program.problems.items():
            return "BadFilter", f"captureFilter {self._capture.filters[number]!r}: {words}"
        if (problem := self._taps.problem())[0] or (problem := self._arrivals.problem())[0]:
            return problem
        if self._governor.level:
            spent = f"capture costs more than {self._governor.percent:g} % of a processor"
            return DEGRADED, f"{spent}, therefore {said(self._governor.level)}"
        lost = self._tally.problem()
        return (DEGRADED, lost) if lost else ("", "")

    def status(self) -> dict[str, object]:
        """Counters since the start: each interface's (those of pods together), totals, and how far the governor stepped down."""
        flows = self._inspector.flows
        return {
            "records": {"packets": self._rows},
            "interfaces": self._interfaces(),
            "frames": self._tally.counters["frames"],
            "exported": self._tally.counters["exported"],
            "dropped": self._tally.dropped,
            "faults": dict(self._tally.faults()),
            "malformed": self._tally.malformed,
            "conversations": len(flows),
            "evicted": flows.evicted,
            "shown_again": flows.again,
            "cpu_seconds": round(self._spent, 3),
            "governor": {
                "level": int(self._governor.level),
                "name": self._governor.level.name.lower(),
                "cpu_percent": round(self._governor.used, 2),
                "budget_percent": self._governor.percent,
            },
        }

    @property
    def finished(self) -> bool:
        """Never: packets go on."""
        return False

    def close(self, *, keep: bool) -> None:  # noqa: ARG002 - there is nothing to take over
        """End; nothing stays in the kernel, whatever `keep` says."""
        self._arrivals.close()
        if self._taps is not None:
            self._taps.close()
        if self._program is not None:
            self._program.close()
            self._follow(None)
        self._taps = self._program = None

    @property
    def _open(self) -> tuple[CaptureProgram, Taps]:
        if self._program is None or self._taps is None:
            raise RuntimeError("the source is not open")
        return self._program, self._taps

    def _interfaces(self) -> dict[str, dict[str, object]]:
        """What the interfaces showed, and who counts what arrives at each."""
        if self._taps is None:
            return {}
        told = self._taps.status()
        for index, captured in list(self._taps.captured.items()):
            told.setdefault(captured.group, {})["counter"] = self._arrivals.counter(index)
        return told

    # --- one look

    def _look(self, now: float) -> tuple[list[Section], bool]:
        program, taps = self._open
        numbers = taps.numbers()
        self._went += taps.look(now)
        if not (self._more or self._went or self._finishing or now - self._read_at >= READ_S or taps.filling()):
            return [], False
        self._read_at = now
        self._arrivals.follow(program, taps.captured if self._capture.xdp else {}, now)
        numbers |= taps.numbers()
        names = self._inspector.flows.names
        names |= {captured.number: captured.link.name.encode() for captured in taps.captured.values()}
        shown, more = taps.read(_ROWS)
        if self._watcher is not None:
            captured = taps.captured.items()
            drops = {index: one.told[1] for index, one in captured}
            self._watcher.look(shown, {index: one.link.name for index, one in captured}, drops)
        sections = self._read(shown, numbers, program)
        if now - self._counted_at >= COUNT_S or self._went or self._finishing:
            self._counted_at = now
            sections += self._count(self._flows(program, taps), numbers)
            taps.account()
            self._tally.account(now, program)
            sections += [self._inspector.flows.leave(number) for number in self._went]
            self._went.clear()
            sections += self._inspector.turn(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        sections += self._oddities.rows()
        if self._finishing and not more:
            sections += self._inspector.end()
        return sections, more

    def _read(self, shown: Sequence[Frames], numbers: Mapping[int, int], program: CaptureProgram) -> list[Section]:
        """What frames say that a program exported."""
        blocks = packets_of(self._decoder, shown, numbers, program.filters)
        return [section for packets in blocks for section in self._inspector.read(packets, self._askers.by_filters)]

    def _count(self, flows: np.ndarray, numbers: Mapping[int, int]) -> list[Section]:
        """Add what the kernel counted."""
        return self._inspector.count(packets_from(flows, numbers))

    def _flows(self, program: CaptureProgram, taps: Taps) -> np.ndarray:
        """Take what the kernel counted, and count it for each interface."""
        flows = program.flows()
        for index, captured in taps.captured.items():
            mine = flows["ifindex"] == index
            counted = {name: int(flows[name][mine].sum()) for name in ("packets", "bytes")}
            self._tally.totals.setdefault(captured.group, Counter()).update(counted)
        return flows

    def _drains(self, sections: list[Section]) -> list[Drain]:
        wanted = [one for one in sections if self._capture.flows or one.record is not PACKET_FLOW]
        self._askers.mark(wanted)
        return [replace(one, sections=self._askers.named(one.sections)) for one in batches("bulk", wanted, _ROWS)]

    # --- program and cost

    def _renew(self, capture: Capture) -> None:
        """Another program and other rings take over; for so long both are there. One falls silent and the other begins within microseconds."""
        program, taps = self._open
        fresh, opened = self._begin(capture)
        program.set(flows=0, dns=0, odd=0, **dict.fromkeys(_EXPORTS, 0))
        self._capture, self._program, self._taps = capture, fresh, opened
        self._arrivals.move(fresh) if capture.xdp else self._arrivals.close()
        self._speak(fresh)
        self._follow(fresh)
        numbers = taps.numbers()
        flows = self._flows(program, taps)
        taps.close()
        self._ready.extend(self._drains([*self._read(taps.rest, numbers, program), *self._count(flows, numbers)]))
        self._tally.leave(program)
        self._went += [number for number in numbers.values() if number not in opened.numbers().values()]
        program.close()
        self._kernel_ns = 0

    def _begin(self, capture: Capture) -> tuple[CaptureProgram, Taps]:
        """A program that is silent yet, with its taps."""
        program = CaptureProgram.load(
            self._bpf_dir, [(one, capture.snaplen) for one in capture.filters], xdp=capture.xdp
        )
        try:
            program.set(flows=0, dns=0, **dict.fromkeys(_EXPORTS, 0))
            known = {} if self._taps is None else self._taps.numbers()
            taps = Taps(capture, program, self._netns, lambda link: self._number(link, known), self._tally.totals)
        except BaseException:
            program.close()
            raise
        taps.look(time.monotonic())
        known.clear()  # from now on a number may be another interface's
        return program, taps

    def _number(self, link: Link, known: Mapping[int, int]) -> int:
        """Number of an interface: its former one while the former taps have it."""
        number = known.get(link.index)
        return self._inspector.flows.join(link.name) if number is None else number

    def _follow(self, program: CaptureProgram | None) -> None:
        if self._watcher is not None:
            self._watcher.follow(program)

    def _speak(self, program: CaptureProgram) -> None:
        """Have the program count and export what the capture and the governor's level want."""
        level = self._governor.level
        self._inspector.ja3 = level < Level.NO_JA3
        self._inspector.answers = level < Level.NO_ANSWERS
        program.set(
            flows=int(self._capture.flows), dns=int(self._capture.dns), **dict.fromkeys(_EXPORTS, 1), snaplen=self._capture.snaplen,
            follow=_SEGMENTS if level < Level.FEW_SEGMENTS else _FEW, budget=0 if level < Level.FLOWS_ONLY else 1,
            odd=int(self._oddities.wanted and level < Level.FEW_SEGMENTS),
        )  # fmt: skip

    def _govern(self, now: float, spent: float) -> None:
        self._spent += spent
        if self._governor.due(now):  # asking the kernel costs as much as reading a few messages
            spent += self._in_kernel()
        if not self._governor.spend(now, spent):
            return
        level = self._governor.level
        _log.warning(
            "capturing cost %.1f %% of a processor, %.0f %% are allowed: %s",
            self._governor.used, self._governor.percent, said(level),
        )  # fmt: skip
        if self._program is not None:
            self._speak(self._program)

    def _in_kernel(self) -> float:
        """Seconds that the program took since the last call, as far as the kernel counts that (kernel.bpf_stats_enabled)."""
        if self._program is None:
            return 0.0
        fds = self._program.fd, self._program.raw_fd, *self._program.xdp
        spent = sum(int(bpfsys.fdinfo(fd).get("run_time_ns", 0)) for fd in fds)
        before, self._kernel_ns = self._kernel_ns, spent
        return max(spent - before, 0) / 1e9
