"""What the operator says of passes that fail; what a pass does is seen in tests/integration and tests/cluster."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from daemoneye_operator import controller
from daemoneye_operator.controller import Controller, Ledger

PASSES = 20


class Bad(Controller):
    """Its passes fail at a bad object, which is another one each time."""

    async def once(self, now: float) -> None:
        if self.passes >= PASSES:
            raise asyncio.CancelledError
        found = {} if self.passes % 2 else {f"object-{self.passes}": 1}
        found[f"object-{self.passes + 1}"] += 1


@pytest.fixture
def bad(monkeypatch):
    monkeypatch.setattr(controller, "_RETRY_S", 0)
    nothing: Any = SimpleNamespace()
    settings: Any = SimpleNamespace(sensor=SimpleNamespace(status_interval_seconds=0.001))
    return Bad(
        nothing, settings, cache=nothing, watches=nothing, bus=nothing, heartbeats=nothing, sensors=nothing, ledger=Ledger()
    )  # fmt: skip


async def test_an_unexpected_error_is_told_with_its_place_once_and_briefly_after_that(bad, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING, "daemoneye_operator.controller"), pytest.raises(asyncio.CancelledError):
        await bad.run()
    assert bad.failed == PASSES
    (record,) = caplog.records
    assert record.exc_info
    monkeypatch.setattr(controller, "_MINUTE", 0.0)
    bad.passes = PASSES - 1
    with caplog.at_level(logging.WARNING, "daemoneye_operator.controller"), pytest.raises(asyncio.CancelledError):
        await bad.run()
    _, later = caplog.records
    assert not later.exc_info
    assert later.getMessage() == f"will be tried again: KeyError('object-{PASSES}')"
    assert bad.trouble == f"'object-{PASSES}'"
