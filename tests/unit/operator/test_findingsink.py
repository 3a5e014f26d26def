"""From stream to objects: acknowledged when stored, whatever the API server refuses; counted when acknowledged.

The API server is a table here; tests/cluster/test_operator.py does the same on a real one.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from daemoneye_operator import findingsink
from daemoneye_operator.errors import ApiError
from daemoneye_operator.findingsink import FindingSink
from daemoneye_operator.reconcile.exception import Exceptions
from daemoneye_operator.reconcile.findings import Aggregation, Limits
from daemoneye_operator.reconcile.tally import Tallies
from tests.unit.operator.factory import finding, policy


class Api:
    """Objects by path; what `refuse` gives for a path is raised."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.refuse: Any = lambda path: None

    async def apply(self, path, obj):
        if (status := self.refuse(path)) is not None:
            raise ApiError(f"refused {path}", status=status)
        self.applied.append(path)
        return obj

    async def get(self, path):
        return {} if path in self.applied else None

    async def delete(self, path):
        self.applied = [p for p in self.applied if not p.startswith(path)]


class Message:
    def __init__(self, number, found):
        self.metadata = SimpleNamespace(sequence=SimpleNamespace(stream=number))
        self.data = found if isinstance(found, bytes) else found.encode()
        self.acknowledged = self.put_off = 0

    async def ack(self):
        self.acknowledged += 1

    async def nak(self, delay):
        assert delay > 0
        self.put_off += 1


class Bench:
    def __init__(self) -> None:
        self.api = Api()
        self.tallies = Tallies()
        self.policy = policy("p")
        self.tallies.know([self.policy], lambda name: None)
        kube: Any = self.api
        self.aggregation = Aggregation(Limits(age=1e12), "security", instance="operator-0")
        self.sink = FindingSink(kube, self.aggregation, Exceptions(), self.tallies, lambda: None)

    def turn(self, *messages: Any) -> bool:
        async def turn() -> bool:
            await self.sink._take(list(messages))
            done = await self.sink.flush()
            await self.sink._acknowledge()
            return done

        return asyncio.run(turn())

    @property
    def total(self) -> int:
        return self.tallies.of(self.policy).total


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(findingsink, "COUNT_EVERY_S", 0.0)
    return Bench()


def message(number, **change):
    return Message(number, finding(number, **change))


def test_stored_then_acknowledged_then_counted(bench):
    one = message(1)
    assert bench.turn(one)
    assert one.acknowledged == 1
    assert bench.total == 1
    assert len(bench.api.applied) == 3, "object, status, Event"


def test_an_api_server_that_is_away_holds_everything_back(bench):
    bench.api.refuse = lambda path: 503
    one = message(1)
    assert not bench.turn(one)
    again = Message(1, finding(1))
    assert not bench.turn(again), "what is delivered again in the meantime is no sign that it was stored"
    assert (one.acknowledged, again.acknowledged, bench.total) == (0, 0, 0)
    bench.api.refuse = lambda path: None
    assert bench.turn()
    assert again.acknowledged == 1
    assert bench.total == 1, "once, though it came twice"


def test_one_that_cannot_be_written_holds_up_its_own_alone(bench):
    first = message(1, key="bad")
    bench.api.refuse = lambda path: 503
    bench.turn(first)
    (stuck,) = bench.aggregation.dirty()
    bench.api.refuse = lambda path: 503 if stuck.name in path else None
    good = message(2, key="good")
    assert not bench.turn(good)
    assert (first.acknowledged, good.acknowledged) == (0, 1)


def test_a_refused_event_is_neither_lost_work_nor_tried_for_ever(bench):
    asked = []

    def refuse(path):
        if "/events/" in path:
            asked.append(path)
            return 403
        return None

    bench.api.refuse = refuse
    assert bench.turn(message(1))
    assert bench.turn(message(2))
    assert bench.turn(message(3))
    assert len(asked) == 1
    assert bench.total == 3


def test_an_event_that_could_not_be_written_now_comes_later(bench):
    bench.api.refuse = lambda path: 503 if "/events/" in path else None
    one = message(1)
    assert not bench.turn(one)
    assert one.acknowledged == 0
    bench.api.refuse = lambda path: None
    assert bench.turn()
    assert one.acknowledged == 1
    assert sum("/events/" in path for path in bench.api.applied) == 1


def test_a_status_that_is_refused_for_good_stops_nobody(bench):
    assert bench.turn(message(1))
    bench.api.refuse = lambda path: 422 if path.endswith("/status") else None
    two = message(2)
    assert bench.turn(two)
    assert two.acknowledged == 1
    assert bench.sink.counters()["lost"] == 1


def test_a_namespace_that_is_gone_is_counted_and_done_with(bench):
    bench.api.refuse = lambda path: 404
    one = message(1)
    assert bench.turn(one)
    assert one.acknowledged == 1
    assert bench.sink.counters()["lost"] == 1


def test_what_is_no_finding_is_counted_and_acknowledged(bench):
    broken = Message(1, b"{}")
    assert bench.turn(broken)
    assert broken.acknowledged == 1
    assert bench.sink.counters()["corrupt"] == 1


def test_who_fails_lets_others_have_their_turn(bench, monkeypatch):
    monkeypatch.setattr(findingsink, "_MAX_PENDING", 2)
    messages = [message(n, key=f"k{n}") for n in range(1, 7)]
    bench.api.refuse = lambda path: 503
    bench.turn(*messages)
    first = dict(bench.sink._tried)
    bench.turn()
    assert len(bench.sink._tried) == len(first) + 2, "two others were tried"


def test_a_namespace_whose_objects_are_refused_leaves_room_for_the_others(bench, monkeypatch):
    monkeypatch.setattr(findingsink, "_OF_ONE_NAMESPACE", 4)
    bench.api.refuse = lambda path: 500 if "/shop/" in path else None
    stuck = [message(n, key=f"k{n}") for n in range(1, 5)]
    assert not bench.turn(*stuck)
    assert bench.sink.waiting == 4
    late, other = message(5, key="late"), message(6, key="k", namespace="bank", workload="bank/Pod/x/x")
    assert not bench.turn(late, other)
    assert (late.acknowledged, late.put_off) == (0, 1), "the broker sends it again later"
    assert (other.acknowledged, other.put_off) == (1, 0)
    again = message(1, key="k1")
    bench.turn(again)
    assert again.put_off == 0, "what waits here already takes its own place"
    bench.api.refuse = lambda path: None
    assert bench.turn()
    assert bench.sink.waiting == 0
    assert bench.turn(late)
    assert late.acknowledged == 1
    assert bench.total == 6, "nothing was lost, and nothing counted twice"


def test_a_flood_that_the_api_server_takes_is_put_off_by_nobody(bench, monkeypatch):
    monkeypatch.setattr(findingsink, "_OF_ONE_NAMESPACE", 4)
    monkeypatch.setattr(findingsink, "COUNT_EVERY_S", 60.0)
    assert bench.turn(message(1))
    repeats = [message(n) for n in range(2, 20)]
    bench.turn(*repeats)
    fresh = message(30, key="new")
    bench.turn(fresh)
    assert fresh.acknowledged == 1
    assert bench.sink.waiting == 0, "who only waits for its turn waits for no API server"


def test_findings_are_counted_by_severity_when_they_are_done_with(bench):
    bench.turn(message(1), message(2, severity="low", key="l"), message(1))
    assert bench.sink.counted == {"high": 1, "low": 1}
