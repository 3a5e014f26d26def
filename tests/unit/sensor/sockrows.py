"""Sockets and packet rows in a few words, for the tests of owners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemoneye.events.addresses import packed
from daemoneye.events.base import derive
from daemoneye.events.codec import Section, section_of
from daemoneye.events.dns_query import DNS_QUERY
from daemoneye.events.network import Attribution
from daemoneye.events.packet_flow import PACKET_FLOW
from daemoneye.events.socket_close import SOCKET_CLOSE
from daemoneye.events.socket_open import SOCKET_OPEN
from daemoneye.events.sockets import Direction
from daemoneye_sensor.enrich.owners import Owners

S = 1_000_000_000
TCP, UDP = 6, 17
OUT, IN, LISTEN = Direction.OUTBOUND, Direction.INBOUND, Direction.LISTEN
OPEN = 1 << 62

End = tuple[str, int]
NOBODY: End = ("0.0.0.0", 0)


@dataclass(frozen=True)
class Sock:
    """A socket as the kernel tells of it; `begin` and `end` in seconds, None while it is open."""

    netns: int
    own: End
    other: End
    direction: Direction
    pid: int
    begin: float
    end: float | None = None
    proto: int = TCP
    flags: int = 0


@dataclass(frozen=True)
class Row:
    """A packet row."""

    src: End
    dst: End
    time: float
    begin: float | None = None
    proto: int = TCP


def ns(seconds: float) -> int:
    return round(seconds * S)


def told(sockets: Sequence[Sock]) -> list[Section]:
    """The sockets as the source gives them: every begin, and every end that there is."""
    sections = []
    for record, some in ((SOCKET_OPEN, list(sockets)), (SOCKET_CLOSE, [s for s in sockets if s.end is not None])):
        ends = [(s.own, s.other) if s.direction == OUT else (s.other, s.own) for s in some]
        section = section_of(
            record,
            {
                "time": [ns(s.end if record is SOCKET_CLOSE and s.end is not None else s.begin) for s in some], "event": record.id,
                "pid": [s.pid for s in some], "tid": [s.pid for s in some], "start_time": [s.pid * 7 for s in some], "ppid": [1] * len(some),
                "uid": [s.pid + 1000 for s in some], "cgroup_id": [s.pid + 100 for s in some], "cgroup_v1_id": [s.pid + 200 for s in some],
                "src_ip": [packed(a[0]) for a, _ in ends], "dst_ip": [packed(b[0]) for _, b in ends], "src_port": [a[1] for a, _ in ends],
                "dst_port": [b[1] for _, b in ends], "proto": [s.proto for s in some], "begin_time": [ns(s.begin) for s in some],
                "netns": [s.netns for s in some], "direction": [s.direction for s in some], "flags": [s.flags for s in some],
            }, len(some),
        )  # fmt: skip
        derive(record, section.rows)
        sections.append(section)
    return sections


def asked(rows: Sequence[Row]) -> Section:
    record = PACKET_FLOW if any(r.begin is not None for r in rows) else DNS_QUERY
    values: dict[str, object] = {
        "time": [ns(r.time) for r in rows], "event": record.id, "src_ip": [packed(r.src[0]) for r in rows], "dst_ip": [packed(r.dst[0]) for r in rows],
        "src_port": [r.src[1] for r in rows], "dst_port": [r.dst[1] for r in rows], "proto": [r.proto for r in rows],
    }  # fmt: skip
    if record is PACKET_FLOW:
        values["begin_time"] = [ns(r.time if r.begin is None else r.begin) for r in rows]
    return section_of(record, values, len(rows))


Answer = tuple[int, str, int, str]
"""Pid and attribution of the source's process, and of the destination's."""


def answers(section: Section) -> list[Answer]:
    out = []
    for row in section.rows:
        mine = (int(row["pid"]), Attribution(row["attribution"]).name.lower())
        peer = (int(row["peer_pid"]), Attribution(row["peer_attribution"]).name.lower())
        if row["direction"] == IN:
            assert peer == (0, "none")
            mine, peer = peer, mine
        out.append((*mine, *peer))
    return out


def whose(sockets: Sequence[Sock], *rows: Row, netns: int = 0) -> list[Answer]:
    owners = Owners()
    owners.learn(told(sockets))
    return answers(owners.attribute(asked(rows), netns))


CLIENT, SERVER = ("10.0.0.1", 40_000), ("10.0.0.2", 443)
ROW = Row(CLIENT, SERVER, 10.5)
BOTH = (Sock(1, CLIENT, SERVER, OUT, 7, 10), Sock(2, SERVER, CLIENT, IN, 8, 10.001))
