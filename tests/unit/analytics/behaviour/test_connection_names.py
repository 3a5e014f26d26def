"""Connections by name: a service is one whatever its addresses are, a new domain is news, and names are believed for an hour."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from daemoneye.events.flags import Flag
from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour import contacts, directory
from daemoneye_analytics.behaviour.catalogue import CONNECTION_FEATURES
from daemoneye_analytics.behaviour.connections import connections
from daemoneye_analytics.behaviour.contacts import Reach
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.directory import LIFE_NS, Book, Directory, called
from daemoneye_analytics.behaviour.waiting import WAIT_NS, Waiting
from daemoneye_analytics.frame import text_hash
from tests.unit.analytics.behaviour import sockets
from tests.unit.analytics.behaviour.lesson import AFTER, LATER, VICTIM, Lesson, renewed
from tests.unit.analytics.behaviour.sockets import answered, asked, closed, frames, heard_of, opened, run
from tests.unit.analytics.behaviour.traffic import WORKLOADS
from tests.unit.analytics.factory import OFFSET, SECOND

CONTACT: dict[str, Any] = {"models": ('{"name": "process_rarity"}', '{"name": "network_contact"}')}
SPOKEN = ("", "example.com", "example.org", "example.net", "db.shop.svc.cluster.local")
SERVICES = ((300, "api.example.com", 443), (400, "db.shop.svc.cluster.local", 5432), (600, "cdn.example.org", 443))


def usual(hours: float, *, seed: int = 1, start: float = 60.0) -> list[dict[str, Any]]:
    """Each workload asks one of three services about once a minute, by name; those outside are at another address each time, as behind a large site."""
    rng, rows = random.Random(seed), []
    for cgroup in WORKLOADS:
        t = start + rng.random() * 60
        while t < start + hours * 3600:
            program, name, port = rng.choices(SERVICES, (50, 30, 20))[0]
            address = "10.96.0.20" if name.endswith(".local") else f"203.0.{rng.randrange(200)}.{rng.randrange(200)}"
            row = opened(cgroup, t, address, port, program)
            rows += [
                answered(cgroup, t - 0.1, name, address),
                row,
                closed(row, rng.uniform(0.05, 5), rng.randrange(200, 5000), rng.randrange(500, 90_000)),
            ]
            t += 60 * (0.5 + rng.random())
    return sorted(rows, key=lambda row: row["time"])


def analyser(**parameters: Any):
    return sockets.analyser(**(CONTACT | parameters))


@pytest.fixture(scope="module")
def learned():
    return Lesson(usual, **CONTACT)


def visit(name: str, address: str, at: float = LATER + 300, cgroup: int = 12, port: int = 443) -> list[dict[str, Any]]:
    """A workload asks for a name and speaks to what it got."""
    row = opened(cgroup, at, address, port)
    return [answered(cgroup, at - 0.1, name, address), row, closed(row, 2.0, 3000, 40_000)]


def names(rows: Iterable[dict[str, Any]], book: Directory | None = None) -> list[str]:
    """What the other side of each row of a socket is called, in order of time; an empty text where that is not known."""
    rows, book = sorted(rows, key=lambda row: row["time"]), Directory() if book is None else book
    (frame,) = frames(rows, len(rows))
    book.hear(frame, OFFSET + int(rows[0]["time"] * SECOND))
    said = {text_hash(name): name for name in SPOKEN}
    heard = connections(frame, np.zeros(len(frame.identities), bool), book)
    return [said[name] for name in heard.connections.name.tolist()]


# ── what is called how ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "inside", "expected"),
    [("WWW.Example.co.uk.", False, "example.co.uk"), ("a.b.cloudfront.net", False, "b.cloudfront.net"),
     ("db.prod.example.com", True, "db.prod.example.com"), ("db.shop.svc.cluster.local", False, "db.shop.svc.cluster.local"),
     ("redis", True, "redis"),
     ("\x1b[2J.example.org", True, ""), ("a\x1b[31m.com", False, ""), ("x" * 254, True, ""), (".", False, ""), ("example.org:8080", False, "example.org")],
)  # fmt: skip
def test_outside_the_registered_domain_counts_and_inside_the_whole_name(name, inside, expected):
    assert called(name, inside=inside) == expected


def test_an_address_has_the_name_that_its_workload_resolved():
    assert names(visit("www.example.org", "198.51.100.9", 100.0)) == ["example.org"] * 2
    assert names(visit("db.shop.svc.cluster.local", "10.96.0.20", 100.0)) == ["db.shop.svc.cluster.local"] * 2
    assert names(visit("www.example.org", "2001:db8::9", 100.0)) == ["example.org"] * 2


def test_names_come_before_what_they_are_of_and_only_the_own_side_has_none():
    row = opened(12, 100.0, "198.51.100.9", 443)
    assert names([row, answered(12, 100.1, "www.example.org", "198.51.100.9")]) == [""]
    theirs = opened(12, 100.0, "10.1.0.12", 80, direction=Direction.INBOUND, src_ip="198.51.100.9")
    assert names([answered(12, 99.0, "www.example.org", "198.51.100.9"), theirs]) == [""]


def test_names_that_were_told_an_hour_ago_are_not_used():
    told = answered(12, 100.0, "www.example.org", "198.51.100.9")
    rows = [opened(12, 100.0 + LIFE_NS / 1e9 + late, "198.51.100.9", 443) for late in (-1, 1)]
    assert names([told, *rows]) == ["example.org", ""]


def test_another_workload_s_name_is_used_where_all_agree():
    row = opened(12, 100.0, "198.51.100.9", 443)
    theirs = [answered(13, 99.0, "www.example.org", "198.51.100.9"), row]
    assert names(theirs) == ["example.org"]
    assert names([answered(14, 98.0, "www.example.net", "198.51.100.9"), *theirs]) == [""], "one of two"
    own = answered(12, 90.0, "www.example.com", "198.51.100.9")
    assert names([own, *theirs]) == ["example.com"]


def test_a_node_s_names_agree_again_after_an_hour():
    told = [
        answered(13, 100.0, "a.example.net", "198.51.100.9"),
        *(answered(13, at, "b.example.org", "198.51.100.9") for at in (200, 2000, 3700, 5000)),
    ]
    rows = [opened(12, at, "198.51.100.9", 443) for at in (3000.0, 3710.0)]
    assert names([*told, *rows]) == ["", "example.org"]


@pytest.mark.parametrize("record", ["tls_client_hello", "quic_initial", "http_request"])
def test_what_a_connection_asked_its_server_for_is_its_name_from_then_on(record):
    dns = answered(12, 99.0, "www.example.org", "198.51.100.9")
    row = opened(12, 100.0, "198.51.100.9", 443)
    other = opened(12, 100.0, "198.51.100.9", 443, src_port=40_001)
    rows = [dns, row, asked(row, "c2.example.net", record), closed(row, 1.0, 1, 1), closed(other, 1.0, 1, 1)]
    assert names(rows) == ["example.org", "example.net", "example.org"]
    assert names([dns, row, asked(row, "payments", record), closed(row, 1.0, 1, 1)]) == ["example.org"] * 2, "no domain"
    hidden = asked(row, "c2.example.net", record, flags=int(Flag.ECH))
    assert names([dns, row, hidden, closed(row, 1.0, 1, 1)]) == ["example.org"] * 2


def test_answers_that_are_no_addresses_of_others_name_nothing():
    for answers in (("www.example.net",), ("127.0.0.1",), ("0.0.0.0",), ("224.0.0.1",), ("::1",)):
        book = Directory()
        assert names([answered(12, 99.0, "x.example.org", *answers), opened(12, 100.0, "127.0.0.1", 443)], book) == [""]
        assert not len(book)
    chain = answered(12, 99.0, "www.example.org", "edge.example.net", "198.51.100.9")
    assert names([chain, opened(12, 100.0, "198.51.100.9", 443)]) == ["example.org"]


def test_a_flood_of_names_is_bounded_and_the_newest_are_kept():
    book, most, second = Book(10_000), 10_000, 1_000_000_000
    for at in range(8):
        keys = np.arange(1, 5001, dtype=np.uint64) + np.uint64(at * 5000)
        book.tell(keys, np.full(5000, at * second), keys, at * second)
        assert len(book) <= most + 5000
    asked_for = np.array([40_000, 1], np.uint64)
    assert book.ask(asked_for, np.full(2, 8 * second)).tolist() == [40_000, 0]
    keys = np.arange(1, 10 * most, dtype=np.uint64)
    book.tell(keys, np.full(len(keys), 9 * second), keys, 9 * second)
    assert len(book) <= 2 * most


def test_a_clock_that_goes_back_leaves_no_names_of_the_future():
    book, hour = Book(100), LIFE_NS
    one = np.ones(1, np.uint64)
    book.tell(one, np.array([100 * hour]), one, 100 * hour)
    book.tell(one, np.array([2 * hour]), one * np.uint64(2), 2 * hour)
    assert book.ask(one, np.array([2 * hour])).tolist() == [2]
    book.tell(one, np.array([2 * hour + 5]), one * np.uint64(3), 2 * hour)
    assert len(book) == 2


def test_names_are_the_same_however_they_were_told():
    rows = usual(1.0)
    whole = names(rows)
    assert whole.count("") == 0
    for size in (1, 37):
        book, parts = Directory(), []
        for at in range(0, len(rows), size):
            parts += names(rows[at : at + size], book)
            kept = book.state()
            book = Directory()
            book.restore(kept)
        assert parts == whole


# ── what is measured ────────────────────────────────────────────────────────────────────────────────────────────────


def measured(rows, counts: Counts, book: Directory):
    heard = heard_of(rows, book)
    return heard, contacts.measure(counts, heard, Reach().count(0, heard.connections), np.zeros(len(heard)))


def test_new_addresses_of_a_known_name_surprise_nobody_and_a_new_name_does():
    counts, book = Counts(10_000, 1000), Directory()
    heard, _ = measured(usual(4), counts, book)
    contacts.learn(counts, heard.connections, np.ones(len(heard)), 1)
    moved, other = visit("eu.api.example.com", "192.0.2.77", 20_000.0), visit("c2.example.net", "192.0.2.78", 20_001.0)
    rows = [*moved[:2], *other[:2], opened(12, 20_002.0, "192.0.2.99", 443)]
    _, found = measured(rows, counts, book)
    known, new, bare = found.column("domain_bits").tolist()
    assert known < 2
    assert new > 8
    assert bare == 0
    assert found.column("name_known").tolist() == [1, 1, 0]
    assert found.column("destination_bits")[:2].tolist() == [known, new]
    assert found.column("destination_bits")[2] > 8
    assert found.column("new_contacts").tolist() == [0, 1, 1]


def test_a_name_that_is_known_at_the_end_alone_is_learned():
    counts, book = Counts(10_000, 1000), Directory()
    rows = []
    for at in range(200):
        row = opened(12, 100.0 + at * 10, f"203.0.{at}.1", 443)
        rows += [row, asked(row, "www.example.org"), closed(row, 1.0, 1, 1)]
    heard, _ = measured(rows, counts, book)
    contacts.learn(counts, heard.connections, np.ones(len(heard)), 1)
    row = opened(12, 5000.0, "192.0.2.1", 443)
    _, found = measured([row, asked(row, "www.example.org"), closed(row, 1.0, 1, 1)], counts, book)
    assert found.column("domain_bits")[1] < 1


def test_whoever_begins_to_see_names_finds_none_surprising_that_nobody_knows_yet():
    """Capture is switched on: what was learned by addresses says nothing of names."""
    counts, book = Counts(10_000, 1000), Directory()
    heard, _ = measured([row for row in usual(4) if row["record"] != "dns_query"], counts, book)
    contacts.learn(counts, heard.connections, np.ones(len(heard)), 1)
    _, found = measured(visit("api.example.com", "203.0.1.1", 20_000.0), counts, book)
    assert max(found.column("destination_bits")) <= 4


# ── the detector ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_service_behind_ever_new_addresses_raises_nothing(learned):
    assert learned.findings == []
    assert len([score for score in learned.scores if score["state"] == "Active"]) > 50
    moved = [row for at in range(20) for row in visit("api.example.com", f"192.0.{at + 10}.7", LATER + 300 + at * 20)]
    assert run(learned.again(), learned.later(*moved), first=AFTER)[0] == []


def test_a_first_connection_to_a_new_domain_alarms_and_is_explained_by_name(learned):
    findings, _ = run(learned.again(), learned.later(*visit("c2.example.net", "192.0.2.9")), first=AFTER)
    (finding,) = findings
    assert (
        finding.title
        == f"{VICTIM} behaves unlike itself: /usr/bin/curl connected to example.net at 192.0.2.9:443 (tcp)"
    )
    text = " ".join(finding.explanation)
    assert "to example.net at 192.0.2.9:443 (tcp) never before in " in text
    assert "connections whose name is known here, never in all watched workloads (" in text


def test_names_that_come_a_second_late_are_waited_for(learned):
    """Packets are read once a second, sockets more often: the answer comes in a later batch than the connection."""
    detector, found = learned.again(), []
    rows = learned.later(hours=0.3)
    at = LATER + 300.0
    dns, row, end = visit("c2.example.net", "192.0.2.9", at)
    service, moved, over = visit("api.example.com", "192.0.3.9", at + 0.2)
    before, after = [r for r in rows if r["time"] < at - 1], [r for r in rows if r["time"] > at + 4]
    sequence = 100_000
    for part in (before, [row, moved], [dns, service], [end, over], after):
        for frame in frames(part, len(part), first=sequence):
            found.append(detector.process(frame))
            detector = renewed(detector, **CONTACT)
        sequence += len(part)
    assert [len(part) for part in found] == [0, 0, 0, 1, 0]
    assert "example.net at 192.0.2.9" in found[3][0].title
    assert found[3][0].process_tree, "the batch that it came in is still known"


def test_nothing_waits_longer_than_it_need():
    def kept(*times: float) -> Waiting:
        waiting = Waiting()
        for at in times:
            waiting.add(next(frames([opened(12, at, "203.0.113.5", 443)])))
        return waiting

    def over(waiting: Waiting, at: float, wait: int = WAIT_NS) -> int:
        return len(list(waiting.over(OFFSET + int(at * SECOND), wait)))

    assert over(kept(100, 101, 102), 102.5) == 1
    assert over(kept(100, 101, 102), 102.5, 0) == 3, "where there are no names"
    assert over(kept(5000, 100), 100) == 1, "the clock went back"
    assert over(kept(*(100 + k / 100 for k in range(100))), 101) == 36, "they are bounded"


def test_borders_of_batches_change_neither_scores_nor_findings(learned):
    rows = learned.later(*visit("c2.example.net", "192.0.2.9"), hours=0.7)
    end = usual(0.1, seed=3, start=LATER + 3600)
    told = []
    for size in (1, 50, len(rows)):
        detector = learned.again()
        findings, scores = run(detector, rows, size, first=AFTER)
        more, last = run(detector, end, 10, first=200_000)
        told.append(([(f.id, f.key, f.score) for f in findings + more], json.dumps(scores + last)))
    assert told[0] == told[1] == told[2]
    assert told[0][0]


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(learned):
    rows = learned.later(*visit("c2.example.net", "192.0.2.9"))
    whole, scores = run(learned.again(), rows, 40, first=AFTER)
    parts, said = learned.restarting(rows, 40)
    assert [f.explanation for f in parts] == [f.explanation for f in whole]
    assert whole
    assert said == scores


def test_a_state_that_knows_no_names_is_read(learned):
    new, columns = ("connections_around", "connections_spoken"), ("_name", "_interval")
    state = {
        name: value for name, value in learned.state.items() if not name.startswith(new) and not name.endswith(columns)
    }
    width = CONNECTION_FEATURES.index("domain_bits")
    widths = {name: value[:, :width] for name, value in state.items() if name.endswith("_features")}
    assert widths
    detector = analyser()
    detector.restore(state | widths)
    assert detector.status()["connections"]["items"] == learned.again().status()["connections"]["items"]
    run(detector, learned.later(), first=AFTER)


def test_names_whose_state_cannot_be_used_begin_anew_alone(learned, caplog):
    detector = analyser()
    detector.restore(
        learned.state
        | {
            "connections_around0_directory.addresses": np.zeros(3),
            "connections_around0_waiting.bytes": np.zeros(3, np.uint8),
        }
    )
    assert "begins anew: not names that were kept" in caplog.text
    assert detector.status()["connections"]["items"] > 0
    run(detector, learned.later(), first=AFTER)


def test_names_of_the_whole_installation_are_bounded(monkeypatch):
    monkeypatch.setattr(directory, "ADDRESSES", 100)
    detector = analyser()
    rows = [answered(12, 100 + k * 0.01, f"n{k}.example{k}.com", f"198.51.{k % 200}.{k // 200}") for k in range(20_000)]
    run(detector, rows, 2000)
    state = detector.state()
    assert len(state["connections_spoken"]) <= 16_384
    assert len(state["connections_around0_directory.addresses"]) <= 100
