"""The source `ebpf`: processes of this machine, from the kernel's ring buffers.

A look takes whole spans of all rings, turns them into sections and adds what explains them: ancestors from the process table and the identity
of each cgroup. The order of looking matters: the exec ring's end is read first, so that the forks and the strings that belong to what is
seen there, which the kernel sent before, are seen as well.

Rings that another release left (`daemoneye_sensor.sources.reading`) come first, as what they are: with their epoch, and where they were read
up to. Then they go.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.events.ancestry import cgroup_pairs
from daemoneye.events.base import BASE
from daemoneye.events.codec import Section
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.registry import BY_RING
from daemoneye.events.schema import Record
from daemoneye.events.sets import isin, unique
from daemoneye_sensor import procfs, programs
from daemoneye_sensor.blobs import CGROUP, cgroup_paths, regions
from daemoneye_sensor.enrich.identities import Identities
from daemoneye_sensor.processes import ProcessTable
from daemoneye_sensor.rings import Span
from daemoneye_sensor.sources.base import Drain, Lost, Origin
from daemoneye_sensor.sources.reading import HELD, Reading

LEASE_S: Final = 60
"""How long the programs go on without a reader: a restart takes the rings over within it."""
MAX_ROWS: Final = 16_384
"""Records of one ring in one batch."""
SNAPSHOT_S: Final = 2.0
_BASE: Final = Record(0, "base", "context", "", BASE).dtype
"""The columns with which every record begins."""
_REASONS: Final = {
    "ring": "ring full",
    "lease": "no reader for longer than the lease",
    HELD: "layout changed by an upgrade",
    "blob": "chunks of long strings lost",
    "decode": "record of another size",
}


@dataclass(slots=True)
class _Counters:
    """What was counted since the start."""

    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(programs.RINGS, 0))
    malformed: int = 0
    strings_lost: int = 0
    excluded: int = 0


class EbpfSource:
    """Kernel events of this machine."""

    name = "ebpf"
    patient = False

    def __init__(
        self,
        *,
        bpf_dir: Path,
        instance: str,
        sizes: programs.RingSizes,
        events: list[str],
        identities: Identities | None = None,
    ) -> None:
        """Nothing is loaded before `open`; `identities` says whose cgroups are, in a cluster which rows are wanted, too."""
        self._bpf_dir = bpf_dir
        self._instance = instance
        self._sizes = sizes
        self._events = events
        self._programs: programs.Programs | None = None
        self._readings: deque[Reading] = deque()  # the last is our own
        self._epoll = select.epoll()
        self._table = ProcessTable()
        self._identities = Identities() if identities is None else identities
        self._counters = _Counters()
        self._told: dict[str, int] = {}

    @property
    def _kernel(self) -> programs.Programs:
        if self._programs is None:
            raise RuntimeError("the source is not open")
        return self._programs

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:
        """Take over or load the programs, read the running processes, start the flow."""
        kernel = self._programs = programs.load(self._bpf_dir, self._instance, self._sizes, lease_s=LEASE_S)
        self._readings.extend(
            Reading(rings, resume if epoch == rings.epoch else {}) for rings in [*kernel.former, kernel]
        )
        for name in ("exec", "process"):
            self._epoll.register(kernel.rings[name].fd, select.EPOLLIN | select.EPOLLET)
        self.renew_lease()
        former = list(self._readings)[:-1]
        for reading in former:
            reading.silence()
        kernel.want(self._events)
        # What happened between the two lines above is counted by the former programs as events without a reader: a few, if any.
        for reading in former:
            reading.close_accounts()
        if not kernel.taken_over:
            kernel.forget_lapsed()  # events between loading and our first promise were never ours
        self._read_running()
        return self._origin(self._readings[0])

    def _origin(self, reading: Reading) -> Origin:
        return Origin("", procfs.boot_id(), reading.rings.epoch, procfs.clock_offset_ns())

    def want(self, events: Sequence[str]) -> None:
        """Switch to other events; what the rings hold already stays."""
        before, self._events = self._events, list(events)
        if self._programs is None or before == self._events:
            return
        self._kernel.want(self._events)
        if not before:
            # Nobody told us who forked, executed and ended meanwhile.
            self._table = ProcessTable()
            self._read_running()

    def renew_lease(self) -> None:
        """Promise to read for another lease."""
        self._kernel.lease(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + LEASE_S * 1_000_000_000)

    def wake_fd(self) -> int | None:
        """Readable when a ring is half full.

        A ring counts as readable while it holds anything, which would keep the loop spinning: an epoll of our own tells the edges only.
        """
        return self._epoll.fileno()

    def drain(self) -> Drain | None:
        """Everything that the rings hold, up to MAX_ROWS executions."""
        self.renew_lease()
        self._epoll.poll(0)
        if self._readings[0].told:
            self._readings.popleft().remove()
        reading = self._readings[0]
        former = len(self._readings) > 1
        if reading.finished:
            return Drain("urgent", (), more=True) if former else None
        rings = reading.rings.rings
        executed = rings["exec"].read(MAX_ROWS, rings["exec"].produced)
        processes = rings["process"].read(4 * MAX_ROWS)
        blobs = rings["blob"].read(MAX_ROWS)
        # What was told travels with every batch: the loss batch that said it may be evicted long before a successor asks.
        positions = {"exec": executed.end, "process": processes.end, "blob": blobs.end, **self.positions()}
        chunks = blobs.records
        if len(chunks) and (chunks["kind"] == CGROUP).any():
            self._identities.learn(cgroup_paths(chunks))
        outside = np.zeros(0, np.uint64)
        if self._identities.selective:
            seen = unique(np.concatenate([_pairs(span.records) for span in (executed, processes)]))
            # Nothing was counted, consumed or remembered before this: what is held is looked at again as if for the first time.
            if self._identities.holds(seen, room=self._room()):
                return None
            outside = self._identities.excluded(seen)
        execs, lost, unclaimed = regions(PROCESS_EXEC, executed.records, chunks)
        positions["blob"] = self._hold(reading, blobs, unclaimed)
        execs = _in_time(execs)
        sections = [execs, *(_of_event(processes.records, record) for record in BY_RING["process"])]
        self._counters.malformed += executed.malformed + processes.malformed + blobs.malformed
        self._counters.strings_lost += lost
        for name, span in (("exec", executed), ("process", processes), ("blob", blobs)):
            self._counters.records[name] += len(span.records)
        kept = [_without(section, outside) for section in sections] if len(outside) else sections
        rows = sum(len(s.rows) for s in kept)
        self._counters.excluded += sum(len(s.rows) for s in sections) - rows
        context = self._table.explain(sections, kept)
        pairs = unique(np.concatenate([cgroup_pairs(s.rows) for s in (*kept, context)]))
        explained = tuple(s for s in (*kept, context, *self._identities.context(pairs)) if len(s.rows))
        return Drain("urgent", explained, positions, rows, executed.more or processes.more or blobs.more or former)

    def commit(self, drain: Drain) -> Origin | None:
        """Give the rings' space back. An empty drain says that rings which another release left are read out."""
        reading = self._readings[0]
        if drain.positions:
            for ring in programs.RINGS:
                reading.rings.advance(ring, drain.positions[ring])
            return None
        reading.over = True
        return self._origin(self._readings[1])

    def lost(self) -> list[Lost]:
        """Kernel counters and our own, as differences."""
        losses = []
        for why, ring, count in self._readings[0].lost():
            stage, where = "ring" if why == HELD else why, "" if why == "lease" else ring
            losses.append(Lost(stage, where, count, _REASONS[why]))
        for stage, ring, count in (
            ("blob", "blob", self._counters.strings_lost),
            ("decode", "", self._counters.malformed),
        ):
            if count > (before := self._told.get(stage, 0)):
                losses.append(Lost(stage, ring, count - before, _REASONS[stage]))
            self._told[stage] = count
        return losses

    def positions(self) -> dict[str, int]:
        """What of the kernel's counters was told, for batches to carry: they outlive this process, ours begin at 0."""
        return self._readings[0].positions()

    def status(self) -> dict[str, object]:
        """Counters, and how far each ring is behind."""
        kernel = self._kernel
        behind = {name: (ring.produced - ring.position) // ring.stride for name, ring in kernel.rings.items()}
        return {
            "records": dict(self._counters.records),
            "dropped": kernel.dropped(),
            "malformed": self._counters.malformed,
            "strings_lost": self._counters.strings_lost,
            "pending": behind,
            "processes": len(self._table),
            "processes_evicted": self._table.evicted,
            "cgroups": len(self._identities),
            "excluded": self._counters.excluded,
            "taken_over": kernel.taken_over,
        }

    @property
    def finished(self) -> bool:
        """Never: the kernel goes on."""
        return False

    def close(self, *, keep: bool) -> None:
        """Let go; without `keep` the programs are removed from the kernel."""
        self._epoll.close()
        if self._programs is None:
            return
        if not keep:
            self._programs.want([])
        for reading in self._readings:
            if not keep:
                reading.rings.remove()
            reading.rings.close()
        self._readings.clear()
        self._programs = None

    def _hold(self, reading: Reading, blobs: Span, unclaimed: np.ndarray) -> int:
        """Position up to which the blob ring is done with.

        Strings that were seen for the first time and that no row asked for yet belong to an execution that came after our look at its ring:
        they stay where they are and are read again, once. (Or to one that found no room there: then once is enough.)
        """
        ring = reading.rings.rings["blob"]
        fresh = max(reading.blobs_seen - ring.position, 0) // ring.stride
        reading.blobs_seen = blobs.end
        waiting = np.flatnonzero(unclaimed[fresh:])
        if not len(waiting) or blobs.malformed:
            return blobs.end
        return ring.position + (fresh + int(waiting[0])) * ring.stride

    def _room(self) -> bool:
        """Whether the rings can wait: none is more than half full."""
        return all(2 * (ring.produced - ring.position) <= ring.size for ring in self._readings[0].rings.rings.values())

    def _read_running(self) -> None:
        """Learn the processes that run already; after the flow has begun, so that one that starts in between is in both and taken once."""
        seed, cgroups = procfs.snapshot(self._kernel.running(), seconds=SNAPSHOT_S)
        self._identities.learn(cgroups)
        self._table.seed(seed)


def _pairs(records: np.ndarray) -> np.ndarray:
    """Cgroup pairs of ring records of whichever events: their columns begin alike."""
    return cgroup_pairs(records.getfield(_BASE))


def _without(section: Section, outside: np.ndarray) -> Section:
    """The section without rows of these cgroup pairs."""
    gone = isin(cgroup_pairs(section.rows), outside)
    return section.take(~gone) if gone.any() else section


def _of_event(records: np.ndarray, record: Record) -> Section:
    """Rows of one event out of a ring that several share, in order of time."""
    raw = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize)
    mine = np.ascontiguousarray(raw[records.getfield(_BASE)["event"] == record.id, : record.dtype.itemsize])
    return _in_time(Section(record, mine.view(record.dtype).reshape(-1), np.zeros(0, np.uint8)))


def _in_time(section: Section) -> Section:
    """Processors write in turns: rows of one ring are nearly in order, and are put in order here."""
    time_ns = section.rows["time"]
    if len(time_ns) < 2 or bool((time_ns[1:] >= time_ns[:-1]).all()):
        return section
    return section.take(np.argsort(time_ns, kind="stable"))
