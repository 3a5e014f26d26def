"""Source → spool: exactly once over crashes, and losses that become records."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events.codec import section_of
from daemoneye.events.process_exit import PROCESS_EXIT
from daemoneye_sensor.feed import Feed
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.settings import load
from daemoneye_sensor.sources.base import Drain, Lost, Origin
from daemoneye_sensor.spool import Entry, Spool


class Tape:
    """A source that outlives its readers, like a pinned ring: a list of numbers with a consumer position."""

    patient = False
    finished = False

    def __init__(self, epoch: int = 9, name: str = "tape") -> None:
        self.name = name
        self.written: list[int] = []
        self.position = 0
        self.epoch = epoch
        self.losses: list[Lost] = []
        self.resumed: Mapping[str, int] = {}

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:
        self.resumed = dict(resume)
        if epoch == self.epoch:
            self.position = max(self.position, resume.get("tape", 0))
        return Origin("", "boot", self.epoch, 1000)

    def wake_fd(self) -> None:
        return None

    def drain(self) -> Drain | None:
        new = self.written[self.position :]
        if not new:
            return None
        section = section_of(PROCESS_EXIT, {"time": new, "pid": [n & 0xFFFFFFFF for n in new]}, len(new))
        return Drain("urgent", (section,), {"tape": len(self.written)}, len(new))

    def commit(self, drain: Drain) -> Origin | None:
        self.position = drain.positions["tape"]
        return None

    def lost(self) -> list[Lost]:
        losses, self.losses = self.losses, []
        return losses

    def positions(self) -> dict[str, int]:
        return {"told:tape": 5}

    def status(self) -> dict[str, object]:
        return {}

    def close(self, *, keep: bool) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    path = tmp_path / "sensor.json"
    path.write_text('{"node": "n", "state_dir": "s", "nats": {"url": "nats://127.0.0.1:1"}}')
    return load(path)


def batches(spool: Spool, lane: str = "urgent") -> list[Batch]:
    return [envelope.decode(entry.payload) for entry in spool.entries() if entry.lane == lane]


def seen(spool: Spool) -> list[int]:
    return [int(pid) for batch in batches(spool) for pid in batch.sections[0].rows["pid"]]


def test_a_crash_between_spool_and_ring_repeats_nothing(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = Tape()
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(tape, spool, settings)
    tape.written += [1, 2, 3]
    pipeline.turn()
    tape.written += [4, 5]
    with monkeypatch.context() as crashing:
        crashing.setattr(tape, "commit", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline.turn()
    spool.close()
    tape.written += [6]

    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(tape, spool, settings)
    pipeline.turn()
    assert seen(spool) == [1, 2, 3, 4, 5, 6]
    assert [b.envelope.first_sequence for b in batches(spool)] == [0, 3, 5]
    assert pipeline.next_sequences() == {"urgent": 6}
    spool.close()


def test_what_others_explain_is_looked_at_before_them_and_told_after_them(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing, asking = Tape(1), Tape(2, "asking")
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(knowing, spool, settings)
    known: list[int] = []

    def explain(drain: Drain) -> Drain:
        known.append(knowing.position)
        return drain

    feed = Feed(asking, spool, settings, pipeline.losses, explain=explain)
    pipeline.add(feed)
    asking.written += [1]

    def drain() -> Drain | None:
        asking.written.append(2)  # too late for this turn
        knowing.written.append(8)
        return Tape.drain(knowing)

    monkeypatch.setattr(knowing, "drain", drain)
    pipeline.turn()
    assert known == [1], "8 was there before 1 was explained"
    assert [b.sections[0].rows["pid"].tolist() for b in batches(spool)] == [[8], [1]]
    asking.written.append(3)
    pipeline.remove(feed)
    assert seen(spool) == [8, 1, 2, 3], "a last look"
    spool.close()


def test_two_sources_share_a_spool_and_each_goes_on_where_it_was(tmp_path: Path, settings: Any) -> None:
    one, other = Tape(1), Tape(2, "other")
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(one, spool, settings)
    one.written += [1, 2]
    pipeline.turn()
    pipeline.add(Feed(other, spool, settings, pipeline.losses))
    one.written += [3]
    other.written += [10, 11, 12, 13]
    pipeline.turn()
    assert [(b.envelope.source, b.envelope.epoch, b.envelope.first_sequence) for b in batches(spool)] == [
        ("tape", 1, 0), ("tape", 1, 2), ("other", 2, 0),
    ]  # fmt: skip
    assert set(pipeline.status()["sources"]) == {"tape", "other"}
    assert pipeline.status()["source"]["name"] == "tape"

    # The newest batch is the other source's; neither is told that the first one's positions are its own.
    again, afresh = Tape(1), Tape(2, "other")
    successor = Pipeline(again, spool, settings)
    successor.add(Feed(afresh, spool, settings, successor.losses))
    assert (again.resumed["tape"], afresh.resumed["tape"]) == (3, 4)
    again.written, afresh.written = [*one.written, 4], [*other.written, 14]
    successor.turn()
    assert seen(spool) == [1, 2, 3, 10, 11, 12, 13, 4, 14]
    assert [b.envelope.first_sequence for b in batches(spool)][-2:] == [3, 4]
    spool.close()


def test_a_source_that_is_taken_away_is_looked_at_once_more_and_its_rows_stay_counted(
    tmp_path: Path, settings: Any
) -> None:
    one, other = Tape(1), Tape(2, "other")
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(one, spool, settings)
    feed = Feed(other, spool, settings, pipeline.losses)
    pipeline.add(feed)
    other.written += [10]
    pipeline.remove(feed)
    assert seen(spool) == [10]
    other.written += [11]
    pipeline.turn()
    assert (seen(spool), pipeline.rows["urgent"], pipeline._feeds[0].source) == ([10], 1, one)
    spool.close()


def test_the_newest_batch_is_the_last_one_written_whatever_its_clock_says(tmp_path: Path, settings: Any) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    section = section_of(PROCESS_EXIT, {"time": [10**15], "pid": [1]}, 1)
    about = Envelope("n", "before", 1, "bulk", 0, 1, 0, last_time=10**15, positions={"tape": 70})
    spool.append(envelope.encode(about, [section]), lane="bulk", epoch=1, first_sequence=0, rows=1)
    tape = Tape(2)
    pipeline = Pipeline(tape, spool, settings)
    tape.written += [3]  # the clock began anew with the boot
    pipeline.turn()
    again = Tape(2)
    Pipeline(again, spool, settings)
    assert again.resumed["tape"] == 1
    spool.close()


def test_an_origin_that_changes_takes_losses_before_it_along(tmp_path: Path, settings: Any) -> None:
    class Former(Tape):
        """Rings of a release before, which are read out by the first drain; then its own."""

        def commit(self, drain: Drain) -> Origin | None:
            super().commit(drain)
            if self.epoch == 2:
                return None
            self.losses = [Lost("ring", "exec", 5, "ring full")]
            self.epoch = 2
            return Origin("", "boot", 2, 0)

    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    tape = Former(1)
    pipeline = Pipeline(tape, spool, settings)
    for number in (1, 2):
        tape.written += [number]
        pipeline.turn()
    assert [(b.envelope.epoch, b.envelope.first_sequence) for b in batches(spool)] == [(1, 0), (2, 0)]
    assert [b.envelope.epoch for b in batches(spool, "loss")] == [1]
    assert pipeline.origin.clock_offset_ns == 1000, "one boot, one clock"
    spool.close()


def test_new_rings_begin_a_new_epoch_at_zero(tmp_path: Path, settings: Any) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    for epoch in (1, 2):
        tape = Tape(epoch)
        pipeline = Pipeline(tape, spool, settings)
        tape.written += [epoch]
        pipeline.turn()
    assert [(b.envelope.epoch, b.envelope.first_sequence) for b in batches(spool)] == [(1, 0), (2, 0)]
    spool.close()


def test_losses_become_records_and_are_told_once(tmp_path: Path, settings: Any) -> None:
    tape = Tape()
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(tape, spool, settings)
    tape.losses = [Lost("ring", "exec", 12, "ring full"), Lost("ring", "socket", 3, "full", "bulk")]
    pipeline.turn()
    pipeline.turn()
    pipeline.losses.refused(Entry("urgent", 9, 100, 7, b"", 1, 0), "too large")
    pipeline.turn()
    losses = [section for batch in batches(spool, "loss") for section in batch.sections]
    told = [
        (s.values("stage")[i], int(s.rows["count"][i]), s.values("reason")[i], s.values("lane")[i])
        for s in losses
        for i in range(len(s.rows))
    ]
    assert told == [
        (b"ring", 12, b"ring full", b"urgent"),
        (b"ring", 3, b"full", b"bulk"),
        (b"publish", 7, b"too large", b"urgent"),
    ]
    assert int(losses[1].rows["first_sequence"][0]) == 100
    spool.close()
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    again = Tape()
    tape.written += [1]
    Pipeline(again, spool, settings)
    spool.close()


def test_losses_are_told_once_also_where_no_row_was_ever_stored(tmp_path: Path, settings: Any) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    before = Tape(1)
    before.written += [1]
    Pipeline(before, spool, settings).turn()
    tape = Tape(2)  # new rings, and from here on every row belongs to no policy
    pipeline = Pipeline(tape, spool, settings)
    tape.losses = [Lost("lease", "", 500, "no reader for longer than the lease")]
    pipeline.turn()
    again = Tape(2)
    Pipeline(again, spool, settings)
    assert again.resumed == {"told:tape": 5}
    spool.close()


def test_rows_are_counted_by_lane_and_delays_by_batch(tmp_path: Path, settings: Any) -> None:
    tape, delays = Tape(), list[float]()
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    losses = Losses()
    pipeline = Pipeline(tape, spool, settings, losses, delays.append)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    tape.written += [now - 3_000_000_000, now - 1_000_000_000, now]
    tape.losses = [Lost("ring", "exec", 12, "ring full")]
    pipeline.turn()
    pipeline.turn()  # nothing new
    assert pipeline.rows == {"urgent": 3, "bulk": 0, "rollup": 0, "loss": 1}
    assert pipeline.events == 3
    assert losses.counts["ring"] == 12
    (delay,) = delays
    assert 3.0 <= delay < 60.0, "from the oldest event on"
    tape.written += [now + 3_600_000_000_000]  # a clock that goes wrong is no negative delay
    pipeline.turn()
    assert delays[1] == 0.0
    spool.close()


def test_what_the_loss_lane_told_reaches_the_successor(tmp_path: Path, settings: Any) -> None:
    tape = Tape()
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    pipeline = Pipeline(tape, spool, settings)
    tape.written += [1]
    tape.losses = [Lost("ring", "exec", 5, "ring full")]
    pipeline.turn()
    successor = Tape()
    Pipeline(successor, spool, settings)
    assert successor.resumed == {"tape": 1, "told:tape": 5}
    spool.close()


def test_evicted_batches_are_lost_by_their_sequences(tmp_path: Path, settings: Any) -> None:
    tape = Tape()
    spool = Spool(tmp_path / "spool", max_bytes=64 << 10, segment_bytes=8 << 10)
    pipeline = Pipeline(tape, spool, settings)
    for i in range(400):
        tape.written += list(range(i * 10, i * 10 + 10))
        pipeline.turn()
    sections = [section for batch in batches(spool, "loss") for section in batch.sections]
    lost = sum(int(s.rows["count"].sum()) for s in sections)
    first_kept = batches(spool)[0].envelope.first_sequence
    # The oldest loss records may have been evicted themselves: what the newest say must reach up to what is kept.
    newest = sections[-1]
    assert int(newest.rows["first_sequence"][-1] + newest.rows["count"][-1]) == first_kept
    assert pipeline.status()["spool"]["lost_rows"] >= lost
    assert first_kept + len(seen(spool)) == 4000
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_full_of_others_data_costs_rows_and_says_so_when_there_is_room_again(
    tmp_path: Path, settings: Any
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "daemoneye-test", disk], check=True)
    spool = Spool(disk / "spool", max_bytes=1 << 20, segment_bytes=16 << 10)
    try:
        tape = Tape()
        pipeline = Pipeline(tape, spool, settings)
        tape.written += [1]
        pipeline.turn()
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        noise = random.Random(1)
        tape.written += sorted(noise.sample(range(2, 1 << 30), 20_000))
        pipeline.turn()  # the sensor goes on
        assert tape.position == len(tape.written)
        ballast.unlink()
        tape.written += [1 << 30]
        pipeline.turn()
        assert seen(spool)[-1] == 1 << 30
        losses = [section for batch in batches(spool, "loss") for section in batch.sections]
        stages = {stage for section in losses for stage in section.values("stage")}
        assert stages == {b"spool"}
        lost = sum(int(section.rows["count"].sum()) for section in losses)
        assert lost + len(seen(spool)) == len(tape.written)
        assert pipeline.status()["spool"]["lost_rows"] == lost
    finally:
        spool.close()
        subprocess.run(["umount", disk], check=True)


def test_sequences_go_on_although_the_newest_batch_of_a_lane_was_evicted(tmp_path: Path, settings: Any) -> None:
    tape = Tape()
    spool = Spool(tmp_path / "spool", max_bytes=64 << 10, segment_bytes=8 << 10)
    pipeline = Pipeline(tape, spool, settings)
    tape.losses = [Lost("ring", "exec", 3, "ring full")]
    pipeline.turn()
    before = pipeline.next_sequences()["loss"]
    for i in range(300):  # the spool forgets the loss batch, and keeps its numbers
        spool.append(b"x" * 400, lane="urgent", epoch=tape.epoch, first_sequence=i, rows=1)
        spool.sync()
        for entry in spool.unsent():
            spool.acknowledge(entry)
    assert not batches_of_lane(spool, "loss")
    successor = Pipeline(tape, spool, settings)
    tape.losses = [Lost("ring", "exec", 1, "ring full")]
    successor.turn()
    (entry,) = batches_of_lane(spool, "loss")
    assert entry.first_sequence == before
    spool.close()


def batches_of_lane(spool: Spool, lane: str) -> list[Entry]:
    return [entry for entry in spool.entries() if entry.lane == lane]
