"""From source to spool: looks at the source on a timer, makes batches, keeps them safe, and only then lets the source forget.

Order of a turn: drain → encode → spool → fdatasync → commit → tell the publisher. A crash between any two of them loses nothing that the
rings still hold and repeats nothing that the spool has: on start the newest batch in the spool says what it covers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.errors import CorruptData
from daemoneye.events.codec import Section
from daemoneye.subjects import LANES
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.base import Drain, Lost, Origin, Source
from daemoneye_sensor.spool import Spool, SpoolFull

_LOSS: Final = "loss"
_DRAINS_A_TURN: Final = 32
_BUSY_ROWS: Final = 256
"""Rows of a turn from which on the next one waits twice as long: a batch costs about 4 ms whatever is in it, so fewer of them carry a load
for less, and a ring that is half full wakes us anyway."""
_CLOCK_STEP_NS: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class Pipeline:
    """One source, one spool.

    Attributes:
        rows: Rows that were spooled since the start, by lane.
        losses: What is lost, and told in lane `loss`.
        running: Whether it turns by itself.
        turned: Moment (monotonic, s) of the last turn.
    """

    def __init__(
        self,
        source: Source,
        spool: Spool,
        settings: Settings,
        losses: Losses | None = None,
        on_durable: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Read from the spool where the predecessor stopped, and open the source there.

        `losses` outlives the pipeline where others count there, too. `on_durable` is called once a batch of live events with the seconds from
        its oldest event to its being durable.

        Raises:
            MachineError: This machine lacks what the source needs.
            CorruptData: The recording cannot be read.
        """
        self._source = source
        self._spool = spool
        self._settings = settings
        self._publisher: Publisher | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._appended = False
        self._on_durable = on_durable
        self.losses = Losses() if losses is None else losses
        self.rows = dict.fromkeys(LANES, 0)
        self.running = False
        self.turned = time.monotonic()
        self._spool_lost = 0
        self._last_loss_ns = 0
        # Of whichever lane: where all rows belong to nobody, losses are all that is ever stored of some rings.
        newest = self._last(max(LANES, key=self._place))
        resume: dict[str, int] = {}
        for about in filter(None, [self._last(lane, newest.epoch) for lane in LANES] if newest else []):
            # Positions and counters only rise: of what the lanes say, the greater is the newer.
            resume |= {key: max(place, resume.get(key, 0)) for key, place in about.positions.items()}
        self.origin = source.open(resume, newest.epoch if newest else None)
        if (
            newest
            and newest.boot_id == self.origin.boot_id
            and abs(newest.clock_offset_ns - self.origin.clock_offset_ns) < _CLOCK_STEP_NS
        ):
            # One boot, one offset: a process's start must stay the same wall time, or its key would not match in a recording.
            self.origin = replace(self.origin, clock_offset_ns=newest.clock_offset_ns)
        self._sequences: dict[tuple[str, int], int] = {}

    @property
    def events(self) -> int:
        """Event rows that were spooled since the start: all but those that tell losses."""
        return sum(self.rows.values()) - self.rows[_LOSS]

    def attach(self, publisher: Publisher) -> None:
        """The publisher that is told of new batches."""
        self._publisher = publisher

    async def run(self) -> None:
        """Turn until told to stop or the source is finished; a last turn then takes what is left."""
        loop = asyncio.get_running_loop()
        fd = self._source.wake_fd()
        if fd is not None:
            loop.add_reader(fd, self._wake.set)
        self.running = True
        try:
            while not self._stopping:
                self._wake.clear()
                before = self.events
                self.turn()
                if self._source.finished:
                    break
                busy = self.events - before >= _BUSY_ROWS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.flush_interval_s * (2 if busy else 1)):
                        await self._wake.wait()
        finally:
            self.running = False
            if fd is not None:
                loop.remove_reader(fd)
        self.turn()

    def wake(self) -> None:
        """Have the next turn at once."""
        self._wake.set()

    def stop(self) -> None:
        """Have `run` end after a last turn."""
        self._stopping = True
        self._wake.set()

    def turn(self) -> None:
        """Everything that the source has now, into the spool."""
        for _ in range(_DRAINS_A_TURN):
            if self._source.patient and self._spool.bytes_unsent > self._settings.spool_bytes // 4:
                break
            drain = self._source.drain()
            if drain is None:
                break
            oldest = self._store(drain) if drain.sections else None
            self._spool.sync()
            if oldest is not None and not self._source.patient:
                self._on_durable(max(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - oldest, 0) / 1e9)
            following = self._source.commit(drain)
            if following is not None:
                self._store_losses()  # those of what is read to its end belong to its epoch
                self.origin = replace(self.origin, epoch=following.epoch)
            if not drain.more:
                break
        self._store_losses()
        if self._appended and self._publisher:
            self._publisher.notify()
        self._appended = False
        self.turned = time.monotonic()

    def follow_clock(self) -> None:
        """Take a step of the wall clock over; slewing is left alone, so that a process's start stays one moment."""
        if self._source.patient:  # a file's times are its own
            return
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if abs(offset - self.origin.clock_offset_ns) >= _CLOCK_STEP_NS:
            _log.warning("the wall clock stepped by %.1f s", (offset - self.origin.clock_offset_ns) / 1e9)
            self.origin = replace(self.origin, clock_offset_ns=offset)

    def next_sequences(self) -> dict[str, int]:
        """Next sequence of each lane of this epoch."""
        return {lane: sequence for (lane, epoch), sequence in self._sequences.items() if epoch == self.origin.epoch}

    def status(self) -> dict[str, Any]:
        """Counters for the heartbeat."""
        return {
            "node": self.origin.node or self._settings.node,
            "events": self.events,
            "sequences": self.next_sequences(),
            "epoch": self.origin.epoch,
            "boot_id": self.origin.boot_id,
            "source": {"name": self._source.name, **self._source.status()},
            "spool": spool_status(self._spool, self._spool_lost),
        }

    def _place(self, lane: str) -> tuple[int, int]:
        """Where a lane's newest batch stands in the spool. Times would not tell which lane's is newer: they begin anew with each boot."""
        entry = self._spool.last(lane)
        return (entry.segment, entry.offset) if entry else (-1, -1)

    def _last(self, lane: str, epoch: int | None = None) -> Envelope | None:
        entry = self._spool.last(lane, epoch)
        if entry is None or not entry.payload:  # none, or evicted: then only its numbers are known
            return None
        try:
            return envelope.peek(entry.payload)
        except CorruptData as error:
            _log.warning("newest batch of lane %s in the spool cannot be read: %s", lane, error)
            return None

    def _sequence(self, lane: str, epoch: int) -> int:
        key = (lane, epoch)
        if key not in self._sequences:
            last = self._spool.last(lane, epoch)
            self._sequences[key] = last.first_sequence + last.rows if last else 0
        return self._sequences[key]

    def _store(self, drain: Drain) -> int | None:
        """Append a drain; the time of its oldest event, None if it has none or was lost."""
        times = [s.rows["time"] for s in drain.sections if not s.context and len(s.rows)]
        first, last = (min(int(t[0]) for t in times), max(int(t[-1]) for t in times)) if times else (0, 0)
        sequence = self._sequence(drain.lane, self.origin.epoch)
        try:
            self._append(
                drain.origin or self.origin, drain.lane, drain.sections, drain.rows, (first, last), drain.positions
            )
        except SpoolFull as error:
            # The disk is full of others' data: the rows are lost and counted, and the sensor goes on.
            # They keep their sequences, so that the loss names them.
            self._sequences[drain.lane, self.origin.epoch] = sequence + drain.rows
            self._spool_lost += drain.rows
            _log.warning("%s", error)
            lost = Lost("spool", "", drain.rows, "no room on the disk")
            self.losses.add(lost, drain.lane, sequence, self.origin.epoch)
            return None
        return first if times else None

    def _append(
        self,
        origin: Origin,
        lane: str,
        sections: Sequence[Section],
        rows: int,
        span: tuple[int, int],
        positions: Mapping[str, int],
    ) -> None:
        epoch = self.origin.epoch
        sequence = self._sequence(lane, epoch)
        about = Envelope(
            node=self.origin.node or self._settings.node, cluster=self._settings.cluster, boot_id=origin.boot_id, epoch=epoch, lane=lane,
            first_sequence=sequence, rows=rows, clock_offset_ns=origin.clock_offset_ns, first_time=span[0], last_time=span[1],
            source=self._source.name, positions=positions,
        )  # fmt: skip
        payload = envelope.encode(about, sections)
        self._spool.append(payload, lane=lane, epoch=epoch, first_sequence=sequence, rows=rows)
        self._sequences[lane, epoch] = sequence + rows
        self.rows[lane] += rows
        self._appended = True

    def _store_losses(self) -> None:
        """Publish what was lost since the last turn; while the disk has no room even for that, it is kept for a later one."""
        for lost in self._source.lost():
            self.losses.add(lost, lost.lane)
        for gone in self._spool.take_evicted():
            self._spool_lost += gone.rows
            self.losses.evicted(gone)
        if not self.losses:
            return
        now = time.time_ns() - self.origin.clock_offset_ns
        section = self.losses.section(self._last_loss_ns or now, now)
        try:
            self._append(self.origin, _LOSS, [section], len(section.rows), (now, now), self._source.positions())
        except SpoolFull as error:
            _log.warning("%s", error)
            return
        self._spool.sync()
        self.losses.told()
        self._last_loss_ns = now


def spool_status(spool: Spool | None, lost_rows: int) -> dict[str, int]:
    """A spool's part of the heartbeat; zeros where there is none."""
    if spool is None:
        return dict.fromkeys(("bytes", "unsent", "unsent_bytes", "lost_rows", "quarantined"), 0)
    return {
        "bytes": spool.bytes_used,
        "unsent": spool.entries_unsent,
        "unsent_bytes": spool.bytes_unsent,
        "lost_rows": lost_rows,
        "quarantined": spool.quarantined,
    }
