"""Whose socket a packet row is about, held against a reference that asks every socket in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from daemoneye.events.sockets import Direction
from daemoneye_sensor.enrich.owners import EARLY_NS, LATE_NS, SLACK_NS
from tests.unit.sensor.sockrows import IN, LISTEN, NOBODY, OPEN, OUT, TCP, UDP, End, Row, Sock, ns, whose

SPACES = (1, 2, 3)
ADDRESSES = ["127.0.0.1", *(f"10.0.0.{n}" for n in SPACES), "fd00::1", "::1"]
ENDS = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([53, 443, 40_000, 40_001]))
OWN = st.tuples(st.sampled_from([*ADDRESSES, "0.0.0.0", "::"]), st.sampled_from([53, 40_000]))
TIMES = st.sampled_from([10.0, 11.0, 12.5, 20.0, 20.05, 30.0, 33.0, 60.0])
PROTOS = st.sampled_from([TCP, UDP])
NAMED = st.builds(
    Sock,
    st.sampled_from(SPACES),
    ENDS,
    ENDS,
    st.sampled_from([OUT, IN]),
    st.integers(1, 4),
    TIMES,
    st.none() | TIMES,
    PROTOS,
)
BOUND = st.builds(
    Sock,
    st.sampled_from(SPACES),
    OWN,
    st.just(NOBODY),
    st.sampled_from([OUT, LISTEN]),
    st.integers(1, 4),
    TIMES,
    st.none() | TIMES,
    st.just(UDP),
)
ROWS = st.builds(Row, ENDS, ENDS, TIMES, st.none(), PROTOS)


def merged(sockets: Sequence[Sock]) -> list[Sock]:
    """What one process does with one 5-tuple is one socket."""
    groups: dict[tuple[object, ...], list[Sock]] = {}
    for sock in sockets:
        groups.setdefault((sock.netns, sock.own, sock.other, sock.proto, sock.pid), []).append(sock)
    out = []
    for group in groups.values():
        newest = max(s.begin for s in group)
        ends = [s.end for s in group if s.begin == newest and s.end is not None]
        out.append(replace(group[0], begin=min(s.begin for s in group), end=min(ends) if ends else None))
    return out


def reference(sockets: Sequence[Sock], row: Row, netns: int) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """Every answer that the rules allow, of either side: where two sockets of one namespace tie, either."""
    local = {(s.netns, s.own[0]) for s in sockets}

    def loop(address: str) -> bool:
        return address in {"127.0.0.1", "::1"}

    def choose(found: list[tuple[Sock, int]], near: End, alone: bool | None) -> set[int]:
        fits = []
        for sock, width in found:
            early = max(ns(sock.begin) - ns(row.time) - SLACK_NS, 0)
            late = max(ns(row.time) - (OPEN if sock.end is None else ns(sock.end)), 0)
            foreign = bool(netns) and sock.netns != netns
            if ns(sock.begin) - ns(row.time) <= EARLY_NS and late <= LATE_NS and not (foreign and loop(near[0])):
                fits.append((foreign, width, early + late, abs(ns(sock.begin) - ns(row.time)), sock))
        if not fits:
            return set()
        best = min(fit[:4] for fit in fits)
        level = [fit[4] for fit in fits if fit[0] == best[0]]
        if len({s.netns for s in level}) > 1:
            return {0}
        equal = [fit[4] for fit in fits if fit[:3] == best[:3]]
        winners = {s.pid for *rank, s in fits if tuple(rank) == best}
        if alone is None:
            return winners
        spoilers = {s.pid for s in equal if alone or s.direction != OUT}
        return {0 if spoilers - {pid} else pid for pid in winners}

    def side(near: End, far: End, direction: Direction) -> set[tuple[int, str]]:
        named = [
            (s, 0) for s in sockets if s.other != NOBODY and s.proto == row.proto and (s.own, s.other) == (near, far)
        ]
        bound = [
            (s, {"0.0.0.0": 1, "::": 2}.get(s.own[0], 0))
            for s in sockets
            if s.other == NOBODY and row.proto == UDP and s.own[1] == near[1]
            and (s.own[0] == near[0] or ((s.netns, near[0]) in local and (s.own[0] == "::" or (s.own[0] == "0.0.0.0" and ":" not in near[0]))))
        ]  # fmt: skip
        found = choose(named, near, None)
        if found - {0}:
            whose_now: set[int] = set()
            for one in (s for s, _ in named if s.pid in found):
                others = [
                    (s, width)
                    for s, width in bound
                    if s.direction == OUT and s.netns == one.netns
                    and abs(ns(s.begin) - ns(row.time)) < abs(ns(one.begin) - ns(row.time))
                ]  # fmt: skip
                whose_now |= (choose(others, near, None) - {0}) or {one.pid}
            return {(pid, "tuple") for pid in whose_now}
        answers = set()
        for pid in choose(bound, near, alone=False) or {0}:
            answers |= {(pid, "tuple")} if pid else translated(direction)
        return answers

    def translated(direction: Direction) -> set[tuple[int, str]]:
        found = []
        for s in sockets:
            client, server = (s.own, s.other) if s.direction == OUT else (s.other, s.own)
            pair = [
                o for o in sockets if o.other != NOBODY and o.proto == s.proto and {o.own, o.other} == {s.own, s.other}
            ]
            if (
                s.other != NOBODY
                and s.proto == row.proto
                and s.direction == direction
                and client == row.src
                and server != row.dst
                and len(pair) == 1
            ):
                found.append((s, 0))
        if loop(row.src[0]):
            return {(0, "none")}
        return {(pid, "nat" if pid else "none") for pid in choose(found, row.src, alone=True) or {0}}

    return side(row.src, row.dst, OUT), side(row.dst, row.src, IN)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(NAMED | BOUND, max_size=14), st.lists(ROWS, min_size=1, max_size=6), st.sampled_from([0, 1, 2]), st.data()
)
def test_the_join_says_what_asking_every_socket_says(
    sockets: list[Sock], rows: list[Row], netns: int, data: st.DataObject
) -> None:
    sockets = [s if s.end is None or s.end >= s.begin else replace(s, end=s.begin) for s in sockets]
    # What one process does with one 5-tuple is one socket here, which has one direction.
    sockets = [replace(s, direction=OUT if s.pid % 2 else LISTEN if s.other == NOBODY else IN) for s in sockets]
    # Rows about what there is are worth more than others.
    for sock in sockets:
        if sock.other != NOBODY:
            sides = (sock.own, sock.other) if sock.direction == OUT else (sock.other, sock.own)
            rows = [*rows, Row(*sides, data.draw(TIMES), None, sock.proto)]
    whole = merged(sockets)
    for row, (pid, how, peer, peer_how) in zip(rows, whose(sockets, *rows, netns=netns), strict=True):
        source, destination = reference(whole, row, netns)
        assert (pid, how) in source, row
        assert (peer, peer_how) in destination, row
