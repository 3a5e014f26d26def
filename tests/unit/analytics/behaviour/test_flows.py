"""Connections, watched: quiet about what is usual, loud about new places from new programs, and nothing where no model asks for them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from daemoneye.errors import ConfigError
from daemoneye.events.addresses import packed
from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour import contacts, models
from daemoneye_analytics.behaviour.catalogue import CONNECTION_FEATURES
from daemoneye_analytics.behaviour.contacts import Reach
from daemoneye_analytics.behaviour.counts import Counts
from daemoneye_analytics.behaviour.networks import GROUP, INSIDE, OUTSIDE, OWN, network
from tests.unit.analytics.behaviour import traffic
from tests.unit.analytics.behaviour.lesson import AFTER, HOURS, LATER, VICTIM, Lesson
from tests.unit.analytics.behaviour.sockets import QUICK, analyser, closed, heard_of, opened, run, usual


@pytest.fixture(scope="module")
def learned():
    return Lesson(usual)


def backdoor(at: float = LATER + 300) -> list:
    """nc, which this workload never used, speaks to a port and a host that nobody ever spoke to."""
    row = opened(12, at, "198.51.100.9", 4444, 500)
    return [row, closed(row, 200, 5_000_000, 300)]


def measured(rows, counts: Counts | None = None, reach: Reach | None = None):
    """Rows of one batch and what is measured of them."""
    heard = heard_of(rows)
    reached = (reach or Reach()).count(0, heard.connections)
    return heard, contacts.measure(counts or Counts(1000, 1000), heard, reached, np.zeros(len(heard)))


def feature(found, name: str) -> list[float]:
    return found.column(name).tolist()


# ── features ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_went_through_is_measured_at_the_end_and_not_known_before():
    row = opened(12, 100.0, "203.0.113.5", 443)
    heard, found = measured([row, closed(row, 1.0, 1023, 7)])
    assert found.features.shape == (2, len(CONNECTION_FEATURES))
    assert np.isnan(found.features[0]).tolist() == [
        name in {"sent_bytes", "received_bytes", "sent_ratio", "duration"} for name in CONNECTION_FEATURES
    ]
    assert feature(found, "sent_bytes")[1] == 10
    assert feature(found, "received_bytes")[1] == 3
    assert feature(found, "sent_ratio")[1] == 7
    assert feature(found, "duration")[1] == pytest.approx(np.log2(1001))
    assert feature(found, "peer_class") == [2, 2]
    assert heard.connections.begins.tolist() == [True, False]


def test_whoever_is_spoken_to_sends_what_comes_back():
    row = opened(12, 100.0, "10.1.0.12", 8080, direction=Direction.INBOUND, src_ip="10.1.0.77")
    heard, found = measured([closed(row, 1.0, 7, 1023)])
    assert (feature(found, "sent_bytes"), feature(found, "received_bytes")) == ([10], [3])
    assert heard.connections.peer[0].tolist() == [0, 0xFFFF0A01004D]


def test_an_attempt_that_failed_is_a_beginning():
    row = closed(opened(12, 100.0, "10.1.0.77", 22), 0.1, 0, 0, established=0, ending=4)
    heard, found = measured([row])
    assert heard.connections.begins.tolist() == [True]
    assert (feature(found, "connect_failed"), feature(found, "fan_out")) == ([1], [1])


@pytest.mark.parametrize(
    ("address", "kind", "like"),
    [("127.0.0.1", OWN, "127.9.9.9"), ("::1", OWN, "0.0.0.0"), ("10.0.0.1", INSIDE, None), ("fd00::1", INSIDE, None),
     ("198.51.100.1", OUTSIDE, "198.51.100.200"), ("2001:4860:1:2::1", OUTSIDE, "2001:4860:1:ff::9"), ("224.0.0.251", GROUP, None)],
)  # fmt: skip
def test_public_addresses_are_counted_by_their_network(address, kind, like):
    def of(text):
        return network(int.from_bytes(packed(text)[:8]), int.from_bytes(packed(text)[8:]))

    assert of(address)[0] == kind
    assert of(address) != of("192.0.9.1")
    if like:
        assert of(address) == of(like)


def test_destinations_are_counted_within_the_ten_minutes_however_rows_come():
    rows = [opened(12 if k % 3 else 13, 100 + k, f"10.1.0.{k % 7}", 443) for k in range(60)]
    c = heard_of(rows).connections
    whole = Reach().count(0, c)
    for size in (1, 7):
        reach, parts = Reach(), []
        for first, last in pairwise([*range(0, 60, size), 60]):
            parts.append(reach.count(0, c.span(first, last)))
            state = json.loads(json.dumps(reach.state() | {"doors": None})) | {"doors": reach.state()["doors"]}
            reach = Reach()
            reach.restore(state)
        assert np.array_equal(np.concatenate(parts), whole)
    assert whole[-1].tolist() == pytest.approx(np.log2([8, 41]) if rows[-1]["cgroup_id"] == 12 else whole[-1])
    assert Reach().count(1, c.span(59, 60))[0].tolist() == [1, 1], "a new span begins anew"


def test_a_row_measures_the_same_alone_and_among_others():
    counts = Counts(10_000, 1000)
    heard, _ = measured(usual(2))
    contacts.learn(counts, heard.connections, np.ones(len(heard)), 1)
    rows = usual(0.2, seed=3)
    _, together = measured(rows, counts)
    alone = [measured([row], counts)[1].features[0] for row in rows]
    counted = CONNECTION_FEATURES.index("fan_out")
    assert np.array_equal(together.features[:, :counted], np.array(alone)[:, :counted], equal_nan=True)


def test_what_a_workload_never_did_is_surprising_and_the_rest_is_not():
    counts = Counts(10_000, 1000)
    heard, _ = measured(usual(4))
    contacts.learn(counts, heard.connections, np.ones(len(heard)), 1)
    _, found = measured([opened(12, 1.0, "10.96.0.10", 80), *backdoor(2.0)[:1]], counts)
    assert feature(found, "contact_bits")[0] < 8 < feature(found, "contact_bits")[1]
    assert feature(found, "new_contacts") == [0, 2]


def test_odd_rows_do_nothing():
    nobody = opened(12, 100.0, "203.0.113.5", 443, pid=0, start_time=0)
    listening = opened(12, 101.0, "10.1.0.12", 0, direction=Direction.LISTEN, src_ip="0.0.0.0")
    strange = closed(opened(99, 102.0, "::", 65535, 5000), 1.0, 2**64 - 1, 2**64 - 1, last_time=5, begin_time=2**63)
    missed = closed(opened(12, 103.0, "127.0.0.1", 6379), 1.0, 5, 5, ending=0)
    backwards = opened(12, 104.0, "224.0.0.251", 5353, 300, proto=17, direction=0)
    heard, found = measured([nobody, listening, strange, missed, backwards])
    assert len(heard) == 4
    unknown = np.isnan(found.features)
    assert np.isfinite(found.features[~unknown]).all()
    assert unknown.any(axis=1).tolist() == [True, False, True, True]
    detector = analyser()
    run(detector, [nobody, listening, strange, missed, backwards])
    run(detector, [nobody], first=10)


# ── the detector ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_usual_connections_raise_nothing(learned):
    assert learned.findings == []
    active = [score for score in learned.scores if score["state"] == "Active"]
    assert len(active) > 100
    assert {len(score["models"]) for score in active} == {2}
    assert max(score["score"] for score in active) < 0.8
    assert all("executions" not in score and score["connections"] > 0 for score in learned.scores)


def test_a_new_program_that_connects_to_a_new_place_alarms_and_is_explained(learned):
    findings, _ = run(learned.again(), learned.later(*backdoor()), first=AFTER)
    (finding,) = findings
    assert finding.score >= 0.8
    assert (finding.subject.workload, finding.subject.exe) == (VICTIM, "/usr/bin/nc")
    assert finding.title == f"{VICTIM} behaves unlike itself: /usr/bin/nc connected to 198.51.100.9:4444 (tcp)"
    about = finding.subject
    assert (about.src_ip, about.dst_ip, about.dst_port, about.proto) == ("", "198.51.100.9", 4444, "tcp")
    text = " ".join(finding.explanation)
    assert "/usr/bin/nc never connected to port 4444 (tcp) in this workload in " in text
    assert "never in all watched workloads" in text
    assert "to 198.51.100.9:4444 (tcp) or its network never before" in text
    assert finding.events[0].event == "socket_open"
    assert [technique.id for technique in finding.techniques] == ["T1071"]


def test_it_is_told_as_it_begins_and_not_only_at_its_end(learned):
    detector = learned.again()
    begun = [row for row in learned.later(*backdoor()) if row["time"] <= LATER + 300]
    assert len(run(detector, begun, first=AFTER)[0]) == 1


def test_another_host_of_a_network_that_it_knows_does_not_alarm(learned):
    row = opened(12, LATER + 300, "203.0.113.254", 443)
    assert run(learned.again(), learned.later(row, closed(row, 2.0, 3000, 40_000)), first=AFTER)[0] == []


def test_a_single_feature_is_a_model_too(learned):
    """The place and the program are usual; that gigabytes leave is not."""
    detector = analyser(models=('{"name": "process_rarity"}', '{"name": "upload", "features": ["sent_bytes"]}'))
    row = opened(12, LATER + 300, "203.0.113.9", 443)
    run(detector, usual(HOURS), 2000)
    findings, _ = run(detector, learned.later(row, closed(row, 100.0, 20 * 10**9, 100)), first=AFTER)
    (finding,) = findings
    assert finding.key == f"upload:{VICTIM}:/usr/bin/curl"
    assert "it sent 20 GB and received 100 bytes in 100.0 s" in " ".join(finding.explanation)


def test_borders_of_batches_change_neither_scores_nor_findings(learned):
    rows = learned.later(*backdoor(), hours=0.7)
    told = []
    for size in (1, 50, len(rows)):
        findings, scores = run(learned.again(), rows, size, first=AFTER)
        told.append(([(f.id, f.key, f.score) for f in findings], json.dumps(scores)))
    assert all(one == told[0] for one in told[1:])
    assert told[0][0]


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(learned):
    rows = learned.later(*backdoor(), hours=0.7)
    whole, scores = run(learned.again(), rows, 40, first=AFTER)
    parts, said = learned.restarting(rows, 40)
    assert [f.explanation for f in parts] == [f.explanation for f in whole]
    assert said == scores


def test_what_alarmed_is_not_learned_and_is_told_once_an_hour(learned):
    detector = learned.again(models=QUICK["models"][:2])
    rows = learned.later(*backdoor(), *backdoor(LATER + 1200), *backdoor(LATER + 5000), hours=1.6)
    findings, _ = run(detector, rows, first=AFTER)
    assert [f.subject.exe for f in findings] == ["/usr/bin/nc"] * 2
    assert detector.suppressed >= 1


def test_a_state_without_connections_is_read_and_they_begin_empty(learned):
    state = {name: value for name, value in learned.state.items() if not name.startswith("connections_")}
    detector = analyser()
    detector.restore(state)
    assert detector.status()["connections"]["items"] == 0
    detector.restore(learned.state)
    assert detector.status()["connections"]["items"] > 0


def test_connections_whose_state_cannot_be_used_begin_anew_alone(learned):
    detector = analyser()
    detector.restore(learned.state | {"connections_counts_item_key": np.zeros(3), "connections_format": 1})
    assert detector.status()["connections"]["items"] == 0
    run(detector, learned.later()[:50], first=AFTER)


def test_where_no_model_asks_nothing_of_connections_is_remembered():
    silent = analyser(models=('{"name": "process_rarity"}',))
    before = silent.state()
    assert run(silent, usual(1)) == ([], [])
    after = silent.state()
    assert before.keys() == after.keys()
    assert not [name for name in after if name.startswith("connections_")]
    assert "connections" not in silent.status()


def test_executions_are_judged_the_same_beside_connections():
    rows = traffic.usual(6)
    told = [
        json.dumps(traffic.run(traffic.analyser(models=(*traffic.QUICK["models"], *more)), rows)[1])
        for more in ((), QUICK["models"][1:])
    ]
    assert told[0] == told[1]


def test_a_scan_pushes_nothing_of_executions_out():
    detector = analyser(max_items=4000)
    traffic.run(detector, traffic.usual(1))
    items = detector.status()["items"]
    run(detector, [opened(12, 4000 + k * 0.01, f"10.{k % 200}.{k // 200}.1", 443) for k in range(3000)])
    assert detector.status()["items"] == items
    assert detector.status()["connections"]["items"] <= 1000


# ── what may be declared ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_models_of_connections_are_known_by_name_and_not_built_in():
    flow, contact, rarity = models.parse([{"name": n} for n in ("network_flow", "network_contact", "process_rarity")])
    assert (flow.scope, flow.detector, contact.scope, contact.detector) == ("connection", "HBOS", "connection", "")
    assert rarity.scope == "window"
    assert all(spec.scope != "connection" for spec in models.BUILT_IN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"name": "x", "features": ["sent_byte"]}], "there is no feature 'sent_byte'; there are .*of connection: destination_bits, "),
        ([{"name": "x", "features": ["sent_bytes", "exe_bits"]}], "mixes features of different scopes .*of process: exe_bits; of connection: sent_bytes"),
        ([{"name": "network_flow"}], "looks at connections alone: declare one of executions beside it, such as process_rarity"),
        ([{"name": "network_contact", "detector": "ECOD"}], "HBOS, IForest"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_choices(given, message):
    with pytest.raises(ConfigError, match=message):
        models.parse(given)
