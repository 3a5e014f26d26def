"""What heartbeats say of costs: rates out of two of them, honest gaps, and the table."""

import json

import pytest

from daemoneye import subjects
from daemoneye_cli.heartbeats import BROKER, MAX_BYTES, Cost, Heartbeats, analytics
from daemoneye_cli.main import main
from daemoneye_cli.show.top import ordered, top_lines, top_object
from tests.unit.cli.heartbeat import heartbeat

UNSAFE = ("\x1b", "\x07", "\r", "\u202e")


def heard(*beats: dict, node: str = "node-1") -> Heartbeats:
    found = Heartbeats()
    for beat in beats:
        assert found.put(subjects.status(node), json.dumps(beat).encode(), beat["time"] / 1e9)
    return found


def cost(*beats: dict) -> Cost:
    (found,) = heard(*beats).costs()
    return found


def test_two_heartbeats_make_rates():
    found = cost(heartbeat(0, cpu=1.0, wakeups=100, events=10), heartbeat(10, cpu=1.05, wakeups=140, events=1010))
    assert found.component == "sensor"
    assert found.cpu_percent == pytest.approx(0.5)
    assert found.wakeups_per_second == pytest.approx(4)
    assert found.events_per_second == pytest.approx(100)
    assert (found.rss_bytes, found.unsent, found.unsent_bytes, found.version) == (60 << 20, 3, 4096, "0.1.0")
    assert (found.lost, found.lost_total) == ({"ring": 12, "spool": 5}, 17)


def test_one_heartbeat_makes_none():
    found = cost(heartbeat(0))
    assert (found.cpu_percent, found.wakeups_per_second, found.events_per_second) == (None, None, None)
    assert found.rss_bytes == 60 << 20


def test_two_that_come_together_are_not_compared():
    assert cost(heartbeat(0), heartbeat(0.1, cpu=1.2)).cpu_percent is None
    assert cost(heartbeat(0), heartbeat(0.1, cpu=1.2), heartbeat(10, cpu=1.5)).cpu_percent == pytest.approx(5)


def test_a_process_that_began_anew_is_measured_anew():
    assert cost(heartbeat(0, cpu=9.0), heartbeat(10, cpu=0.5, pid=8)).cpu_percent is None
    assert cost(heartbeat(0, cpu=9.0), heartbeat(10, cpu=0.5)).cpu_percent is None
    found = cost(heartbeat(0, cpu=9.0), heartbeat(10, cpu=0.5, pid=8), heartbeat(20, cpu=0.6, pid=8))
    assert found.cpu_percent == pytest.approx(1)


def test_rates_are_those_of_the_last_half_minute():
    slow = [heartbeat(10 * i, cpu=1 + 0.1 * i) for i in range(10)]
    fast = [heartbeat(100 + 10 * i, cpu=2 + 5 * i) for i in range(4)]
    assert cost(*slow, *fast).cpu_percent == pytest.approx(50)


def test_who_was_expected_and_not_heard_has_an_empty_line():
    found = heard(heartbeat(0))
    costs = found.costs([("node", "node-1"), ("node", "node-2"), ("component", "operator")])
    assert [one.name for one in costs] == ["node-1", "node-2", "operator"]
    assert costs[1] == Cost("sensor", "node-2")
    assert found.silent([("node", "node-2"), ("component", "operator"), BROKER]) == [
        ("node", "node-2"),
        ("component", "operator"),
    ]


HOSTILE = [
    b"", b"[]", b"null", b"{", b'"x"', b"\xff", b"{" + b" " * MAX_BYTES + b"}", b"[" * 100_000,
]  # fmt: skip
ODD = [
    {"self": 1, "spool": [], "lost": "x", "time": "now", "pid": {}, "events": True, "version": 7, "state": None},
    {"self": {"cpu_s": "1", "rss_bytes": -1e400, "wakeups": None}, "lost": {"\x1b[31m": 3, "x": "y", "z": -1}},
    {"time": 1e400, "events": 10**400, "lost": {str(number): 1 for number in range(1000)}, "version": "9" * 10_000},
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_heartbeat_is_ignored(data):
    found = Heartbeats()
    assert not found.put(subjects.status("node-1"), data, 0.0)
    assert not found.put("daemoneye.v1.status.a_b", b"{}", 0.0)
    assert not found.processes


@pytest.mark.parametrize("beat", ODD, ids=range(len(ODD)))
def test_odd_heartbeats_are_harmless(beat):
    found = Heartbeats()
    for moment in (0.0, 10.0):
        assert found.put(subjects.status("node-1"), json.dumps(beat).encode(), moment)
    costs = ordered(found.costs(), "cpu")
    assert all(len(line) < 100 and not any(mark in line for mark in UNSAFE) for line in top_lines(costs))
    json.dumps(top_object(costs[0]))


def test_the_table():
    costs = [
        Cost("sensor", "node-1", "ready", "0.1.0", 0.21, 60 << 20, 4.2, 1234.5, {"ring": 12, "spool": 5}, 3, 4096, 2.4),
        Cost("sensor", "node-2", "ready", "0.1.0", 12.5, 70 << 20, 40.0, 10.0, {}, 0, 0, 9.0),
        Cost("sensor", "node-3"),
        Cost("analytics", "analytics", "running", "0.1.0", None, None, None, 1200.0, None, None, None, 0.5),
        Cost("operator", "operator"),
        Cost("broker", "broker", version="2.15.1"),
    ]
    assert list(top_lines(ordered(costs, "cpu"))) == [
        "NAME       CPU%   RSS  WAKE/S  EVENTS/S  LOST  UNSENT  VERSION  AGE",
        "node-2     12.5  70Mi    40.0      10.0     0       0  0.1.0     9s",
        "node-1      0.2  60Mi     4.2     1,234    17       3  0.1.0     2s",
        "node-3        -     -       -         -     -       -  -          -",
        "analytics     -     -       -     1,200     -       -  0.1.0     0s",
        "broker        -     -       -         -     -       -  2.15.1     -",
        "operator      -     -       -         -     -       -  -          -",
        "  node-1 lost: ring 12, spool 5",
        "Sensors: 2 of 3 heard; together 12.7 % of a core, 130Mi, 1,244 events/s, lost 17",
    ]
    assert [one.name for one in ordered(costs, "events")][:3] == ["node-1", "analytics", "node-2"]
    assert ordered(costs, "lost")[0].name == "node-1"
    assert [one.name for one in ordered(costs, "name")] == [
        "node-1", "node-2", "node-3", "analytics", "broker", "operator",
    ]  # fmt: skip


def test_the_widest_table_has_less_than_100_columns():
    number = 10**17 + 1
    widest = Cost(
        "sensor", "n" * 300, "s" * 64, "v" * 64, 99_999_999.0, number, 9e14, 9e14, {"stage" * 12: number, "b": 1}, number, number, 1e7
    )  # fmt: skip
    assert max(map(len, top_lines([widest, Cost("sensor", "\x1b\u202e" * 40)]))) < 100


def test_the_analysers_workloads_are_told_by_analytics_alone():
    said = {"detectors": {"behavioral_anomaly": {"phases": {"Learning": 2, "Calibrating": 0, "Active": 40, "x": "y"}}}}
    beats = Heartbeats()
    for subject in (subjects.component("analytics"), subjects.status("node-1")):
        assert beats.put(subject, json.dumps(heartbeat(0) | said).encode(), 0.0)
    lines = list(top_lines(ordered(beats.costs(), "name")))
    assert [line for line in lines if "workload" in line] == ["analytics: 42 workloads: Learning 2, Active 40"]
    assert [top_object(one)["phases"] for one in beats.costs() if one.component == "sensor"] == [None]


def test_each_part_of_analytics_has_a_line():
    beats = Heartbeats()
    for part in (0, 1):
        assert beats.put(
            subjects.component("analytics"), json.dumps(heartbeat(0) | {"part": part, "parts": 2}).encode(), 0.0
        )
    assert [cost.name for cost in ordered(beats.costs(), "name")] == ["analytics", "analytics-1"]
    assert beats.silent([analytics(part) for part in range(3)]) == [("component", "analytics-2")]


def test_a_node_that_bears_a_components_name():
    lines = list(top_lines([Cost("sensor", "analytics"), Cost("analytics", "analytics")]))
    assert lines[1].startswith("node/analytics ")
    assert lines[2].startswith("analytics ")


@pytest.mark.parametrize(
    "arguments", [["--sort", "x"], ["--watch", "0"], ["--wait", "no"], ["-o", "live"]], ids=" ".join
)
def test_wrong_usage(arguments, capsys):
    for command in (["top"], ["-k", "top"]):
        assert main([*command, *arguments]) == 2
        assert "usage:" in capsys.readouterr().err


def test_without_a_running_instance(tmp_path, capsys):
    assert main(["top", "--state", str(tmp_path)]) == 3
    assert "no daemoneye runs with" in capsys.readouterr().err
