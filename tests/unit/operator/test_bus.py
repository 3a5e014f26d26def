"""Which streams the operator has the broker keep, and what it takes of analytics' heartbeat."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from daemoneye_operator.bus import Bus
from daemoneye_operator.settings import Evidence
from tests.support.broker import settings


def declared(evidence: Evidence) -> dict[str, tuple[int, float, str]]:
    told = settings().model_copy(update={"evidence": evidence})
    streams = Bus(told, lambda _: None, lambda: None).declared()  # type: ignore[arg-type]
    return {stream.name: (stream.max_bytes, stream.max_age, stream.discard) for stream in streams}


def test_evidence_is_kept_where_it_is_asked_for_and_within_its_bounds():
    assert "OBJ_daemoneye_evidence" not in declared(Evidence())
    kept = declared(Evidence(enabled=True, max_bytes=32 << 20, max_age=3600))
    assert kept["OBJ_daemoneye_evidence"] == (32 << 20, 3600, "old")


@pytest.mark.parametrize(
    ("detectors", "phases"),
    [
        ({"behavioral_anomaly": {"phases": {"Learning": 3, "Active": 4, "Unheard": 9}}}, {"Learning": 3, "Active": 4}),
        ({"behavioral_anomaly": {"phases": {"Learning": -1, "Active": "4", "Drifted": 1 << 40}}}, {}),
        ({"behavioral_anomaly": {"phases": [1]}}, {}),
        ({"first_seen": {"phase": "active"}}, {}),
        ("none", {}),
    ],
)
async def test_workloads_by_phase_are_taken_as_far_as_they_are_counts(detectors, phases):
    bus = Bus(settings(), lambda _: None, lambda: None)  # type: ignore[arg-type]
    await bus._component(SimpleNamespace(data=json.dumps({"detectors": detectors}).encode()))  # type: ignore[arg-type]
    assert bus.judges.heard
    assert bus.judges.phases == phases
