"""Classic BPF over columns of frames, held against libpcap's own interpreter."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor import filters
from daemoneye_sensor.packets import cbpf
from daemoneye_sensor.packets.compiling import Filters
from tests.support.bpfoffline import EXPRESSIONS, frames, offline

FRAMES = frames()
COMPILED = [made for _, made in filters.compiled([(expression, 1500, filters.ETHERNET) for expression in EXPRESSIONS])]
PROGRAMS = [cbpf.Program.of(made) for made in COMPILED]
LD, ALU, JMP, RET = 0, 4, 5, 6


def matched(program: cbpf.Program, data: Sequence[bytes], sizes: Sequence[int] | None = None) -> list[bool]:
    captured = np.array([len(one) for one in data], np.int64)
    size = captured if sizes is None else np.array(sizes, np.int64)
    return cbpf.matches(
        program, np.frombuffer(b"".join(data), np.uint8), np.cumsum(captured) - captured, captured, size
    ).tolist()


def test_the_expressions_compile_and_each_tells_frames_apart():
    some = [matched(program, FRAMES) for program in PROGRAMS]
    constant = [expression for expression, one in zip(EXPRESSIONS, some, strict=True) if len(set(one)) == 1]
    assert not constant


@pytest.mark.parametrize("number", range(len(EXPRESSIONS)), ids=EXPRESSIONS)
def test_an_expression_matches_what_libpcap_says(number: int):
    # Every frame whole, and cut at every byte: what lies behind the end rejects.
    cut = [frame[:length] for frame in FRAMES for length in range(1, len(frame) + 1)]
    sizes = [len(frame) for frame in FRAMES for _ in range(len(frame))]
    said = [offline(COMPILED[number], frame, size) for frame, size in zip(cut, sizes, strict=True)]
    assert matched(PROGRAMS[number], cut, sizes) == said


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A frame with some other bytes, cut or lengthened."""
    frame = bytearray(draw(st.sampled_from(FRAMES)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=6)):
        frame[place % len(frame)] = value
    return bytes(frame[: draw(st.integers(1, len(frame)))]) + draw(st.binary(max_size=40))


@given(st.lists(mutilated() | st.binary(min_size=1, max_size=200), min_size=1, max_size=8))
def test_any_frames_match_what_libpcap_says(data: list[bytes]):
    for program, made in zip(PROGRAMS, COMPILED, strict=True):
        assert matched(program, data) == [offline(made, frame) for frame in data]


NUMBER = st.sampled_from([0, 1, 2, 3, 7, 14, 31, 32, 33, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 60)


@st.composite
def random_programs(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """Instructions of all kinds, which end with the accumulator."""
    length = draw(st.integers(1, 24))
    made = [draw(st.sampled_from(one_of(draw(NUMBER), draw(st.integers(0, 15)), length - at))) for at in range(length)]
    # A word that was never stored is zero for us, and whatever it was for libpcap.
    stores = [(2, 0, 0, word) for word in range(16)]
    return [*stores, *made, (RET | 0x10, 0, 0, 0)]


def one_of(k: int, word: int, left: int) -> list[tuple[int, int, int, int]]:
    """Each instruction that could stand where so many are left."""
    operations = (0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x90, 0xA0)
    return [
        *((LD | size | mode, 0, 0, min(k, 100)) for size in (0, 8, 16) for mode in (0x20, 0x40)), (0xB1, 0, 0, min(k, 100)),
        (LD, 0, 0, k), (1, 0, 0, k), (LD | 0x60, 0, 0, word), (0x61, 0, 0, word), (0x80, 0, 0, 0), (0x81, 0, 0, 0),
        (2, 0, 0, word), (3, 0, 0, word), (7, 0, 0, 0), (0x87, 0, 0, 0), (0x84, 0, 0, 0),
        *((ALU | operation | 8, 0, 0, 0) for operation in operations),
        *((ALU | operation, 0, 0, k or 1) for operation in operations),
        *((ALU | shift, 0, 0, min(k, 31)) for shift in (0x60, 0x70)),
        *((JMP | operation | by, word % left, k % left, k) for operation in (0x10, 0x20, 0x30, 0x40) for by in (0, 8)),
        (JMP, 0, 0, word % left),
    ]  # fmt: skip


@given(random_programs(), st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=6))
def test_any_program_matches_what_libpcap_says(made: list[tuple[int, int, int, int]], data: list[bytes]):
    assert matched(cbpf.Program.of(made), data) == [offline(made, frame) for frame in data]


def test_shifts_of_a_word_or_more_leave_nothing():
    for by, left in itertools.product((31, 32, 33, 0xFFFFFFFF), (0x60, 0x70)):
        shifted = cbpf.Program.of([(LD, 0, 0, 0xFFFFFFFF), (1, 0, 0, by), (ALU | left | 8, 0, 0, 0), (RET | 0x10, 0, 0, 0)])  # fmt: skip
        assert matched(shifted, [b"x"]) == [by == 31]


def test_packet_types_and_interfaces_are_told_apart():
    (_, inbound), (_, third) = filters.compiled([("inbound", 96, 1), ("ifindex 3", 96, 1)])
    data, ones = np.zeros(30, np.uint8), np.full(2, 15)
    at = np.array([0, 15])
    outgoing = np.array([0, 4], np.uint8)
    assert cbpf.matches(cbpf.Program.of(inbound), data, at, ones, ones, kind=outgoing).tolist() == [True, False]
    assert cbpf.matches(cbpf.Program.of(third), data, at, ones, ones, ifindex=3).all()
    assert not cbpf.matches(cbpf.Program.of(third), data, at, ones, ones, ifindex=4).any()


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ([], "no end"),
        ([(LD, 0, 0, 1)], "no end"),
        ([(JMP, 0, 0, 1), (RET, 0, 0, 1)], "jumps out"),
        ([(JMP | 0x10, 0, 5, 1), (RET, 0, 0, 1)], "jumps out"),
        ([(ALU | 0x30, 0, 0, 0), (RET, 0, 0, 1)], "divides by zero"),
        ([(ALU | 0xF0, 0, 0, 0), (RET, 0, 0, 1)], "none that there is"),
        ([(2, 0, 0, 16), (RET, 0, 0, 1)], "memory"),
        ([(0x60, 0, 0, 99), (RET, 0, 0, 1)], "memory"),
        ([(0x28, 0, 0, 0xFFFFF024), (RET, 0, 0, 1)], "not known here"),
        ([(0xA0, 0, 0, 0), (RET, 0, 0, 1)], "none that there is"),
        ([(0x1F, 0, 0, 0), (RET, 0, 0, 1)], "none that there is"),  # looks like TAX; libpcap's interpreter aborts on it
    ],
)
def test_what_is_no_filter_is_refused(made: list[tuple[int, int, int, int]], problem: str):
    with pytest.raises(ValueError, match=problem):
        cbpf.Program.of(made)


def test_a_bad_filter_stops_no_other_and_says_why():
    made = Filters.of([("tcp", 96), ("tcp prot 80", 96), ("", 96), ("ip6 protochain 6", 96), ("ether host 02:00:00:00:00:01", 96)])  # fmt: skip
    assert "syntax error" in made.problems.pop(1)
    assert "loops" in made.problems.pop(3)
    assert not made.problems
    ethernet, raw = made.programs[filters.ETHERNET], made.programs[filters.RAW]
    assert [program is not None for program in ethernet] == [True, False, True, False, True]
    assert [program is not None for program in raw] == [True, False, True, False, False]
