"""Which streams the operator has the broker keep."""

from __future__ import annotations

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
