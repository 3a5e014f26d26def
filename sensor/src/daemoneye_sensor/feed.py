"""One source's way into the spool: drains it, makes batches, keeps them safe, and only then lets the source forget.

Order of a drain: encode → spool → fdatasync → commit. A crash between any two of them loses nothing that the source still holds and repeats
nothing that the spool has: on start the newest batch of the same source in the spool says what it covers.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.errors import CorruptData
from daemoneye.events.codec import Section
from daemoneye.subjects import LANES
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.base import Drain, Lost, Origin, Source
from daemoneye_sensor.spool import Spool, SpoolFull

LOSS: Final = "loss"
_DRAINS_A_TURN: Final = 32
_CLOCK_STEP_NS: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class Feed:
    """One source, and the spool that it shares with others.

    Attributes:
        source: What is drained.
        origin: Where its rows come from, now.
        rows: Rows that were spooled since the start, by lane.
        lost_rows: Rows that the spool had no room for, or had to let go.
    """

    def __init__(
        self,
        source: Source,
        spool: Spool,
        settings: Settings,
        losses: Losses,
        on_durable: Callable[[float], None] = lambda _: None,
        *,
        explain: Callable[[Drain], Drain] | None = None,
    ) -> None:
        """Read from the spool where the predecessor stopped, and open the source there.

        `on_durable` is called once a batch of live events with the seconds from its oldest event to its being durable; `explain` adds to what a
        drain holds before it is stored: what other sources know, which are looked at between this one's `look` and its `turn`.

        Raises:
            MachineError: This machine lacks what the source needs.
            CorruptData: The recording cannot be read.
        """
        self.source = source
        self._spool = spool
        self._settings = settings
        self._losses = losses
        self._on_durable = on_durable
        self._explain = explain
        self._looked: deque[Drain] = deque()  # what is to be explained
        self._appended = False
        self._last_loss_ns = 0
        self._sequences: dict[tuple[str, int], int] = {}
        self.rows = dict.fromkeys(LANES, 0)
        self.lost_rows = 0
        newest, resume = self._covered()
        self.origin = source.open(resume, newest.epoch if newest else None)
        if (
            newest
            and newest.boot_id == self.origin.boot_id
            and abs(newest.clock_offset_ns - self.origin.clock_offset_ns) < _CLOCK_STEP_NS
        ):
            # One boot, one offset: a process's start must stay the same wall time, or its key would not match in a recording.
            self.origin = replace(self.origin, clock_offset_ns=newest.clock_offset_ns)

    @property
    def events(self) -> int:
        """Event rows that were spooled since the start: all but those that tell losses."""
        return sum(self.rows.values()) - self.rows[LOSS]

    def look(self) -> None:
        """Take from a source whose rows are explained by others what it has now: whoever is behind them is known when the others were looked at."""
        while self._explain is not None and len(self._looked) < _DRAINS_A_TURN:
            drained = self.source.drain()
            if drained is not None:
                self._looked.append(drained)
            if drained is None or not drained.more:
                break

    def turn(self) -> bool:
        """Everything that the source has now, or had at the last `look`, into the spool; whether anything came there."""
        self._appended = False
        source = self.source
        for drained in self._drains():
            drain = drained if self._explain is None else self._explain(drained)
            oldest = self._store(drain) if drain.sections else None
            self._spool.sync()
            if oldest is not None and not source.patient:
                self._on_durable(max(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - oldest, 0) / 1e9)
            following = source.commit(drained)
            if following is not None:
                self._store_losses()  # those of what is read to its end belong to its epoch
                self.origin = replace(self.origin, epoch=following.epoch)
        self._store_losses()
        return self._appended

    def follow_clock(self) -> None:
        """Take a step of the wall clock over; slewing is left alone, so that a process's start stays one moment."""
        if self.source.patient:  # a file's times are its own
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
        return {"name": self.source.name, "epoch": self.origin.epoch, **self.source.status()}

    def _drains(self) -> Iterator[Drain]:
        """What a turn stores; the next one is taken when the one before is committed."""
        while self._looked:
            yield self._looked.popleft()
        for _ in range(_DRAINS_A_TURN if self._explain is None else 0):
            if self.source.patient and self._spool.bytes_unsent > self._settings.spool_bytes // 4:
                return
            drained = self.source.drain()
            if drained is None:
                return
            yield drained
            if not drained.more:
                return

    def _covered(self) -> tuple[Envelope | None, dict[str, int]]:
        """The newest batch of this source that the spool holds, and what the batches of its epoch cover."""
        kept = [entry for lane, epoch in self._spool.noted() if (entry := self._spool.last(lane, epoch)) is not None]
        # Times would not tell which lane's is newer: they begin anew with each boot.
        kept.sort(key=lambda entry: (entry.segment, entry.offset))
        abouts = [about for entry in kept if (about := _peek(entry.payload)) and about.source == self.source.name]
        if not abouts:
            return None, {}
        newest = abouts[-1]
        resume: dict[str, int] = {}
        # Of whichever lane: where all rows belong to nobody, losses are all that is ever stored of some rings.
        for about in abouts:
            if about.epoch == newest.epoch:
                # Positions and counters only rise: of what the lanes say, the greater is the newer.
                resume |= {key: max(place, resume.get(key, 0)) for key, place in about.positions.items()}
        return newest, resume

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
            self.lost_rows += drain.rows
            _log.warning("%s", error)
            lost = Lost("spool", "", drain.rows, "no room on the disk")
            self._losses.add(lost, drain.lane, sequence, self.origin.epoch)
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
            source=self.source.name, positions=positions,
        )  # fmt: skip
        payload = envelope.encode(about, sections)
        self._spool.append(payload, lane=lane, epoch=epoch, first_sequence=sequence, rows=rows)
        self._sequences[lane, epoch] = sequence + rows
        self.rows[lane] += rows
        self._appended = True

    def _store_losses(self) -> None:
        """Publish what was lost since the last turn; while the disk has no room even for that, it is kept for a later one."""
        for lost in self.source.lost():
            self._losses.add(lost, lost.lane)
        for gone in self._spool.take_evicted():
            self.lost_rows += gone.rows
            self._losses.evicted(gone)
        if not self._losses:
            return
        now = time.time_ns() - self.origin.clock_offset_ns
        section = self._losses.section(self._last_loss_ns or now, now)
        try:
            self._append(self.origin, LOSS, [section], len(section.rows), (now, now), self.source.positions())
        except SpoolFull as error:
            _log.warning("%s", error)
            return
        self._spool.sync()
        self._losses.told()
        self._last_loss_ns = now


def _peek(payload: bytes | memoryview) -> Envelope | None:
    """What a batch says of itself; None of one that was evicted (then only its numbers are known) or is damaged."""
    if not payload:
        return None
    try:
        return envelope.peek(payload)
    except CorruptData as error:
        _log.warning("a batch in the spool cannot be read: %s", error)
        return None
