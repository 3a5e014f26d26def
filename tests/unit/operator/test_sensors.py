"""When the sensors' DaemonSet is applied: somebody's deletion of it must have been noticed first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemoneye_operator.sensors import NOTICED_WITHIN_S, Sensors
from tests.unit.operator.factory import settings

THERE = {"metadata": {"generation": 1}}
PODS = ("sensor-a", "sensor-b")


class Api:
    """Counts what is applied."""

    def __init__(self) -> None:
        self.applied: list[str] = []

    async def apply(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        self.applied.append(obj["kind"])
        return {"metadata": {"generation": 1}}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def ours(api: Api) -> Sensors:
    kube: Any = api
    return Sensors(kube, settings(), "uid")


def passes(ours: Sensors, *worlds: tuple[dict[str, Any] | None, tuple[str, ...]]) -> None:
    """A pass in each of these worlds: the DaemonSet, and its pods that nobody ends."""
    for there, pods in worlds:
        asyncio.run(ours.apply([], None, there, pods))


def test_at_an_installation_it_is_made_at_once(ours: Sensors, api: Api) -> None:
    passes(ours, (None, ()))
    assert api.applied == ["ConfigMap", "DaemonSet"]


def test_a_deleted_one_is_made_again_when_its_first_pod_ends(ours: Sensors, api: Api) -> None:
    passes(ours, (THERE, PODS))
    api.applied.clear()
    passes(ours, (None, PODS), (None, PODS))
    assert api.applied == []
    passes(ours, (None, PODS[1:]))
    assert api.applied == ["ConfigMap", "DaemonSet"]


def test_pods_that_were_left_to_themselves_are_taken_over_at_once(ours: Sensors, api: Api) -> None:
    """After `kubectl delete --cascade=orphan` nothing owns them."""
    passes(ours, (THERE, PODS))
    api.applied.clear()
    passes(ours, (None, ()))
    assert api.applied == ["ConfigMap", "DaemonSet"]


def test_it_is_not_waited_for_ever(ours: Sensors, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("daemoneye_operator.sensors.time.monotonic", lambda: now[0])
    passes(ours, (None, PODS))
    now[0] += NOTICED_WITHIN_S - 1
    passes(ours, (None, PODS))
    assert api.applied == []
    now[0] += 1
    passes(ours, (None, PODS))
    assert api.applied == ["ConfigMap", "DaemonSet"]


def test_each_deletion_has_its_own_time(ours: Sensors, api: Api) -> None:
    passes(ours, (None, PODS), (None, PODS[1:]), (THERE, PODS))
    api.applied.clear()
    passes(ours, (None, PODS))
    assert api.applied == []
