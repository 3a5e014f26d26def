"""From source to spool: looks at the source on a timer, makes batches, keeps them safe, and only then lets the source forget.

Order of a turn: drain → encode → spool → fdatasync → commit → tell the publisher. A crash between any two of them loses nothing that the
rings still hold and repeats nothing that the spool has: on start the newest batch in the spool says what it covers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.errors import CorruptData
from daemoneye.events.codec import Section, section_of
from daemoneye.events.loss import LOSS
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.base import Drain, Lost, Origin, Source
from daemoneye_sensor.spool import Entry, Spool, SpoolFull

_NO_SEQUENCE: Final = np.iinfo(np.uint64).max
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
        events: Event rows that were spooled since the start.
    """

    def __init__(self, source: Source, spool: Spool, settings: Settings) -> None:
        """Read from the spool where the predecessor stopped, and open the source there.

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
        self._losses: list[_Loss] = []
        self.events = 0
        self._spool_lost = 0
        self._last_loss_ns = 0
        lane = max(
            (last for lane in ("urgent", "bulk", "rollup") if (last := self._last(lane))),
            key=lambda e: e.last_time,
            default=None,
        )
        resume = dict(lane.positions) if lane else {}
        epoch = lane.epoch if lane else None
        if epoch is not None and (losses := self._last(_LOSS, epoch)):
            # Counters only rise: of what both lanes say was told, the greater is the newer.
            resume |= {key: max(told, resume.get(key, 0)) for key, told in losses.positions.items()}
        self.origin = source.open(resume, epoch)
        if (
            lane
            and lane.boot_id == self.origin.boot_id
            and abs(lane.clock_offset_ns - self.origin.clock_offset_ns) < _CLOCK_STEP_NS
        ):
            # One boot, one offset: a process's start must stay the same wall time, or its key would not match in a recording.
            self.origin = replace(self.origin, clock_offset_ns=lane.clock_offset_ns)
        self._sequences: dict[tuple[str, int], int] = {}

    def attach(self, publisher: Publisher) -> None:
        """The publisher that is told of new batches."""
        self._publisher = publisher

    async def run(self) -> None:
        """Turn until told to stop or the source is finished; a last turn then takes what is left."""
        loop = asyncio.get_running_loop()
        fd = self._source.wake_fd()
        if fd is not None:
            loop.add_reader(fd, self._wake.set)
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
            if drain.sections:
                self._store(drain)
            self._spool.sync()
            self._source.commit(drain)
            if not drain.more:
                break
        self._store_losses()
        if self._appended and self._publisher:
            self._publisher.notify()
        self._appended = False

    def follow_clock(self) -> None:
        """Take a step of the wall clock over; slewing is left alone, so that a process's start stays one moment."""
        if self._settings.source == "replay":
            return
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if abs(offset - self.origin.clock_offset_ns) >= _CLOCK_STEP_NS:
            _log.warning("the wall clock stepped by %.1f s", (offset - self.origin.clock_offset_ns) / 1e9)
            self.origin = replace(self.origin, clock_offset_ns=offset)

    def refused(self, entry: Entry, reason: str) -> None:
        """The broker will never take a batch: its rows are lost at the stage `publish`. A refused loss batch only leaves a log line."""
        _log.warning("batch %s/%d refused: %s", entry.lane, entry.first_sequence, reason)
        if entry.lane != _LOSS:
            self._losses.append(
                _Loss(Lost("publish", "", entry.rows, reason), entry.lane, entry.first_sequence, entry.epoch)
            )

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

    def _store(self, drain: Drain) -> None:
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
            self._losses.append(
                _Loss(Lost("spool", "", drain.rows, "no room on the disk"), drain.lane, sequence, self.origin.epoch)
            )
            return
        self.events += drain.rows

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
        self._appended = True

    def _store_losses(self) -> None:
        """Publish what was lost since the last turn; while the disk has no room even for that, it is kept for a later one."""
        self._losses += [_Loss(lost, "urgent") for lost in self._source.lost()]
        for gone in self._spool.take_evicted():
            self._spool_lost += gone.rows
            if gone.lane != _LOSS:
                self._losses.append(
                    _Loss(
                        Lost("spool", "", gone.rows, "evicted before it was sent"),
                        gone.lane,
                        gone.first_sequence,
                        gone.epoch,
                    )
                )
        if not self._losses:
            return
        now, losses = time.time_ns() - self.origin.clock_offset_ns, self._losses
        n = len(losses)
        values: dict[str, object] = {
            "time": [now] * n, "since": [self._last_loss_ns or now] * n, "count": [loss.lost.count for loss in losses],
            "first_sequence": np.array([loss.first_sequence for loss in losses], np.uint64), "epoch": [loss.epoch for loss in losses],
            "stage": [loss.lost.stage.encode() for loss in losses], "lane": [loss.lane.encode() for loss in losses],
            "ring": [loss.lost.ring.encode() for loss in losses], "reason": [loss.lost.reason.encode() for loss in losses],
        }  # fmt: skip
        try:
            self._append(self.origin, _LOSS, [section_of(LOSS, values, n)], n, (now, now), self._source.positions())
        except SpoolFull as error:
            _log.warning("%s", error)
            return
        self._spool.sync()
        self._losses = []
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


@dataclass(frozen=True, slots=True)
class _Loss:
    """A loss, and whose it is; without a first sequence the records had none yet."""

    lost: Lost
    lane: str
    first_sequence: int = _NO_SEQUENCE
    epoch: int = 0
