"""Rows ⇄ bytes, batches ⇄ messages: what goes in comes out, and what is damaged is refused, never used."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.errors import CorruptData
from daemoneye.events.base import derive, process_uid
from daemoneye.events.codec import Section, concatenate, decode_fixed, encode_fixed, gather, section_of
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.process_signal import PROCESS_SIGNAL
from daemoneye.events.registry import BY_HASH, RECORDS
from daemoneye.events.schema import Field, Record

ABOUT = Envelope(node="n", boot_id="b", epoch=3, lane="urgent", first_sequence=7, rows=0, clock_offset_ns=5)
STRINGS = st.lists(st.binary(max_size=40), min_size=0, max_size=20)


def random_section(record: Record, n: int, seed: int) -> Section:
    """Rows of random bytes, whose string lengths are small."""
    rng = np.random.default_rng(seed)
    rows = np.frombuffer(rng.bytes(n * record.dtype.itemsize), record.dtype).copy()
    for field in record.heap_fields:
        rows[field.column] = rng.integers(0, 50, n)
    derive(record, rows)
    return Section(record, rows, np.frombuffer(rng.bytes(int(record.heap_lengths(rows).sum())), np.uint8))


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.name)
@pytest.mark.parametrize("n", [0, 1, 2, 257])
def test_every_record_survives_the_wire(record: Record, n: int) -> None:
    section = random_section(record, n, seed=n)
    batch = envelope.decode(envelope.encode(ABOUT, [section]))
    (back,) = batch.sections
    assert back.rows.tobytes() == section.rows.tobytes()
    assert back.heap.tobytes() == section.heap.tobytes()
    assert batch.envelope.next_sequence == 7 + n


@given(STRINGS, st.integers(0, 2**32 - 1))
def test_strings_are_found_again(strings: list[bytes], pid: int) -> None:
    n = len(strings)
    section = section_of(PROCESS_EXEC, {"exe": strings, "argv": [s[::-1] for s in strings], "pid": pid}, n)
    (back,) = envelope.decode(envelope.encode(ABOUT, [section])).sections
    assert back.values("exe") == strings
    assert back.values("argv") == [s[::-1] for s in strings]
    assert back.values("cwd") == [b""] * n
    offsets, data = back.bytes_column("argv")
    assert [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)] == [s[::-1] for s in strings]
    order = np.argsort([len(s) for s in strings], kind="stable")
    assert back.take(order).values("exe") == [strings[i] for i in order]
    assert concatenate([back, back]).values("exe") == strings * 2


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_gather_is_a_ragged_copy(pieces: list[tuple[int, int]]) -> None:
    heap = np.arange(60, dtype=np.uint8)
    begin = np.array([b for b, _ in pieces], np.int64)
    length = np.array([n for _, n in pieces], np.int64)
    assert gather(heap, begin, length).tobytes() == b"".join(heap[b : b + n].tobytes() for b, n in pieces)


@pytest.mark.parametrize("values", [[0, 2**64 - 1, 0, 5], [10, 9, 8, 2**63], []])
def test_differences_wrap(values: list[int]) -> None:
    rows = np.zeros(len(values), PROCESS_SIGNAL.dtype)
    rows["time"] = np.array(values, np.uint64)
    derive(PROCESS_SIGNAL, rows)
    back = decode_fixed(PROCESS_SIGNAL, np.frombuffer(encode_fixed(PROCESS_SIGNAL, rows), np.uint8), len(rows))
    assert back["time"].tolist() == values


def test_key_is_splitmix64() -> None:
    def splitmix(x: int) -> int:
        mask = 2**64 - 1
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    for pid, start in ((1, 0), (4_194_303, 2**60), (77, 12345)):
        assert int(process_uid(np.array([pid]), np.array([start]))[0]) == splitmix(start ^ splitmix(pid))
    assert process_uid(np.array([0]), np.array([99]))[0] == 0


def whole() -> bytes:
    return envelope.encode(ABOUT, [random_section(PROCESS_EXEC, 9, 1), random_section(PROCESS_SIGNAL, 5, 2)])


def test_every_truncation_is_refused() -> None:
    data = whole()
    for end in range(len(data)):
        with pytest.raises(CorruptData):
            envelope.decode(data[:end])


@given(st.integers(0), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_the_envelope_only(where: int, change: int) -> None:
    data = bytearray(whole())
    data[where % len(data)] ^= change
    try:
        batch = envelope.decode(bytes(data))
    except CorruptData:
        return
    # zstd's checksum covers the rows; what passes has changed in the header's own facts.
    original = envelope.decode(whole())
    assert [s.rows.tobytes() for s in batch.sections] == [s.rows.tobytes() for s in original.sections]


def header_changed(**changes: object) -> bytes:
    data = whole()
    length = int.from_bytes(data[4:8], "little")
    head = json.loads(data[8 : 8 + length]) | changes
    raw = json.dumps(head).encode()
    return data[:4] + len(raw).to_bytes(4, "little") + raw + data[8 + length :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sections": [["0" * 16, "future_event", 1, 10, 0, 0]]}, "unknown to this reader"),
        ({"sections": [[PROCESS_EXEC.hash, "process_exec", -1, 10, 0, 0]]}, "negative"),
        ({"sections": [[PROCESS_EXEC.hash, "process_exec", 2**40, 2**50, 0, 0]]}, "beyond the body"),
        ({"sections": []}, "after the last section"),
        ({"sections": [[PROCESS_EXEC.hash, "process_exec", 0, 0, 0, 0]] * 257}, "257 sections, at most 256"),
        ({"sections": "nonsense"}, "batch header"),
        ({"seq": None}, "batch header"),
        ({"pos": []}, "batch header"),
    ],
)
def test_lying_headers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CorruptData, match=message):
        envelope.decode(header_changed(**changes))


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    import zstandard

    raw = json.dumps({**json.loads(whole()[8 : 8 + int.from_bytes(whole()[4:8], "little")]), "sections": []}).encode()
    frame = zstandard.ZstdCompressor().compress(b"\0" * (envelope.MAX_BODY + 1))
    with pytest.raises(CorruptData, match="claims"):
        envelope.decode(envelope.MAGIC + len(raw).to_bytes(4, "little") + raw + frame)


def test_an_archived_descriptor_decodes_what_it_described() -> None:
    old = Record(
        id=1,
        name="process_exec",
        lane="urgent",
        doc="",
        fields=(*PROCESS_EXEC.fields, Field(200, "retired", "u64", "gone")),
    )
    data = envelope.encode(ABOUT, [random_section(old, 4, 3)])
    with pytest.raises(CorruptData, match="unknown"):
        envelope.decode(data)
    known = Record.from_descriptor(json.loads(json.dumps(old.descriptor())))
    assert known.hash == old.hash
    assert len(envelope.decode(data, {**BY_HASH, known.hash: known}).sections[0].rows) == 4


@pytest.mark.parametrize(
    "fields",
    [
        (Field(1, "a", "u16", ""), Field(2, "b", "u64", "")),
        (Field(1, "a", "u32", ""),),
        (Field(1, "a", "u64", ""), Field(1, "b", "u64", "")),
        (Field(1, "a", "u64", ""), Field(2, "a", "u64", "")),
    ],
)
def test_declarations_that_c_would_pad_or_that_repeat_are_refused(fields: tuple[Field, ...]) -> None:
    with pytest.raises(ValueError, match=r"id is used twice|name is used twice|padding|multiple of 8"):
        Record(id=99, name="x", lane="urgent", doc="", fields=fields)


@pytest.mark.parametrize(
    "descriptor", [{}, {"id": 1}, {"id": 1, "name": "x", "lane": "urgent", "fields": [{"nonsense": 1}]}]
)
def test_descriptors_of_another_form_are_refused(descriptor: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="descriptor"):
        Record.from_descriptor(descriptor)
