"""Parts of the workloads: what one process looks at, the others do not, and together they see everything once."""

from __future__ import annotations

import numpy as np
import pytest

from daemoneye import subjects
from daemoneye.errors import CorruptData
from daemoneye.events.flags import Flag
from daemoneye_analytics import checkpoint, registry
from daemoneye_analytics.checkpoint import Checkpoint
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.share import WHOLE, Share
from tests.unit.analytics import factory
from tests.unit.analytics.factory import Exec

PARTS = 3
WORKLOADS = {at: b"host/systemd/unit-%d.service" % at for at in range(1, 9)}
QUICK = {"name": "first_seen", "parameters": {"learning_events": 1, "learning_seconds": 0}}


def rows(number: int, first: int = 0) -> list[Exec]:
    """Executions of all workloads in turn, some from memory, the last cgroup's unknown, not in order of time."""
    made = [
        Exec(
            exe=b"/memfd:%d" % at if at % 3 else b"/bin/%d" % at, pid=at + 10, start=at + 1, time=at + 2, flags=Flag.MEMFD if at % 3 else 0,
            cgroup=at % 9 + 1,
        )
        for at in range(first, first + number)
    ]  # fmt: skip
    return [*made[1::2], *made[::2]]


def pipelines(parts: int = PARTS) -> list[Pipeline]:
    return [Pipeline(registry.build([QUICK]), Share(part, parts)) for part in range(parts)]


def test_each_row_is_looked_at_in_one_part():
    batch = factory.batch(rows(90), workloads=WORKLOADS)
    whole = Frame(batch)
    parts = [Frame(batch, share=Share(part, PARTS)) for part in range(PARTS)]
    assert all(0 < part.size < whole.size == 90 for part in parts)
    seen = np.sort(np.concatenate([part.exec_sequence for part in parts]))
    assert np.array_equal(seen, np.arange(90))
    for part in parts:
        assert (np.diff(part.exec_time) >= 0).all()
        assert len(part.table("process_exec")) == len(part.rows("process_exec")) == part.size
        names = {part.identities[at].workload for at in part.identity[part.exec_image]}
        others = {o.identities[at].workload for o in parts if o is not part for at in o.identity[o.exec_image]}
        assert not names & others, "all of a workload is in one part"
        assert len(part.images.section.rows) == len(whole.images.section.rows), "what explains is there in each"


def test_rows_that_were_processed_are_not_looked_at_again():
    batch = factory.batch(rows(90), workloads=WORKLOADS)
    assert sum(Frame(batch, skip=40, share=Share(part, PARTS)).size for part in range(PARTS)) == 50


def test_together_they_find_what_one_finds_and_count_what_one_counts():
    one, several = Pipeline(registry.build([QUICK])), pipelines()
    found, together = [], []
    for first in range(0, 180, 60):
        batch = factory.batch(rows(60, first), first=first, workloads=WORKLOADS)
        found += one.process(batch)
        for part in several:
            together += part.process(batch)
    assert sorted(f.id for f in together) == sorted(f.id for f in found)
    assert {f.detector for f in found} >= {"suspicious_exec", "first_seen"}
    assert sum(part.events for part in several) == one.events == 180
    assert all(part.watermarks.by_node() == one.watermarks.by_node() for part in several)


def test_losses_are_counted_by_whose_node_it_is():
    several = pipelines()
    for part in several:
        part.process(factory.batch([], lane="loss", sections=[factory.losses(first=0, count=5)]))
    counted = [sum(part.counts.lost.values()) for part in several]
    assert sorted(counted) == [0, 0, 5]
    assert counted[subjects.shard_of("n1", PARTS)] == 5
    assert [part.events for part in several] == [int(count > 0) for count in counted]


def test_a_budget_is_divided():
    assert [WHOLE.budget(n) for n in (0, 1, 50)] == [0, 1, 50]
    assert [Share(1, 4).budget(n) for n in (0, 1, 50)] == [0, 1, 13]
    (part,) = pipelines(1)
    part.configure([], budgets={"shop": 50})
    assert part.budget.limits == {"shop": 50}


def test_a_node_has_the_same_stream_for_ever():
    # Sensors and analytics of different releases must agree.
    assert [subjects.shard_of(name, 16) for name in ("node-1", "n1", "ip-10-0-0-7.example", "n\udcff")] == GOLDEN
    assert subjects.shard_of("node-1", 1) == 0


GOLDEN = [15, 1, 2, 3]


def test_checkpoints_of_releases_that_knew_one_stream():
    old = checkpoint.decode(checkpoint.encode(Checkpoint(3, 17, {})))
    assert (old.positions, old.read, old.parts) == ({0: 17}, 17, 1)
    new = checkpoint.decode(checkpoint.encode(Checkpoint(3, 17, {"positions": {"0": 17, "1": 4}, "parts": 2})))
    assert (new.positions, new.read, new.parts) == ({0: 17, 1: 4}, 21, 2)


@pytest.mark.parametrize(
    "facts", [{"positions": 5}, {"positions": {"x": 1}}, {"positions": {"1": None}}, {"parts": "x"}]
)
def test_a_checkpoint_whose_places_are_none_is_refused(facts):
    with pytest.raises(CorruptData):
        checkpoint.decode(checkpoint.encode(Checkpoint(1, 1, facts)))
