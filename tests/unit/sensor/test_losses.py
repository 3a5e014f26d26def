"""Losses: counted when they happen, told as rows, each once."""

from __future__ import annotations

import numpy as np

from daemoneye_sensor.losses import STAGES, Losses
from daemoneye_sensor.sources.base import Lost
from daemoneye_sensor.spool import Entry, Evicted

FULL = Lost("ring", "exec", 5, "ring full")
UNKNOWN = 2**64 - 1


def rows(losses: Losses) -> list[tuple[str, int, int]]:
    section = losses.section(1, 2)
    stages = [stage.decode() for stage in section.values("stage")]
    return list(zip(stages, section.rows["first_sequence"].tolist(), section.rows["count"].tolist(), strict=True))


def test_every_stage_is_counted_from_the_start_and_for_good() -> None:
    losses = Losses()
    assert losses.counts == dict.fromkeys(STAGES, 0)
    losses.add(FULL, "urgent")
    losses.refused(Entry("urgent", 9, 100, 7, b"", 1, 0), "too large")
    assert rows(losses) == [("ring", UNKNOWN, 5), ("publish", 100, 7)]
    losses.told()
    assert not losses
    losses.evicted(Evicted("bulk", 9, 10, 3))
    assert rows(losses) == [("spool", 10, 3)]
    assert losses.counts == {**dict.fromkeys(STAGES, 0), "ring": 5, "publish": 7, "spool": 3}


def test_rows_that_tell_losses_are_none() -> None:
    losses = Losses()
    losses.evicted(Evicted("loss", 9, 0, 3))
    losses.refused(Entry("loss", 9, 3, 1, b"", 1, 0), "too large")
    assert not losses
    assert not any(losses.counts.values())


def test_a_disk_that_stays_full_fills_no_memory() -> None:
    losses = Losses()
    no_room = Lost("spool", "", 10, "no room on the disk")
    for turn in range(1000):
        losses.add(FULL, "urgent")
        losses.add(no_room, "urgent", 10 * turn, 9)
    assert rows(losses) == [("ring", UNKNOWN, 5000), ("spool", 0, 10_000)]
    assert losses.counts["spool"] == 10_000


def test_what_does_not_go_on_is_told_apart() -> None:
    losses = Losses()
    no_room = Lost("spool", "", 10, "no room on the disk")
    for first, epoch, lane in ((0, 1, "urgent"), (11, 1, "urgent"), (21, 2, "urgent"), (21, 1, "bulk")):
        losses.add(no_room, lane, first, epoch)
    section = losses.section(1, 2)
    assert len(section.rows) == 4
    assert section.rows["count"].tolist() == [10] * 4
    assert np.unique(section.rows["time"]).tolist() == [2]
