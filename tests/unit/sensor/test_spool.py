"""The spool: order, budget, cursor, crash and damage; against a model where sequences of actions matter."""

import contextlib
import os
import shutil
import subprocess

import pytest

from daemoneye.errors import ConfigError, CorruptData, MachineError
from daemoneye_sensor.segment import HEADER_BYTES, MAGIC
from daemoneye_sensor.spool import Evicted, Spool, SpoolFull, read_recording, write_recording

BUDGET = 1 << 20


@contextlib.contextmanager
def spool_in(directory, max_bytes=BUDGET, segment_bytes=1 << 16):
    spool = Spool(directory, max_bytes=max_bytes, segment_bytes=segment_bytes)
    try:
        yield spool
    finally:
        spool.close()


def put(spool, sequence, *, lane="urgent", epoch=7, rows=10, payload=None):
    spool.append(payload or b"batch %d" % sequence, lane=lane, epoch=epoch, first_sequence=sequence, rows=rows)


def sequences(entries):
    return [entry.first_sequence for entry in entries]


def segments(directory):
    return sorted(directory.glob("*.segment"))


def test_what_goes_in_comes_out_in_order(tmp_path):
    with spool_in(tmp_path) as spool:
        put(spool, 0)
        put(spool, 10, lane="bulk", rows=3, payload=b"\x00" * 5000)
        spool.sync()
        first, second = spool.unsent()
        assert (first.lane, first.epoch, first.first_sequence, first.rows, bytes(first.payload)) == (
            "urgent",
            7,
            0,
            10,
            b"batch 0",
        )
        assert (second.lane, second.rows, bytes(second.payload)) == ("bulk", 3, b"\x00" * 5000)
        assert spool.entries_unsent == 2
        assert spool.bytes_unsent == 2 * HEADER_BYTES + 7 + 5000


def test_only_durable_entries_are_sent(tmp_path):
    with spool_in(tmp_path) as spool:
        put(spool, 0)
        assert spool.next_unsent(None) is None
        spool.sync()
        put(spool, 10)
        assert sequences(spool.unsent()) == [0]
        assert sequences(spool.entries()) == [0, 10]


def test_iteration_goes_on_after_more_was_appended(tmp_path):
    with spool_in(tmp_path) as spool:
        put(spool, 0)
        spool.sync()
        entry = spool.next_unsent(None)
        assert spool.next_unsent(entry) is None
        put(spool, 10)
        spool.sync()
        assert sequences([spool.next_unsent(entry)]) == [10]


def test_the_cursor_survives_and_what_was_sent_stays_as_the_flight_recorder(tmp_path):
    with spool_in(tmp_path) as spool:
        for sequence in range(0, 50, 10):
            put(spool, sequence)
        spool.sync()
        for entry in list(spool.unsent())[:3]:
            spool.acknowledge(entry)
    with spool_in(tmp_path) as spool:
        assert sequences(spool.unsent()) == [30, 40]
        assert spool.entries_unsent == 2
        assert sequences(spool.entries()) == [0, 10, 20, 30, 40]


def test_acknowledging_twice_or_several_at_once(tmp_path):
    with spool_in(tmp_path, segment_bytes=300) as spool:
        for sequence in range(0, 200, 10):
            put(spool, sequence)
        spool.sync()
        entries = list(spool.unsent())
        spool.acknowledge(entries[14])
        spool.acknowledge(entries[3])
        assert sequences(spool.unsent()) == [150, 160, 170, 180, 190]
        assert spool.entries_unsent == 5


def test_the_newest_entry_of_a_lane_is_found_after_everything_was_sent(tmp_path):
    with spool_in(tmp_path) as spool:
        put(spool, 0, lane="rollup", epoch=1)
        put(spool, 0, lane="rollup", epoch=2)
        for sequence in range(0, 1000, 10):
            put(spool, sequence)
        spool.sync()
        for entry in spool.unsent():
            spool.acknowledge(entry)
    with spool_in(tmp_path) as spool:
        newest = spool.last("urgent")
        assert (newest.first_sequence, bytes(newest.payload)) == (990, b"batch 990")
        assert spool.last("rollup").epoch == 2
        assert spool.last("rollup", epoch=1).first_sequence == 0
        assert spool.last("rollup", epoch=3) is None
        assert spool.last("loss") is None


def test_the_numbers_of_the_newest_entry_outlive_the_entry(tmp_path):
    with spool_in(tmp_path, max_bytes=20_000) as spool:
        put(spool, 4200, lane="rollup", rows=5)
        for sequence in range(0, 1000, 10):
            put(spool, sequence, payload=b"x" * 1000)
    with spool_in(tmp_path, max_bytes=20_000) as spool:
        kept = spool.last("rollup")
        assert (kept.first_sequence, kept.rows, kept.payload) == (4200, 5, b"")


def test_the_budget_holds_and_unsent_rows_are_counted(tmp_path):
    with spool_in(tmp_path, max_bytes=20_000) as spool:
        for sequence in range(0, 1000, 10):
            put(spool, sequence, payload=b"x" * 1000)
            assert spool.bytes_used <= 20_000
        spool.sync()
        kept = sequences(spool.unsent())
        assert kept[-1] == 990
        assert spool.take_evicted() == [Evicted("urgent", 7, 0, kept[0])]
        assert spool.take_evicted() == []
        assert spool.entries_unsent == len(kept)
        on_disk = sum(path.stat().st_size for path in segments(tmp_path))
        assert on_disk == spool.bytes_used


def test_sent_segments_go_before_unsent_ones(tmp_path):
    with spool_in(tmp_path, max_bytes=20_000) as spool:
        for sequence in range(0, 100, 10):
            put(spool, sequence, payload=b"x" * 1000)
        spool.sync()
        for entry in spool.unsent():
            spool.acknowledge(entry)
        for sequence in range(100, 200, 10):
            put(spool, sequence, payload=b"x" * 1000)
        assert spool.take_evicted() == []


def test_an_entry_in_flight_may_be_evicted_and_acknowledged_late(tmp_path):
    with spool_in(tmp_path, max_bytes=20_000) as spool:
        put(spool, 0)
        spool.sync()
        entry = spool.next_unsent(None)
        for sequence in range(10, 400, 10):
            put(spool, sequence, payload=b"x" * 1000)
        spool.sync()
        unsent = spool.entries_unsent
        spool.acknowledge(entry)
        assert spool.entries_unsent == unsent
        assert spool.next_unsent(entry).first_sequence == spool.next_unsent(None).first_sequence


def test_a_batch_larger_than_the_budget_is_refused_and_nothing_is_evicted(tmp_path):
    with spool_in(tmp_path, max_bytes=20_000) as spool:
        put(spool, 0)
        with pytest.raises(SpoolFull) as caught:
            put(spool, 10, payload=b"x" * 20_000)
        assert caught.value.fix
        assert sequences(spool.entries()) == [0]


def test_a_batch_larger_than_a_segment_has_one_of_its_own(tmp_path):
    with spool_in(tmp_path, max_bytes=40_000, segment_bytes=1000) as spool:
        put(spool, 0)
        put(spool, 10, payload=b"x" * 9000)
        put(spool, 20)
        spool.sync()
        assert sequences(spool.unsent()) == [0, 10, 20]
        assert len(segments(tmp_path)) == 3


def test_a_torn_tail_is_cut_at_every_byte(tmp_path):
    original = tmp_path / "original"
    with spool_in(original) as spool:
        put(spool, 0)
        put(spool, 10, payload=b"the last batch")
    (path,) = segments(original)
    whole = path.read_bytes()
    end_of_first = len(MAGIC) + HEADER_BYTES + len(b"batch 0")
    for cut in range(len(whole)):
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / path.name).write_bytes(whole[:cut])
        with spool_in(directory) as spool:
            expected = [0] if cut >= end_of_first else []
            assert sequences(spool.unsent()) == expected
            assert spool.quarantined == 0
            put(spool, 10)
            spool.sync()
            assert sequences(spool.unsent()) == [*expected, 10]
        shutil.rmtree(directory)


@pytest.mark.parametrize("zeroed", [1, 20, 46], ids=str)
def test_a_tail_that_power_loss_left_as_zeros_is_torn_too(tmp_path, zeroed):
    with spool_in(tmp_path) as spool:
        put(spool, 0)
        put(spool, 10, payload=b"the last batch")
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-zeroed] + bytes(zeroed + 4096))
    (tmp_path / "cursor").unlink()
    with spool_in(tmp_path) as spool:
        assert sequences(spool.unsent()) == [0]
        assert spool.quarantined == 0


def test_damage_in_the_middle_sets_the_rest_of_the_segment_aside(tmp_path):
    size = HEADER_BYTES + 1000
    with spool_in(tmp_path, segment_bytes=len(MAGIC) + 4 * size) as spool:
        for sequence in range(0, 80, 10):
            put(spool, sequence, payload=b"x" * 1000)
    first, second = segments(tmp_path)
    damaged = bytearray(first.read_bytes())
    damaged[len(MAGIC) + size + HEADER_BYTES + 500] ^= 1  # in the payload of the second entry
    first.write_bytes(damaged)
    with spool_in(tmp_path, segment_bytes=len(MAGIC) + 4 * size) as spool:
        assert sequences(spool.unsent()) == [0, 40, 50, 60, 70]
        assert spool.quarantined == 1
        assert spool.take_evicted() == [Evicted("urgent", 7, 20, 20)]
        assert spool.entries_unsent == 5
        (piece,) = tmp_path.glob("*.corrupt")
        assert piece.read_bytes() == damaged[len(MAGIC) + size :]
        assert spool.bytes_used == sum(path.stat().st_size for path in [first, second, piece])
    with spool_in(tmp_path) as spool:
        assert sequences(spool.unsent()) == [0, 40, 50, 60, 70]


def test_damage_in_the_newest_segment_does_not_make_numbers_be_given_again(tmp_path):
    with spool_in(tmp_path) as spool:
        for sequence in (0, 10, 20):
            put(spool, sequence)
    (path,) = segments(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[len(MAGIC) + 1] ^= 0xFF
    path.write_bytes(damaged)
    with spool_in(tmp_path) as spool:
        assert spool.quarantined == 1
        assert list(spool.unsent()) == []
        assert spool.last("urgent").first_sequence == 20
        put(spool, 30)
        spool.sync()
        assert sequences(spool.unsent()) == [30]


def test_damaged_pieces_are_bounded_and_go_first_when_room_is_needed(tmp_path):
    for _ in range(8):
        with spool_in(tmp_path, max_bytes=50_000) as spool:
            for sequence in (0, 10):
                put(spool, sequence, payload=b"x" * 1000)
        newest = segments(tmp_path)[-1]
        damaged = bytearray(newest.read_bytes())
        damaged[len(MAGIC)] ^= 0xFF
        newest.write_bytes(damaged)
    with spool_in(tmp_path, max_bytes=50_000) as spool:
        assert len(list(tmp_path.glob("*.corrupt"))) == 4
        for sequence in range(0, 1000, 10):
            put(spool, sequence, payload=b"x" * 1000)
        assert list(tmp_path.glob("*.corrupt")) == []


def test_a_lost_or_damaged_cursor_means_sending_everything_again(tmp_path):
    with spool_in(tmp_path) as spool:
        put(spool, 0)
        spool.sync()
        spool.acknowledge(spool.next_unsent(None))
    (tmp_path / "cursor").write_bytes(b"00000000\n{}\n")
    with spool_in(tmp_path) as spool:
        assert sequences(spool.unsent()) == [0]


def test_a_segment_that_somebody_removed_is_left_out(tmp_path):
    with spool_in(tmp_path, segment_bytes=100) as spool:
        for sequence in (0, 10, 20):
            put(spool, sequence, payload=b"x" * 80)
        spool.sync()
        segments(tmp_path)[1].unlink()
        assert sequences(spool.unsent()) == [0, 20]
        assert spool.entries_unsent == 2


def test_a_second_opener_is_told_so(tmp_path):
    with spool_in(tmp_path), pytest.raises(MachineError, match="another process is using"):
        Spool(tmp_path, max_bytes=BUDGET)


def test_an_unusable_directory_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot use the spool") as caught:
        Spool(tmp_path / "file" / "spool", max_bytes=BUDGET)
    assert caught.value.fix


@contextlib.contextmanager
def small_disk(directory, size):
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_costs_sent_segments_first_then_unsent_ones_which_are_counted(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "256k"), spool_in(disk / "spool", max_bytes=1 << 30, segment_bytes=32 << 10) as spool:
        for sequence in range(0, 300, 10):
            put(spool, sequence, payload=b"x" * 4000)
        spool.sync()
        for entry in spool.unsent():
            spool.acknowledge(entry)
        for sequence in range(300, 500, 10):
            put(spool, sequence, payload=b"x" * 4000)
        spool.sync()
        assert spool.take_evicted() == []
        for sequence in range(500, 2000, 10):
            put(spool, sequence, payload=b"x" * 4000)
        spool.sync()
        kept = sequences(spool.unsent())
        assert kept[-1] == 1990
        assert spool.take_evicted() == [Evicted("urgent", 7, 300, kept[0] - 300)]
        with pytest.raises(SpoolFull):
            put(spool, 2000, payload=b"x" * 300_000)
        put(spool, 2000)
        spool.sync()
        assert sequences(spool.unsent())[-1] == 2000


def test_a_segment_is_a_recording(tmp_path):
    with spool_in(tmp_path / "spool") as spool:
        for sequence in (0, 10, 20):
            put(spool, sequence)
        kept = list(spool.entries())
        assert write_recording(tmp_path / "out.deye", spool.entries()) == 3
    (segment,) = segments(tmp_path / "spool")
    for path in (segment, tmp_path / "out.deye"):
        assert [(e.lane, e.epoch, e.first_sequence, e.rows, bytes(e.payload)) for e in read_recording(path)] == [
            (e.lane, e.epoch, e.first_sequence, e.rows, bytes(e.payload)) for e in kept
        ]


@pytest.mark.parametrize(
    ("damage", "offset", "words"),
    [
        (lambda raw: raw[:-1], len(MAGIC) + HEADER_BYTES + 7, "ends within an entry"),
        (lambda raw: raw[: -HEADER_BYTES - 5], len(MAGIC) + HEADER_BYTES + 7, "ends within an entry's header"),
        (lambda raw: raw[:-1] + b"?", len(MAGIC) + HEADER_BYTES + 7, "checksum"),
        (lambda raw: b"{}" + raw, 0, "not a DaemonEye recording"),
        (lambda raw: b"", 0, "not a DaemonEye recording"),
        (lambda raw: raw[:7] + b"\x09" + raw[8:], 7, "version 9"),
    ],
    ids=["cut in payload", "cut in header", "flipped", "other file", "empty", "newer"],
)
def test_a_damaged_recording_names_file_and_byte(tmp_path, damage, offset, words):
    with spool_in(tmp_path / "spool") as spool:
        put(spool, 0)
        put(spool, 10)
        write_recording(tmp_path / "ok.deye", spool.entries())
    path = tmp_path / "bad.deye"
    path.write_bytes(damage((tmp_path / "ok.deye").read_bytes()))
    with pytest.raises(CorruptData, match=words) as caught:
        list(read_recording(path))
    assert (caught.value.where, caught.value.offset) == (str(path), offset)
    assert f"{path} at byte {offset}" in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "."], ids=["missing", "directory"])
def test_a_recording_that_cannot_be_read_is_a_usage_error(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot read"):
        list(read_recording(tmp_path / name))
