"""The source `ebpf`: processes and sockets of this machine, from the kernel's ring buffers.

A look takes whole spans of all rings, turns them into sections and adds what explains them: ancestors from the process table and the identity
of each cgroup. The order of looking matters: the exec ring's end is read first, so that the forks and the strings that belong to what is
seen there, which the kernel sent before, are seen as well; before it the socket ring's, so that the process of every socket is. A look gives
two drains: processes, and then what their sockets did, which is explained by the same images, also those of processes that ended meanwhile.

Rings that another release left (`daemoneye_sensor.sources.reading`) come first, as what they are: with their epoch, and where they were read
up to. Then they go.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.events.ancestry import Images, cgroup_pairs
from daemoneye.events.base import BASE
from daemoneye.events.codec import Section, concatenate
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.registry import BY_RING
from daemoneye.events.schema import Record
from daemoneye.events.sets import isin, unique
from daemoneye.events.socket_close import SOCKET_CLOSE
from daemoneye_sensor import procfs, programs
from daemoneye_sensor.blobs import CGROUP, cgroup_paths, regions
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.opensockets import OpenSockets
from daemoneye_sensor.pinned import RINGS
from daemoneye_sensor.processes import context
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
    "table": "table of open sockets full",
    HELD: "layout changed by an upgrade",
    "blob": "chunks of long strings lost",
    "decode": "record of another size",
}
_NO_UIDS: Final = np.zeros(0, np.uint64)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counters:
    """What was counted since the start."""

    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RINGS, 0))
    malformed: dict[str, int] = field(default_factory=lambda: {"urgent": 0, "bulk": 0})
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
        explainer: Explainer | None = None,
    ) -> None:
        """Nothing is loaded before `open`; `explainer` learns what happens, and says whose cgroups are, in a cluster which rows are wanted, too."""
        self._bpf_dir = bpf_dir
        self._instance = instance
        self._sizes = sizes
        self._events = events
        self._programs: programs.Programs | None = None
        self._readings: deque[Reading] = deque()  # the last is our own
        self._epoll = select.epoll()
        self._explainer = Explainer() if explainer is None else explainer
        self._sockets: OpenSockets | None = None
        self._seen: Drain | None = None  # what the newest look saw of sockets,
        self._following: Drain | None = None  # when what it saw of processes is safe
        self._identities = self._explainer.identities
        self._counters = _Counters()
        self._told: dict[tuple[str, str], int] = {}

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
        for name in ("exec", "process", "socket"):
            self._epoll.register(kernel.rings[name].fd, select.EPOLLIN | select.EPOLLET)
        for name, reason in kernel.missing.items():
            _log.warning("sockets are not seen in full: %s: %s", name, reason)
        self._follow_sockets()
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

    @property
    def _ended(self) -> np.ndarray:
        """Rows of UDP sockets that fell silent, which are to be told."""
        return self._sockets.ended if self._sockets is not None else np.zeros(0, SOCKET_CLOSE.dtype)

    @property
    def missing(self) -> dict[str, str]:
        """Programs about sockets that do not run, with the reason."""
        return dict(self._programs.missing) if self._programs is not None else {}

    def _origin(self, reading: Reading) -> Origin:
        return Origin("", procfs.boot_id(), reading.rings.epoch, procfs.clock_offset_ns())

    def want(self, events: Sequence[str]) -> None:
        """Switch to other events; what the rings hold already stays."""
        before, self._events = self._events, list(events)
        if self._programs is None or before == self._events:
            return
        self._follow_sockets()
        self._kernel.want(self._events)
        self._follow_sockets()
        if not before:
            # Nobody told us who forked, executed and ended meanwhile.
            self._explainer.forget()
            self._read_running()

    def renew_lease(self) -> None:
        """Promise to read for another lease."""
        if not self._kernel.leased:
            self._follow_sockets()
        self._kernel.lease(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + LEASE_S * 1_000_000_000)

    def _follow_sockets(self) -> None:
        """Go on with the open sockets that the kernel knows if it followed them up to now, else anew: what it knew may be another's by now."""
        if not self._kernel.follows_sockets:
            self._kernel.forget_sockets()
            self._explainer.owners.forget()
            self._explainer.table.hold(_NO_UIDS, only=True)
            self._sockets = None
        self._sockets = self._sockets or OpenSockets(self._kernel.sockets)

    def wake_fd(self) -> int | None:
        """Readable when a ring is half full.

        A ring counts as readable while it holds anything, which would keep the loop spinning: an epoll of our own tells the edges only.
        """
        return self._epoll.fileno()

    def drain(self) -> Drain | None:
        """Everything that the rings hold, up to MAX_ROWS executions: processes, and at the next call their sockets."""
        self.renew_lease()
        self._epoll.poll(0)
        if self._following is not None:
            return self._following
        if self._readings[0].told:
            self._readings.popleft().remove()
        reading = self._readings[0]
        former = len(self._readings) > 1
        if not former:
            self._look_at_open_sockets()
        if reading.finished and (former or not len(self._ended)):
            return Drain("urgent", (), more=True) if former else None
        rings = reading.rings.rings
        until = rings["socket"].produced if "socket" in rings else 0
        begun = {name: rings[name].produced for name in ("exec", "process")}
        executed = rings["exec"].read(MAX_ROWS, begun["exec"])
        processes = rings["process"].read(4 * MAX_ROWS, begun["process"])
        # While not all processes are in this look, their sockets wait for the next.
        looks = (("exec", executed), ("process", processes))
        whole = all(look.end + rings[name].stride > begun[name] for name, look in looks)
        sockets = rings["socket"].read(4 * MAX_ROWS if whole else 0, until) if "socket" in rings else None
        blobs = rings["blob"].read(MAX_ROWS)
        # What was told travels with every batch: the loss batch that said it may be evicted long before a successor asks.
        told = self.positions()
        positions = {"exec": executed.end, "process": processes.end, "blob": blobs.end, **told}
        chunks = blobs.records
        if len(chunks) and (chunks["kind"] == CGROUP).any():
            self._identities.learn(cgroup_paths(chunks))
        # Owners are learned also where rows are held: packets do not wait for them.
        of_sockets = [_of_event(sockets.records, record) for record in BY_RING["socket"]] if sockets else []
        self._explainer.owners.learn(of_sockets)
        outside = np.zeros(0, np.uint64)
        if self._identities.selective:
            spans = [executed, processes, *([sockets] if sockets else [])]
            seen = unique(np.concatenate([*(_pairs(span.records) for span in spans), cgroup_pairs(self._ended)]))
            # Nothing was counted, consumed or remembered before this: what is held is looked at again as if for the first time.
            if self._identities.holds(seen, room=reading.roomy):
                return None
            outside = self._identities.excluded(seen)
        execs, lost, unclaimed = regions(PROCESS_EXEC, executed.records, chunks)
        positions["blob"] = reading.done_with(blobs, unclaimed)
        execs = _in_time(execs)
        sections = [execs, *(_of_event(processes.records, record) for record in BY_RING["process"])]
        self._counters.malformed["urgent"] += executed.malformed + processes.malformed + blobs.malformed
        self._counters.strings_lost += lost
        for name, span in (("exec", executed), ("process", processes), ("blob", blobs)):
            self._counters.records[name] += len(span.records)
        of_sockets = self._counted(sockets, of_sockets)
        self._explainer.table.hold(np.concatenate([_NO_UIDS, *(section.rows["process_uid"] for section in of_sockets)]))
        images = self._explainer.table.merge(sections)
        drain = self._drain(
            "urgent", sections, images, outside, positions, more=executed.more or processes.more or blobs.more or former
        )
        self._seen = None
        if sockets is None:
            return drain
        ends = {"socket": sockets.end, **told}
        bulk = self._drain("bulk", of_sockets, images, outside, ends, more=drain.more or sockets.more)
        if not drain.rows or not bulk.rows:  # one says it all
            return replace(drain if drain.rows else bulk, positions={**positions, **ends}, more=bulk.more)
        self._seen = bulk
        return replace(drain, more=True)

    def _counted(self, span: Span | None, sections: list[Section]) -> list[Section]:
        """What a look saw of sockets, counted, and with it the sockets of UDP that fell silent."""
        if span is None:
            return []
        silent = Section(SOCKET_CLOSE, self._ended, np.zeros(0, np.uint8))
        self._counters.malformed["bulk"] += span.malformed
        self._counters.records["socket"] += len(span.records)
        return [
            _in_time(concatenate([s, silent])) if s.record is SOCKET_CLOSE and len(silent.rows) else s for s in sections
        ]

    def _drain(
        self,
        lane: str,
        sections: list[Section],
        images: Images,
        outside: np.ndarray,
        positions: Mapping[str, int],
        *,
        more: bool,
    ) -> Drain:
        """One lane's drain: its rows that belong to somebody, and what explains them."""
        kept = [_without(section, outside) for section in sections] if len(outside) else sections
        rows = sum(len(s.rows) for s in kept)
        self._counters.excluded += sum(len(s.rows) for s in sections) - rows
        if not rows:
            return Drain(lane, (), positions, 0, more)
        explaining = context(images, kept)
        pairs = unique(np.concatenate([cgroup_pairs(s.rows) for s in (*kept, explaining)]))
        explained = tuple(s for s in (*kept, explaining, *self._identities.context(pairs)) if len(s.rows))
        return Drain(lane, explained, positions, rows, more)

    def commit(self, drain: Drain) -> Origin | None:
        """Give the rings' space back. An empty drain says that rings which another release left are read out."""
        reading = self._readings[0]
        if drain.positions:
            for ring in set(drain.positions).intersection(reading.rings.rings):
                reading.rings.advance(ring, drain.positions[ring])
            if self._sockets is not None and "socket" in drain.positions:
                self._sockets.forget()
            self._following = self._seen if drain.lane == "urgent" else None
            self._seen = None
            return None
        reading.over = True
        return self._origin(self._readings[1])

    def lost(self) -> list[Lost]:
        """Kernel counters and our own, as differences."""
        losses = []
        for why, ring, count in self._readings[0].lost():
            stage, where = "ring" if why == HELD else why, ring if why in ("ring", HELD) else ""
            losses.append(Lost(stage, where, count, _REASONS[why], "bulk" if ring in ("socket", "table") else "urgent"))
        for stage, lane, ring, count in (
            ("blob", "urgent", "blob", self._counters.strings_lost),
            *(("decode", lane, "", count) for lane, count in self._counters.malformed.items()),
        ):
            if count > (before := self._told.get((stage, lane), 0)):
                losses.append(Lost(stage, ring, count - before, _REASONS[stage], lane))
            self._told[stage, lane] = count
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
            "malformed": sum(self._counters.malformed.values()),
            "strings_lost": self._counters.strings_lost,
            "pending": behind,
            "processes": len(self._explainer.table),
            "processes_evicted": self._explainer.table.evicted,
            "cgroups": len(self._identities),
            "excluded": self._counters.excluded + self._explainer.excluded,
            "taken_over": kernel.taken_over,
            "missed": kernel.missed(),
            "sockets": {
                "open": self._sockets.open if self._sockets else 0,
                "missing": self.missing,
                "instead": kernel.instead,
                "packets_dropped": kernel.packets_dropped(),
            },
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

    def _look_at_open_sockets(self) -> None:
        """Every ten seconds, on a turn that comes anyway."""
        if self._sockets is None or not self._kernel.follows_sockets or not self._sockets.look():
            return
        owners = self._explainer.owners
        owners.settle(self._sockets.rows)
        self._explainer.table.hold(np.concatenate([self._sockets.owners, owners.uids]), only=True)

    def _read_running(self) -> None:
        """Learn the processes that run already; after the flow has begun, so that one that starts in between is in both and taken once."""
        seed, cgroups = procfs.snapshot(self._kernel.running(), seconds=SNAPSHOT_S)
        self._identities.learn(cgroups)
        self._explainer.table.seed(seed)


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
