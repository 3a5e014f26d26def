"""Segments in any order give the bytes that were sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.packets.stream import MAX_BYTES, MAX_READ, MAX_SEGMENTS, Stream

_MESSAGE = bytes(range(256)) * 4


@given(st.data(), st.integers(0, 2**32 - 1))
def test_any_order_with_overlaps_and_repetitions(data: st.DataObject, begin: int) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(_MESSAGE) - 1), max_size=20)))
    spans = list(zip([0, *cuts], [*cuts, len(_MESSAGE)], strict=True))
    more = data.draw(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 124)), max_size=10))
    segments = data.draw(st.permutations([*spans, *((at, at + size) for at, size in more)]))
    stream = Stream(begin)
    grown = [stream.add((begin + first) % 2**32, _MESSAGE[first:last]) for first, last in segments]
    assert stream.data == _MESSAGE
    assert stream.next == (begin + len(_MESSAGE)) % 2**32
    assert any(grown)


def test_what_was_before_the_beginning_is_passed_over() -> None:
    stream = Stream(1000)
    assert not stream.add(900, b"x" * 100)
    assert stream.add(990, b"x" * 10 + b"abc")
    assert stream.data == b"abc"


def test_a_gap_is_not_jumped_over_and_room_is_bounded() -> None:
    stream = Stream(0)
    for number in range(MAX_SEGMENTS + 5):
        assert not stream.add(10 + number * 10, b"later")
    assert stream.full
    stream = Stream(0)
    for at in range(0, 2 * MAX_BYTES, 4096):
        stream.add(at, bytes(4096))
    assert (stream.full, len(stream.data)) == (True, MAX_BYTES)
    stream = Stream(0)
    stream.add(MAX_BYTES + 1, b"far away")
    assert stream.full


def test_messages_that_were_read_make_room() -> None:
    stream = Stream(5)
    stream.add(5, b"firstsecond")
    stream.drop(5)
    stream.add(16, b"third")
    assert stream.data == b"secondthird"


def test_what_waits_is_bounded_by_its_bytes() -> None:
    stream = Stream(0)
    for number in range(4):
        stream.add(10 + number, bytes(MAX_BYTES // 3))
    assert stream.full
    stream = Stream(0)
    for turn in range(10):  # what was joined waits no more
        stream.add(turn * 100 + 50, bytes(50))
        assert stream.add(turn * 100, bytes(50))
    assert (stream.full, len(stream.data)) == (False, 1000)


def test_who_sends_bytes_singly_is_not_read_without_end() -> None:
    stream = Stream(0)
    read = sum(len(stream.data) for at in range(MAX_BYTES) if stream.add(at, b"x"))
    assert stream.full
    assert 2000 < len(stream.data) < 2100
    assert MAX_READ <= read <= MAX_READ + MAX_BYTES
    stream = Stream(0)
    for at in range(0, 20 * MAX_BYTES, 100):
        assert stream.add(at, bytes(100))
        stream.drop(100)
    assert not stream.full, "messages that were read do not count"
