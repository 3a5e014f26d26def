"""What the operator makes of the heartbeats of several parts of analytics."""

from __future__ import annotations

from daemoneye_operator.reconcile.judges import Judges


def said(part: int | None = None, *, problems: object = None, active: int = 0) -> dict[str, object]:
    detectors = {"behavioral_anomaly": {"phases": {"Active": active}}}
    return {"problems": problems, "detectors": detectors} | ({} if part is None else {"part": part})


def test_a_release_that_knew_one_part():
    judges = Judges()
    assert (judges.heard, judges.named) == (None, "Analytics")
    assert judges.hear(said(problems={"web": "no"}, active=3), 5.0)
    assert not judges.hear(said(problems={"web": "no"}, active=4), 6.0)
    assert (judges.heard, judges.problems, judges.phases) == (6.0, {"web": "no"}, {"Active": 4})


def test_all_parts_must_be_heard_and_the_one_that_is_silent_longest_is_named():
    judges = Judges(3)
    assert judges.hear(said(0, active=1), 5.0)
    assert judges.hear(said(2, active=2), 6.0)
    assert not judges.heard
    assert judges.named == "Part 1 of analytics, of 3 counted from 0,"
    assert judges.hear(said(1, active=4, problems={"web": "no"}), 7.0)
    assert [judges.heard, judges.silent] == [5.0, 0]
    judges.hear(said(0, active=1), 8.0)
    assert [judges.heard, judges.silent] == [6.0, 2]
    assert judges.phases == {"Active": 7}
    assert judges.problems == {"web": "no"}


def test_what_no_part_says_changes_nothing():
    judges = Judges(2)
    for odd in (said(2), said(-1), {"part": "0"}, {"part": None}):
        assert not judges.hear(odd, 1.0)
    assert judges.phases == {}
    assert judges.hear("no object", 2.0), "as before: something speaks"
