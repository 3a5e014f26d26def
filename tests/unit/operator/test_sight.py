"""Who sees nothing is blind; an API server that is away blinds nobody."""

from __future__ import annotations

import pytest

from daemoneye_operator import sight
from daemoneye_operator.sight import Sight

PERIOD = 10.0
"""The kubelet's."""


class Bench:
    """A process that is asked every ten seconds."""

    def __init__(self, **patience: float) -> None:
        self.sight = Sight(patience)
        self.now = 1000.0

    def run(self, seconds: float, since, *, answered: bool = True) -> dict[str, float]:
        """`since` says by watch since when it has shown nothing, or None when it is up to date."""
        blind: dict[str, float] = {}
        last = self.now
        for _ in range(int(seconds / PERIOD)):
            self.now += PERIOD
            last = self.now if answered else last
            blind = self.sight.look(self.now, last, {k: self.now if v is None else v for k, v in since.items()})
        return blind


@pytest.fixture
def bench():
    return Bench(kopf=sight.UNTOLD_S)


def test_who_hears_is_not_blind(bench):
    assert bench.run(5000, {"pods": None, "kopf": None}) == {}


def test_who_hears_nothing_while_others_are_answered_is_blind_after_a_while(bench):
    assert bench.run(sight.WATCH_S, {"pods": 1000.0, "nodes": None}) == {}
    assert bench.run(20, {"pods": 1000.0, "nodes": None}) == {"pods": pytest.approx(sight.WATCH_S + 10)}


def test_each_has_its_own_patience(bench):
    assert bench.run(sight.UNTOLD_S + 20, {"pods": 1000.0, "kopf": 1000.0}).keys() == {"kopf"}


def test_an_api_server_that_is_away_blinds_nobody(bench):
    deaf = {"pods": 1000.0, "kopf": 1000.0}
    assert bench.run(24 * 3600, deaf, answered=False) == {}
    # It comes back: everybody has all of his time to come back, too.
    assert bench.run(sight.UNTOLD_S - 90, deaf) == {}
    assert bench.run(200, {"pods": None, "kopf": None}) == {}


def test_who_hears_again_begins_anew(bench):
    bench.run(sight.WATCH_S - 20, {"pods": 1000.0})
    bench.run(10, {"pods": 1500.0})
    assert bench.run(sight.WATCH_S - 20, {"pods": 1500.0}) == {}
    assert bench.run(40, {"pods": 1500.0}).keys() == {"pods"}


def test_a_time_in_which_nobody_asked_does_not_count(bench):
    bench.run(20, {"pods": 1000.0})
    bench.now += 3600
    assert bench.run(20, {"pods": 1000.0}) == {}


def test_the_verdict_says_what_and_for_how_long(caplog):
    assert sight.verdict({}, ()) == {"ok": True}
    assert not caplog.records
    assert sight.verdict({"pods": 612.4}, ()) == {
        "ok": False, "blind": "pods: nothing for 612 s though the API server answers",
    }  # fmt: skip
    assert caplog.messages == [
        "blind, /healthz fails so that the pod is started anew: pods: nothing for 612 s though the API server answers"
    ]
