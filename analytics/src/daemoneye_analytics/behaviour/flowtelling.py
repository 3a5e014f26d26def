"""A window of connections that alarmed, told to a person: who spoke to whom, how often that was seen, and how much went through.

Responsible for the sentences about connections; what is the same for every window is `daemoneye_analytics.behaviour.telling`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from daemoneye.events.addresses import protocol_name
from daemoneye.events.sets import groups
from daemoneye.events.sockets import Direction
from daemoneye.findings import EventReference, Process, Technique
from daemoneye_analytics import evidence
from daemoneye_analytics.behaviour.connections import DYNAMIC
from daemoneye_analytics.behaviour.contacts import DESTINATION, DOMAIN, PROGRAM_PORT, RHYTHM
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.executions import FLEET
from daemoneye_analytics.behaviour.rhythm import BEATS, WITHIN
from daemoneye_analytics.behaviour.telling import Alarm, Teller, loudest, number, times
from daemoneye_analytics.behaviour.windows import TOP
from daemoneye_analytics.conversations import endpoint
from daemoneye_analytics.frame import Frame, combine, text_hash

PROTOCOL: Final = Technique("T1071", "Application Layer Protocol")
_NEWEST: Final = np.array([1 << 62], np.uint64)
_DID: Final[dict[int, tuple[str, str, str]]] = {
    Direction.OUTBOUND: ("connected to", "never connected to", "to"),
    Direction.INBOUND: ("was connected to at", "was never connected to at", "from"),
    Direction.LISTEN: ("listened at", "never listened at", ""),
}
_SPOKEN: Final = 16_384
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")


class FlowTeller(Teller):
    """Tells of connections.

    Attributes:
        spoken: Names of other sides behind their hashes, the newest 16,384.
    """

    THINGS = "beginnings and ends of connections"

    def __init__(self) -> None:
        super().__init__()
        self.spoken: dict[int, str] = {}

    def learn(self, names: Iterable[str]) -> None:
        """Names that somebody spoke."""
        for name in names:
            self.spoken.pop(text_hash(name), None)
            self.spoken[text_hash(name)] = name
        while len(self.spoken) > _SPOKEN:
            del self.spoken[next(iter(self.spoken))]

    def top(self, alarm: Alarm) -> np.ndarray:
        """See `Teller`: the row that the loudest model finds most unusual, and others at least half as unusual, one a contact."""
        mine = np.flatnonzero(alarm.windows.of == alarm.window)
        rows = alarm.windows.rows
        # The columns of scores are in the order of the models.
        scores = rows.scores[mine, list(alarm.models).index(loudest(alarm))]
        scores = np.nan_to_num(scores, nan=-np.inf)
        order = np.lexsort((-rows.measured.column("contact_bits")[mine], -scores))
        best = scores[order[0]]
        order = mine[order[(scores[order] >= best / 2) | (scores[order] == best)]]
        c = rows.things.take(order)
        first, _ = groups(combine(c.side, c.program_port))
        return order[np.sort(first)][:TOP]

    def _between(self, things: Any, row: int) -> dict[str, Any]:
        """See `Teller`: the side that connected is the source, of which an address is known where it is the other one."""
        direction, port, proto = (
            int(things.direction[row]),
            int(things.port[row]),
            protocol_name(int(things.proto[row])),
        )
        if direction == Direction.LISTEN:
            return {"dst_port": port, "proto": proto}
        side = "src_ip" if direction == Direction.INBOUND else "dst_ip"
        return {side: _address(things, row), "dst_port": port, "proto": proto}

    def _told(
        self, alarm: Alarm, counts: Counts, top: np.ndarray
    ) -> tuple[str, tuple[Technique, ...], tuple[str, ...]]:
        c, row = alarm.windows.rows.things, int(top[0])
        did, _, _ = _did(c.direction[row])
        return (
            f"{did} {self._door(c, row) if c.direction[row] == Direction.OUTBOUND else _port(c, row)}",
            (PROTOCOL,),
            tuple(self._sentence(alarm, counts, row) for row in top.tolist()),
        )

    def _size(self, rows: int) -> str:
        return f"{rows} {'beginning or end' if rows == 1 else 'beginnings and ends'} of connections"

    def _event(self, things: Any, row: int, node: tuple[str, int, str]) -> EventReference:
        record = "socket_close" if things.ended[row] else "socket_open"
        return EventReference(node[0], node[1], node[2], int(things.sequence[row]), record)

    def _processes(
        self, frame: Frame | None, node: tuple[str, int, str], things: Any, row: int, exe: str
    ) -> tuple[Process, tuple[Process, ...]]:
        process = Process(int(things.pid[row]), exe)
        if frame is None or frame.envelope.node != node[0]:
            return process, (process,)
        image = int(frame.images.find(things.process[row : row + 1], _NEWEST)[0])
        return process, (*evidence.ancestry(frame, image), process) if image >= 0 else (process,)

    def _sentence(self, alarm: Alarm, counts: Counts, row: int) -> str:
        """Who did what, how often that was seen here and in the fleet, and how much went through."""
        c, measured = alarm.windows.rows.things, alarm.windows.rows.measured
        level = int(next(h for h in c.levels[row].tolist() if h))
        direction = int(c.direction[row])
        did, never, toward = _did(direction)
        name, port = self.name(int(c.exe[row])), _port(c, row)
        bits = {kind: float(measured.column(f"{kind}_bits")[row]) for kind in ("destination", "program_port")}
        thing = int(c.program_port[row])
        if thing:
            here, total = counts.seen(level, PROGRAM_PORT.number, 0, thing)
            fleet, _ = counts.seen(FLEET, PROGRAM_PORT.number, 0, thing)
            ever = f"{never} {port}" if here == 0 else f"{did} {port} {times(here)}"
            where = f"in this workload in {number(total)} connections, {times(fleet)} in all watched workloads"
            said = [f"{name} {ever} {where} ({bits['program_port']:.1f} bits)"]
        else:
            said = [f"{name} {did} {port}"]
        if c.name[row]:
            domain = int(c.domain[row])
            (there, total), (fleet, _) = (counts.seen(at, DOMAIN.number, 0, domain) for at in (level, FLEET))
            said.append(
                f"to {self._door(c, row)} {times(there)} before in {number(total)} connections whose name is known here, {times(fleet)} in all watched "
                f"workloads ({bits['destination']:.1f} bits)"
            )
        elif direction != Direction.LISTEN:
            there, _ = counts.seen(level, DESTINATION.number, 0, int(c.destination[row]))
            said.append(
                f"{toward} {self._door(c, row) if direction == Direction.OUTBOUND else _address(c, row)} or its network {times(there)} before "
                f"({bits['destination']:.1f} bits)"
            )
        if c.interval[row] > 0:
            said.append(_rhythm(c, measured, row, level, counts))
        sent, received, duration = (
            float(measured.column(n)[row]) for n in ("sent_bytes", "received_bytes", "duration")
        )
        if not np.isnan(sent + received + duration):
            said.append(f"it sent {_bytes(sent)} and received {_bytes(received)} in {(2**duration - 1) / 1000:.1f} s")
        doors, begun = (2 ** float(measured.column(n)[row]) - 1 for n in ("fan_out", "connections"))
        if doors >= 2:
            said.append(
                f"the workload had reached {number(doors)} destinations by {number(begun)} connections in these ten minutes"
            )
        return f"{'; '.join(said)}."

    def _door(self, c: Any, row: int) -> str:
        """Address and port of the other side, behind its name where that is known."""
        door = f"{endpoint(_peer(c, row), int(c.port[row]))} ({protocol_name(int(c.proto[row]))})"
        return f"{self.spoken.get(int(c.name[row]), 'a name that is not kept')} at {door}" if c.name[row] else door


def _did(direction: int) -> tuple[str, str, str]:
    return _DID.get(direction, _DID[Direction.OUTBOUND])


def _rhythm(c: Any, measured: Any, row: int, level: int, counts: Counts) -> str:
    """How regularly it spoke to the other side, and how often the workload did so."""
    seconds, periodicity, bits = (
        float(column[row]) for column in (c.interval, *map(measured.column, ("periodicity", "periodicity_bits")))
    )
    side = int(c.side[row])
    (there, total), (fleet, _) = (counts.seen(at, RHYTHM.number, 0, side) for at in (level, FLEET))
    return (
        f"it did so every {seconds:.1f} s, {BEATS} times in a row, {WITHIN} of {BEATS - 1} intervals within {seconds / 2**periodicity:.2f} s of it: "
        f"with such a rhythm {times(there)} before in {number(total)} connections that this workload made, {times(fleet)} in all watched workloads "
        f"({bits:.1f} bits)"
    )


def _address(c: Any, row: int) -> str:
    return endpoint(_peer(c, row))


def _peer(c: Any, row: int) -> bytes:
    hi, lo = c.peer[row].tolist()
    return int(hi << 64 | lo).to_bytes(16, "big")


def _port(c: Any, row: int) -> str:
    proto = protocol_name(int(c.proto[row]))
    return f"port {int(c.port[row])} ({proto})" if c.port[row] < DYNAMIC else f"a port from {DYNAMIC:,} on ({proto})"


def _bytes(bits: float) -> str:
    """What log2(1 + n) says, in a sentence."""
    size, unit = 2.0**bits - 1, 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"
