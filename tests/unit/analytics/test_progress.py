"""How far and how late analytics is, and whether it lives."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from daemoneye import metrics as m
from daemoneye.envelope import Envelope
from daemoneye.exposition import Exposition
from daemoneye.findings import Finding, Subject
from daemoneye_analytics import answers
from daemoneye_analytics.progress import Progress

SECOND = 1_000_000_000
FINDING = Finding("0" * 32, "", "high", 1.0, "d", "t", Subject("n"), "k")


def batch(age_s: float, rows: int = 1) -> Envelope:
    offset = time.time_ns() - int(age_s * SECOND) - 5 * SECOND
    return Envelope("n", "b", 1, "urgent", 0, rows, offset, first_time=SECOND, last_time=5 * SECOND)


def observed(progress: Progress, metric: m.Metric) -> tuple[float, float]:
    text = Exposition("analytics", "1", list, [progress.event_delay, progress.finding_delay]).page().decode()
    values = dict(line.split(" ") for line in text.splitlines() if line.startswith(metric.name))
    return float(values[f"{metric.name}_count"]), float(values[f"{metric.name}_sum"])


def test_it_is_behind_only_while_messages_wait() -> None:
    progress = Progress()
    progress.process(batch(400))
    assert progress.behind_s == 0
    progress.lag = 3
    assert 400 <= progress.behind_s < 460
    progress.process(batch(100))
    assert 100 <= progress.behind_s < 160
    # One node's old events, which waited in its spool, do not make all the others late.
    progress.process(batch(7200))
    assert 100 <= progress.behind_s < 160


def test_before_anything_is_processed_it_is_as_far_behind_as_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    progress.lag = 1
    later = time.time_ns() + 600 * SECOND
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert 600 <= progress.behind_s < 660


def test_a_clock_that_is_ahead_is_no_negative_delay() -> None:
    progress = Progress()
    progress.process(batch(-7200))
    progress.process(batch(0, rows=0))
    assert observed(progress, m.ANALYTICS_EVENT_DELAY) == (1, 0)
    progress.lag = 1
    assert 0 <= progress.behind_s < 60
    progress.store(replace(FINDING, time="2100-01-01T00:00:00Z"))
    assert observed(progress, m.ANALYTICS_FINDING_DELAY) == (1, 0)


def test_a_finding_counts_whatever_its_detector_takes_for_a_time() -> None:
    progress = Progress()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(time.time() - 30))
    for text in (moment, "yesterday", "", "9999-12-31T23:59:59.999999999-23:59"):
        progress.store(replace(FINDING, time=text))
    assert progress.stored == {("d", "high"): 4}
    count, total = observed(progress, m.ANALYTICS_FINDING_DELAY)
    assert count in {1, 2}  # a year beyond Python's is a time or none
    assert 29 <= total < 90


def test_it_is_dead_when_nothing_goes_on_though_the_broker_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress()
    consumer: Any = SimpleNamespace(progress=progress, connected=True)
    assert answers.alive(None) == answers.alive(consumer) == {"ok": True, "reason": ""}
    progress._turned -= answers.STUCK_S + 1
    assert answers.alive(consumer) == {"ok": False, "reason": "nothing has gone on for 121 s"}
    consumer.connected = False
    assert answers.alive(consumer)["ok"], "a broker that is away is no reason to begin anew"
    consumer.connected = True
    progress.turn()
    assert answers.alive(consumer)["ok"]
