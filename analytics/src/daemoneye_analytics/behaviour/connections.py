"""A batch's sockets as columns of numbers: whose they are, to where, with how much.

Responsible for reading a `Frame`; how surprising what it reads is, is `daemoneye_analytics.behaviour.contacts`' affair, what the other side is called
`daemoneye_analytics.behaviour.directory`'s. An address is looked at once for each distinct one, everything else is whole columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

import numpy as np

from daemoneye.events.sockets import Direction, Ending
from daemoneye_analytics.behaviour.columns import Columns
from daemoneye_analytics.behaviour.directory import Directory
from daemoneye_analytics.behaviour.executions import contexts, whose
from daemoneye_analytics.behaviour.networks import networks
from daemoneye_analytics.conversations import halves
from daemoneye_analytics.frame import Frame, combine

DYNAMIC: Final = 32_768
"""Ports from which on they are drawn, not chosen: all of them are one."""
_TCP: Final = 6


@dataclass(frozen=True, slots=True)
class Connections(Columns):
    """n beginnings and ends of connections in order of time, as windows keep them; arrays of shape (n,) where nothing else is said.

    Attributes:
        time: Wall time, ns, int64.
        sequence: Place in the node's lane, u64.
        process: Process key, u64.
        pid: Process id, u32.
        start: Start of the process, wall time, ns, int64.
        workload: Hash of the workload with its image, u64.
        levels: Hashes of the contexts, u64, shape (n, LEVELS), as executions have them.
        exe: Hash of the executable, u64; 0 where it is not known.
        tree: Process keys of itself and its ancestors, u64, shape (n, 9), 0 where they are unknown.
        destination: What is counted of its address, u64, never 0: direction, the other side's network or address, port, protocol.
        program_port: The same of program, direction, port, protocol, u64; 0 where the program is not known.
        door: Address and port of the other side where the process connected, u64; 0 for an end, and for what others opened.
        peer: The other side's address as two numbers, u64, shape (n, 2); zeros where it listens.
        port: Of whoever was connected to, u16.
        proto: IP protocol, u8.
        direction: See `daemoneye.events.sockets.Direction`, u8.
        begins: Whether it tells of a connection for the first time, bool: such rows are counted.
        ended: Whether it is a row of `socket_close`, bool.
        name: `text_hash` of what the other side is called, u64; 0 where that is not known, and for what others opened.
        interval: Seconds between the beats of the series that it continues, float64; 0 where that has no rhythm: see
            `daemoneye_analytics.behaviour.rhythm`.
    """

    time: np.ndarray
    sequence: np.ndarray
    process: np.ndarray
    pid: np.ndarray
    start: np.ndarray
    workload: np.ndarray
    levels: np.ndarray
    exe: np.ndarray
    tree: np.ndarray
    destination: np.ndarray
    program_port: np.ndarray
    door: np.ndarray
    peer: np.ndarray
    port: np.ndarray
    proto: np.ndarray
    direction: np.ndarray
    begins: np.ndarray
    ended: np.ndarray
    name: np.ndarray
    interval: np.ndarray

    @property
    def domain(self) -> np.ndarray:
        """What is counted of its name, u64: that, port, protocol; 0 where it is not known."""
        return np.where(self.name != 0, combine(self.name, _chosen(self.port), self.proto), np.uint64(0))

    @property
    def side(self) -> np.ndarray:
        """What is counted of the other side, u64: by its name where that is known, else by its address."""
        return np.where(self.name != 0, self.domain, self.destination)

    @property
    def contact(self) -> np.ndarray:
        """Who speaks to whom in which workload, u64: what is the same for the counts."""
        return combine(self.workload, self.destination ^ self.name, self.program_port, self.interval > 0)


@dataclass(frozen=True, slots=True)
class Heard:
    """n beginnings and ends of connections with what is asked of them only as they come.

    Attributes:
        connections: What is kept of them.
        identity: Row in the frame's identities, int64.
        cgroups: Both ids of the cgroup, u64, shape (n, 2).
        shape: Features that need no counts, in the order of `SHAPE`, float64, shape (n, len(SHAPE)); NaN for what is not known yet.
    """

    connections: Connections
    identity: np.ndarray
    cgroups: np.ndarray
    shape: np.ndarray

    SHAPE: ClassVar[tuple[str, ...]] = (
        "sent_bytes", "received_bytes", "sent_ratio", "duration", "direction", "peer_class", "connect_failed",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def time(self) -> np.ndarray:
        """Wall time, ns, int64."""
        return self.connections.time

    @property
    def workload(self) -> np.ndarray:
        """Hash of the workload with its image, u64."""
        return self.connections.workload

    def cgroup(self, frame: Frame, at: int) -> tuple[int, int]:  # noqa: ARG002 - executions ask the frame
        """Both ids of a row's cgroup."""
        own, former = self.cgroups[at].tolist()
        return own, former

    def beating(self, interval: np.ndarray) -> Self:
        """The same with these intervals."""
        return replace(self, connections=replace(self.connections, interval=interval))

    def span(self, first: int, last: int) -> Self:
        """Those from `first` to before `last`, not copied."""
        here = slice(first, last)
        return type(self)(self.connections.span(first, last), self.identity[here], self.cgroups[here], self.shape[here])


def connections(frame: Frame, excluded: np.ndarray, directory: Directory) -> Heard:
    """The beginnings and ends of connections of a frame, and the sockets that begin to listen; not those without a process or of excluded workloads.

    Args:
        frame: The batch.
        excluded: Which of `frame.identities` are left out, bool.
        directory: Of the frame's node; it has heard this frame.
    """
    parts = [_heard(frame, record, excluded, directory) for record in ("socket_open", "socket_close")]
    both = Heard(
        Connections.joined([part.connections for part in parts]),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("identity", "cgroups", "shape")),
    )
    order = np.argsort(both.time, kind="stable")
    return Heard(
        both.connections.take(order),
        *(column.take(order, axis=0) for column in (both.identity, both.cgroups, both.shape)),
    )


def _chosen(port: np.ndarray) -> np.ndarray:
    return np.minimum(port, DYNAMIC).astype(np.uint64)


def _heard(frame: Frame, record: str, excluded: np.ndarray, directory: Directory) -> Heard:
    every = frame.rows(record)
    identity = frame.identity_of(every)
    ends = record == "socket_close"
    kept = (every["pid"] != 0) & ~excluded[identity]
    if ends:
        kept &= every["direction"] != Direction.LISTEN
    at = np.flatnonzero(kept)
    rows, identity = every.take(at), identity[at]
    direction, proto, port = rows["direction"], rows["proto"], rows["dst_port"]
    n = len(rows)
    failed = np.zeros(n, bool)
    if ends:
        failed = (direction == Direction.OUTBOUND) & (proto == _TCP) & (rows["established"] == 0)
    begins = failed if ends else np.ones(n, bool)
    peer = np.where(
        (direction == Direction.INBOUND)[:, None],
        np.column_stack(halves(rows["src_ip"])),
        np.column_stack(halves(rows["dst_ip"])),
    )
    peer[direction == Direction.LISTEN] = 0
    kind, network = networks(peer)
    chosen = _chosen(port)
    door = np.where(begins & (direction == Direction.OUTBOUND), combine(peer[:, 0], peer[:, 1], port), np.uint64(0))
    images = frame.images
    image = images.find(rows["process_uid"], rows["time"])
    known = np.append(images.section.rows["process_uid"], np.uint64(0))
    exe = np.append(frame.exe.hashes(), np.uint64(0))[image]
    levels = contexts(frame, identity, rows)
    workload, time = whose(levels), frame.batch.wall_ns(rows["time"])
    name = np.zeros(n, np.uint64)
    made = np.flatnonzero(direction == Direction.OUTBOUND)
    name[made] = directory.names(rows[made], workload[made], time[made])
    return Heard(
        Connections(
            time=time, sequence=frame.sequence(record)[at], process=rows["process_uid"], pid=rows["pid"],
            start=frame.batch.wall_ns(rows["start_time"]), workload=workload, levels=levels, exe=exe,
            tree=np.column_stack((rows["process_uid"], known[images.ancestors(rows["parent_uid"], rows["time"])])),
            destination=combine(direction, network[:, 0], network[:, 1], chosen, proto) | np.uint64(1),
            program_port=np.where(exe != 0, combine(exe, direction, chosen, proto), np.uint64(0)), door=door, peer=peer, port=port, proto=proto,
            direction=direction, begins=begins, ended=np.full(n, ends), name=name,
            interval=np.zeros(n),
        ),
        identity, np.column_stack((rows["cgroup_id"], rows["cgroup_v1_id"])),
        np.column_stack((*_moved(rows, failed, ends=ends), direction.astype(np.float64), kind, failed.astype(np.float64))),
    )  # fmt: skip


def _moved(rows: np.ndarray, failed: np.ndarray, *, ends: bool) -> tuple[np.ndarray, ...]:
    """Payload that left and came, their ratio, and the duration of n sockets, as the catalogue has them; NaN of what is not known."""
    if not ends:
        nothing = np.full(len(rows), np.nan)
        return nothing, nothing, nothing, nothing
    out, back = (np.log2(1.0 + rows[name].astype(np.float64)) for name in ("src_bytes", "dst_bytes"))
    inbound = rows["direction"] == Direction.INBOUND
    # Of an end that was missed TCP's counters are not known.
    unseen = (rows["ending"] == Ending.UNKNOWN) & (rows["proto"] == _TCP) & ~failed
    sent, received = (np.where(unseen, np.nan, np.where(inbound, *pair)) for pair in ((back, out), (out, back)))
    begin, last = rows["begin_time"], rows["last_time"]
    # A time of 0, and clocks that went back, last nothing.
    lasted = np.where((begin != 0) & (last > begin), last - begin, np.uint64(0)).astype(np.float64) / 1e6
    return sent, received, sent - received, np.log2(1.0 + lasted)
