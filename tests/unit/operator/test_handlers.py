"""How kopf behaves here when the API server does not."""

from __future__ import annotations

import logging
from itertools import islice
from types import SimpleNamespace

from daemoneye_operator import handlers


def test_it_never_gives_up_and_waits_for_ten_seconds_at_most():
    backoffs = handlers.settings().networking.error_backoffs
    assert not isinstance(backoffs, float)
    for _ in range(2):  # each request begins anew
        waits = list(islice(backoffs, 1000))
        assert waits[0] < 1
        assert max(waits) == waits[-1] == 10.0


def test_what_goes_wrong_again_and_again_is_said_once_a_minute(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    record = logging.makeLogRecord({"msg": "refused"})
    once = handlers._OnceAMinute()
    assert [once.filter(record) for _ in range(3)] == [True, False, False]
    now[0] += 60
    assert once.filter(record)
