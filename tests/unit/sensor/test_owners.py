"""Whose socket a packet row is about, rule by rule."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from daemoneye.events.base import process_uid
from daemoneye.events.codec import section_of
from daemoneye.events.flags import Flag
from daemoneye.events.network import Attribution
from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye.events.sockets import Direction
from daemoneye_sensor.enrich import sockets as sockets_module
from daemoneye_sensor.enrich.owners import EARLY_NS, LATE_NS, SLACK_NS, Owners
from tests.unit.sensor.sockrows import (
    BOTH,
    CLIENT,
    IN,
    LISTEN,
    NOBODY,
    OUT,
    ROW,
    SERVER,
    UDP,
    Row,
    S,
    Sock,
    answers,
    asked,
    told,
    whose,
)


def test_both_sides_of_a_connection() -> None:
    assert whose(BOTH, ROW) == [(7, "tuple", 8, "tuple")]


def test_all_that_a_row_says_of_a_process_is_the_sockets() -> None:
    owners = Owners()
    owners.learn(told(BOTH))
    (row,) = owners.attribute(asked([ROW])).rows
    assert (row["pid"], row["tid"], row["start_time"], row["ppid"], row["uid"]) == (7, 7, 49, 1, 1007)
    assert (row["cgroup_id"], row["cgroup_v1_id"], row["direction"]) == (107, 207, OUT)
    assert (row["peer_pid"], row["peer_start_time"], row["peer_cgroup_id"], row["peer_cgroup_v1_id"]) == (
        8,
        56,
        108,
        208,
    )
    for prefix, pid in (("process", 7), ("peer", 8)):
        assert row[f"{prefix}_uid"] == process_uid(np.array([pid]), np.array([7 * pid]))[0]


def test_where_only_the_destination_is_known_the_row_is_its_process() -> None:
    owners = Owners()
    owners.learn(told(BOTH[1:]))
    (row,) = owners.attribute(asked([ROW])).rows
    assert (row["pid"], row["direction"], row["attribution"], row["peer_pid"]) == (8, IN, Attribution.TUPLE, 0)


def test_who_opened_it_may_be_guessed_wrong_on_either_side() -> None:
    assert whose(BOTH, Row(SERVER, CLIENT, 10.5)) == [(8, "tuple", 7, "tuple")]
    late = Sock(1, CLIENT, SERVER, IN, 7, 600, flags=int(Flag.MID_STREAM))
    assert whose([late], Row(CLIENT, SERVER, 11)) == [(7, "tuple", 0, "none")], "it was there before us"


def test_versions_and_protocols_do_not_mix() -> None:
    six = Sock(1, ("fd00::1", 40_000), ("fd00::2", 443), OUT, 9, 10)
    sockets = [*BOTH, replace(BOTH[0], proto=UDP, pid=6), six]
    rows = [ROW, replace(ROW, proto=UDP), replace(ROW, proto=132), Row(six.own, six.other, 10.5)]
    found = whose(sockets, *rows)
    assert [(answer[0], answer[2]) for answer in found] == [(7, 8), (6, 0), (0, 0), (9, 0)]


def test_what_two_namespaces_could_claim_is_nobodys() -> None:
    client, server = ("127.0.0.1", 40_000), ("127.0.0.1", 443)
    pods = [
        sock
        for netns in (1, 2)
        for sock in (
            Sock(netns, client, server, OUT, 10 * netns, 10),
            Sock(netns, server, client, IN, 10 * netns + 1, 10),
        )
    ]
    row = Row(client, server, 10.5)
    assert whose(pods, row) == [(0, "none", 0, "none")]
    assert whose(pods, row, netns=2) == [(20, "tuple", 21, "tuple")]
    assert whose(pods, row, netns=3) == [(0, "none", 0, "none")], "nobody else's loopback is seen there"
    assert whose(pods[:2], row) == [(10, "tuple", 11, "tuple")], "one alone"
    later = Row(client, server, 200)
    assert whose([replace(p, end=20) for p in pods[:2]] + [replace(p, begin=199) for p in pods[2:]], later) == [
        (20, "tuple", 21, "tuple")
    ]


def test_ports_are_used_again() -> None:
    first = Sock(1, CLIENT, SERVER, OUT, 7, 10, 12)
    second = Sock(1, CLIENT, SERVER, OUT, 9, 13)
    rows = [Row(CLIENT, SERVER, t) for t in (6, 11, 13 - SLACK_NS / S / 2, 14, 1000)]
    assert [answer[0] for answer in whose([first, second], *rows)] == [0, 7, 9, 9, 9]
    assert [answer[0] for answer in whose([first], *rows[1:])] == [7, 7, 7, 0]
    assert whose([first], Row(CLIENT, SERVER, 12.5, begin=11)) == [(7, "tuple", 0, "none")]
    assert whose([first], Row(CLIENT, SERVER, 12.1 + LATE_NS / S, begin=11)) == [(0, "none", 0, "none")]
    assert whose([second], Row(CLIENT, SERVER, 14, begin=12.8 - EARLY_NS / S)) == [(0, "none", 0, "none")]


def test_a_port_that_goes_from_hand_to_hand_within_milliseconds_is_whose_it_was() -> None:
    """A sender of UDP is told of after its first packet, and that it is gone only when it was silent for long."""
    hands = [
        Sock(1, ("::", 50_000), NOBODY, OUT, pid, begin, None, UDP)
        for pid, begin in ((5, 10.0002), (6, 10.0402), (7, 10.0803))
    ]
    rows = [
        Row(("10.0.0.1", 50_000), ("10.0.0.9", 53 + n), 10.01 + n / 25, begin=10 + n / 25, proto=UDP) for n in range(3)
    ]
    known = Sock(1, CLIENT, SERVER, OUT, 9, 1)
    assert [answer[0] for answer in whose([*hands, known], *rows)] == [5, 6, 7]


def test_the_port_of_a_client_that_had_a_peer_is_the_next_ones() -> None:
    """One client is connected, the next has the same port by chance, names no peer, and asks the same server before the former is known to be gone."""
    former = Sock(1, STUB, DNS, OUT, 5, 10, None, UDP)
    latter = Sock(1, ("0.0.0.0", 50_000), NOBODY, OUT, 6, 10.0402, None, UDP)
    rows = [replace(QUERY, time=time) for time in (10.001, 10.04, 10.3)]
    for sockets, expected in (
        ([former, latter], [5, 6, 6]),
        ([replace(former, begin=latter.begin), replace(latter, begin=former.begin)], [6, 5, 5]),
        ([former, replace(latter, begin=9.9)], [5, 5, 5]),
        ([former, replace(latter, direction=LISTEN)], [5, 5, 5]),
        ([former, replace(latter, netns=2)], [5, 5, 5]),
    ):
        assert [answer[0] for answer in whose(sockets, *rows)] == expected


def test_a_socket_that_its_process_takes_up_again_is_the_same() -> None:
    """UDP that was silent for a minute is told as ended, and as a new one when it speaks again; its conversation goes on."""
    again = [Sock(1, CLIENT, ("10.0.0.2", 123), OUT, 7, t, end, UDP) for t, end in ((10, 70), (80, 140), (150, None))]
    owners = Owners()
    for sock in again:
        owners.learn(told([sock]))
    assert len(owners.sockets) == 1
    assert answers(owners.attribute(asked([Row(CLIENT, ("10.0.0.2", 123), 160, begin=10, proto=UDP)]))) == [
        (7, "tuple", 0, "none")
    ]
    assert whose(again, Row(CLIENT, ("10.0.0.2", 123), 160, begin=10, proto=UDP)) == [(7, "tuple", 0, "none")]


DNS, STUB = ("10.0.0.9", 53), ("10.0.0.1", 50_000)
QUERY = Row(STUB, DNS, 20, proto=UDP)
ELSEWHERE = Sock(3, ("10.0.0.9", 8080), ("10.0.0.7", 9), IN, 99, 1)
"""It says that 10.0.0.9 is an address of namespace 3."""


def server(address: str, pid: int = 5, netns: int = 3, begin: float = 1, direction: Direction = LISTEN) -> Sock:
    return Sock(netns, (address, 53), NOBODY, direction, pid, begin, None, UDP)


def test_a_server_of_udp_is_found_by_its_own_address() -> None:
    assert whose([server("10.0.0.9")], QUERY) == [(0, "none", 5, "tuple")]
    assert whose([server("10.0.0.8")], QUERY) == [(0, "none", 0, "none")]
    assert whose([server("10.0.0.9", begin=20.5)], QUERY) == [(0, "none", 5, "tuple")], "it was slow to look"


@pytest.mark.parametrize("wild", ["0.0.0.0", "::"])
def test_one_of_all_addresses_by_those_that_its_namespace_has(wild: str) -> None:
    assert whose([server(wild)], QUERY) == [(0, "none", 0, "none")], "no address is known"
    assert whose([server(wild), ELSEWHERE], QUERY) == [(0, "none", 5, "tuple")]
    assert whose([server(wild, netns=4), ELSEWHERE], QUERY) == [(0, "none", 0, "none")]
    six = Row(("fd00::1", 50_000), ("fd00::9", 53), 20, proto=UDP)
    also = replace(ELSEWHERE, own=("fd00::9", 8080), other=("fd00::7", 9))
    assert whose([server(wild), also], six) == [
        (0, "none", 5 if wild == "::" else 0, "tuple" if wild == "::" else "none")
    ]


def test_the_narrower_one_is_meant() -> None:
    sockets = [server("::", 1), server("0.0.0.0", 2), server("10.0.0.9", 3), ELSEWHERE]
    for expected in (3, 2, 1):
        assert whose(sockets[:expected] + sockets[3:], QUERY) == [(0, "none", expected, "tuple")]


def test_servers_that_share_a_port_share_the_doubt() -> None:
    assert whose([server("10.0.0.9", 5), server("10.0.0.9", 6, begin=2)], QUERY) == [(0, "none", 0, "none")]
    # A client's port goes to the next one before it is known that the former is gone.
    clients = [replace(server("10.0.0.1", pid, 1, begin, OUT), own=STUB) for pid, begin in ((5, 1), (6, 2))]
    assert whose(clients, QUERY) == [(6, "tuple", 0, "none")]


def test_a_group_is_nobodys_address() -> None:
    group = ("224.0.0.251", 5353)
    member = Sock(1, group, NOBODY, LISTEN, 5, 1, None, UDP)
    other = replace(server("0.0.0.0", 6, 1), own=("0.0.0.0", 5353))
    assert whose([member, other], Row(("10.0.0.3", 5353), group, 20, proto=UDP)) == [(0, "none", 5, "tuple")]
    assert whose([other], Row(("10.0.0.3", 5353), group, 20, proto=UDP)) == [(0, "none", 0, "none")]


SERVICE, POD = ("10.96.0.10", 53), ("10.0.0.9", 5353)


def test_a_translated_destination_is_told_as_such() -> None:
    client = Sock(1, CLIENT, SERVICE, OUT, 7, 10)
    behind = Sock(3, POD, CLIENT, IN, 5, 10.01)
    before, after = Row(CLIENT, SERVICE, 10.5), Row(CLIENT, POD, 10.5)
    assert whose([client, behind], before, after) == [(7, "tuple", 5, "nat"), (7, "nat", 5, "tuple")]


def test_a_port_that_speaks_with_others_was_not_translated() -> None:
    """Linux gives a client's port to several connections at once, as long as they go to different servers."""
    here = [Sock(1, CLIENT, POD, OUT, 7, 10), Sock(3, POD, CLIENT, IN, 5, 10.01)]
    abroad = Sock(1, CLIENT, ("192.0.2.1", 443), OUT, 9, 10)
    assert whose([*here, abroad], Row(CLIENT, abroad.other, 10.5)) == [(9, "tuple", 0, "none")]
    assert whose([here[0], abroad], Row(CLIENT, ("192.0.2.2", 443), 10.5)) == [(0, "none", 0, "none")], "which one?"
    assert whose(here, Row(CLIENT, ("192.0.2.2", 443), 10.5)) == [(0, "none", 0, "none")]


def test_what_ended_is_kept_for_a_minute_of_the_rows_clock() -> None:
    owners = Owners()
    owners.learn(told([replace(s, end=20) for s in BOTH]))
    other = replace(BOTH[0], own=("10.0.0.1", 40_001))
    owners.learn(told([replace(other, begin=70)]))
    assert answers(owners.attribute(asked([ROW]))) == [(7, "tuple", 8, "tuple")]
    owners.learn(told([replace(other, begin=81, pid=9)]))
    assert answers(owners.attribute(asked([ROW]))) == [(0, "none", 0, "none")]
    assert len(owners.sockets) == 2
    assert owners.uids.tolist() == sorted(process_uid(np.array([7, 9]), np.array([49, 63])).tolist())
    owners.forget()
    assert not len(owners.sockets)


def test_the_same_rows_twice_do_no_harm() -> None:
    owners = Owners()
    closed = [replace(s, end=20) for s in BOTH]
    for _ in range(2):
        owners.learn(told(closed))
    owners.learn(told(BOTH)[:1])
    assert len(owners.sockets) == 2
    assert answers(owners.attribute(asked([Row(CLIENT, SERVER, 26)]))) == [(0, "none", 0, "none")], "it stays ended"


def test_an_end_that_nobody_saw_is_seen_in_the_kernels_table() -> None:
    owners = Owners()
    third = Sock(1, ("10.0.0.1", 40_001), SERVER, OUT, 9, 40)
    owners.learn(told([*BOTH, third]))
    open_ = told([replace(BOTH[0], end=10), replace(third, end=40)])[1].rows
    open_["established"] = 1
    owners.settle(open_)
    rows = [ROW, Row(CLIENT, SERVER, 100), Row(third.own, SERVER, 100)]
    assert answers(owners.attribute(asked(rows))) == [
        (7, "tuple", 8, "tuple"),
        (7, "tuple", 0, "none"),
        (9, "tuple", 0, "none"),
    ]
    owners.settle(open_[1:])
    owners.settle(open_)
    assert answers(owners.attribute(asked(rows)))[1] == (7, "tuple", 0, "none"), "a look may miss what is there"


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets_module, "MAX_SOCKETS", 2000)
    owners = Owners()
    for first in range(0, 6000, 500):
        owners.learn(
            told(
                [
                    Sock(1, ("10.0.0.1", 10_000 + n), SERVER, OUT, 7, n / 100, n / 100 if n % 2 else None)
                    for n in range(first, first + 500)
                ]
            )
        )
        assert len(owners.sockets) <= 2000
    assert owners.sockets.evicted == 6000 - len(owners.sockets)
    assert answers(owners.attribute(asked([Row(("10.0.0.1", 15_998), SERVER, 60)]))) == [(7, "tuple", 0, "none")]
    owners.learn(told([Sock(1, ("10.0.0.1", n), SERVER, OUT, 7, 70) for n in range(1, 6000)]))
    assert len(owners.sockets) <= 2000


def test_many_sockets_of_one_name_cost_no_more() -> None:
    """Two thousand connections from one port, each of which could be the translated one of two thousand rows."""
    servers = [(f"192.0.{n >> 8}.{n & 255}", 443) for n in range(2000)]
    owners = Owners()
    owners.learn(told([Sock(1, CLIENT, server, OUT, 7, 10) for server in servers]))
    rows = asked(
        [Row(CLIENT, server, 10.5) for server in servers] + [Row(CLIENT, (server[0], 80), 10.5) for server in servers]
    )
    tracemalloc.start()
    assert answers(owners.attribute(rows)) == [(7, "tuple", 0, "none")] * 2000 + [(0, "none", 0, "none")] * 2000
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_other_rows_pass() -> None:
    owners = Owners()
    other = section_of(PROCESS_FORK, {"pid": [1]}, 1)
    owners.learn([other])
    assert owners.attribute(other) is other
    row = asked([ROW])
    assert owners.attribute(row) is row, "nobody is known"
