"""Long strings in chunks: whole ones are put together, incomplete ones are said to be lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.events.base import derive
from daemoneye.events.flags import Flag
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye_sensor.blobs import BLOB, CGROUP, STRINGS, cgroup_paths, regions


def ring(exes: list[bytes], argvs: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel would have written: records, and chunks of those that do not fit."""
    records = np.zeros(len(exes), PROCESS_EXEC.ring_dtype)
    chunks = []
    records["time"] = np.arange(len(exes)) // 2 + 5  # two in one nanosecond
    records["pid"] = np.arange(len(exes)) + 100
    records["start_time"] = 3
    derive(PROCESS_EXEC, records)
    for record, exe, argv in zip(records, exes, argvs, strict=True):
        region = exe + argv
        record["exe_len"], record["argv_len"] = len(exe), len(argv)
        record["heap"] = np.frombuffer(region[:288].ljust(288, b"?"), np.uint8)
        if len(region) > 288:
            record["flags"] |= np.uint32(Flag.STRINGS_SPILLED)
            for offset in range(0, len(region), 992):
                chunk = np.zeros(1, BLOB)
                piece = region[offset : offset + 992]
                chunk["time"], chunk["key"], chunk["kind"] = record["time"], record["process_uid"], STRINGS
                chunk["total"], chunk["offset"], chunk["length"] = len(region), offset, len(piece)
                chunk["data"][0, : len(piece)] = np.frombuffer(piece, np.uint8)
                chunks.append(chunk)
    return records, np.concatenate(chunks) if chunks else np.zeros(0, BLOB)


STRING = st.integers(0, 4000).map(lambda n: bytes(i * 7 % 251 for i in range(n)))


@given(st.lists(st.tuples(STRING, STRING), max_size=8), st.randoms(use_true_random=False))
def test_regions_come_back_whole(pairs: list[tuple[bytes, bytes]], random: object) -> None:
    records, chunks = ring([e for e, _ in pairs], [a for _, a in pairs])
    order = list(range(len(chunks)))
    random.shuffle(order)  # type: ignore[attr-defined]  # processors write between one another
    section, lost, unclaimed = regions(PROCESS_EXEC, records, chunks[order])
    assert lost == 0
    assert not unclaimed.any()
    assert section.values("exe") == [e for e, _ in pairs]
    assert section.values("argv") == [a for _, a in pairs]


@pytest.mark.parametrize("missing", [0, 1, 4])
def test_a_lost_chunk_costs_its_row_the_strings_and_no_other(missing: int) -> None:
    exes, argvs = [b"/a", b"/long", b"/b", b"/other"], [b"x", b"y" * 4500, b"z", b"w" * 2000]
    records, chunks = ring(exes, argvs)
    keep = np.ones(len(chunks), bool)
    keep[missing] = False
    section, lost, unclaimed = regions(PROCESS_EXEC, records, chunks[keep])
    assert not unclaimed.any()
    assert lost == 1
    assert section.values("exe") == [b"/a", b"", b"/b", b"/other"]
    assert section.values("argv") == [b"x", b"", b"z", b"w" * 2000]
    flagged = section.rows["flags"] & np.uint32(Flag.STRINGS_TRUNCATED) != 0
    assert flagged.tolist() == [False, True, False, False]


def test_no_chunks_at_all() -> None:
    records, chunks = ring([b"/long" * 200], [b""])
    _, lost, _ = regions(PROCESS_EXEC, records, chunks[:0])
    assert lost == 1


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (b"ssh.service\0system.slice\0\0", ("/system.slice/ssh.service", "/")),
        (b"\0id\0podx\0kubepods\0", ("/", "/kubepods/podx/id")),
        (b"a\0\0b\0c\0", ("/a", "/c/b")),
        (b"\0", ("/", "/")),
        (b"\xff\0\0", (r"/\xff", "/")),
    ],
)
def test_cgroup_names(names: bytes, paths: tuple[str, str]) -> None:
    chunk = np.zeros(1, BLOB)
    chunk["key"], chunk["kind"], chunk["length"] = 77, CGROUP, len(names)
    chunk["data"][0, : len(names)] = np.frombuffer(names, np.uint8)
    assert cgroup_paths(chunk) == {77: paths}


def test_chunks_whose_row_was_not_seen_yet_are_told_apart() -> None:
    records, chunks = ring([b"/long", b"/later"], [b"y" * 1500, b"z" * 3000])
    section, lost, unclaimed = regions(PROCESS_EXEC, records[:1], chunks)
    assert lost == 0
    assert section.values("argv") == [b"y" * 1500]
    assert unclaimed.tolist() == [False, False, True, True, True, True]
