"""Words of command lines, held against a reading of one line at a time."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.events.base import splitmix64
from daemoneye_analytics.behaviour.tokens import WORDS, Parts, spelled, words

LINES = st.lists(
    st.binary(max_size=30)
    | st.lists(st.sampled_from(b"\0 -=/#.ab01"), max_size=40).map(bytes)
    | st.integers(200, 700).map(lambda length: b"sh\0-c\0" + b"a1" * length),
    min_size=1,
    max_size=8,
)


def read(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    found, entropy, _ = everything(lines)
    return found, entropy


def everything(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray, Parts]:
    length = np.array([len(line) for line in lines])
    heap = np.frombuffer(b"??" + b"".join(lines), np.uint8)
    return words(heap, 2 + np.cumsum(length) - length, length)


def plainly(line: bytes) -> list[int]:
    """Hashes of a line's words: what follows the program's name, cut at marks, a run of digits as one #."""
    rest = line[:512].partition(b"\0")[2]
    found = [word for word in re.split(rb"[\0 \t\r\n\"'`|&;<>(),=:]+", rest) if word]
    sums = []
    for word in found[:WORDS]:
        place = np.minimum(np.arange(256 * 3), 255)
        letters = re.sub(rb"[0-9]+", b"#", word)
        keys = splitmix64(place[: len(letters)].astype(np.uint64) * 256 + np.frombuffer(letters, np.uint8) + 1)
        sums.append(int(splitmix64(np.array([keys.sum()], np.uint64))[0]) or 1)
    return sums


@given(LINES)
def test_words_are_what_a_reader_of_one_line_finds(lines):
    found, _ = read(lines)
    assert [[int(key) for key in row if key] for row in found] == [plainly(line) for line in lines]


@given(LINES)
def test_pieces_are_what_a_reader_of_one_line_finds(lines):
    _, _, parts = everything(lines)
    for at, line in enumerate(lines):
        rest = line[:512].partition(b"\0")[2]
        wanted = [piece for piece in re.split(rb"[\0 \t\r\n\"'`|&;<>(),=:/]+", rest) if piece]
        mine = parts.row == at
        assert [int(key) for key in parts.hash[mine]] == [spelled_bytes(piece) for piece in wanted]
        dotted = [piece[:1] == b"." and re.sub(rb"[0-9]+", b"#", piece) not in {b".", b".."} for piece in wanted]
        assert parts.dotted[mine].tolist() == dotted


def spelled_bytes(piece: bytes) -> int:
    """As `spelled`, which takes text."""
    if all(byte < 128 for byte in piece):
        return spelled(re.sub(r"[0-9]+", "#", piece.decode()))
    return plainly(b"\0" + piece)[0]


def test_pieces_of_some_lines():
    lines = [b"a\0b/c\0.d\0", b"", b"a\0e\0", b"a\0f g\0"]
    _, _, parts = everything(lines)
    some = parts.of(np.array([3, 0, 1, 3]))
    assert some.row.tolist() == [0, 0, 1, 1, 1, 3, 3]
    assert some.hash.tolist() == [spelled(text) for text in ("f", "g", "b", "c", ".d", "f", "g")]
    assert np.flatnonzero(some.dotted).tolist() == [4]


@given(LINES)
def test_a_line_says_the_same_alone_and_among_others(lines):
    found, entropy = read(lines)
    for at, line in enumerate(lines):
        alone, its = read([line])
        assert (alone[0] == found[at]).all()
        assert its[0] == entropy[at]


@pytest.mark.parametrize("line", [b"", b"aaaa", b"abababab", b"/usr/bin/x\0" + bytes(range(97, 123))])
def test_entropy_is_shannons(line):
    classes = Counter("mark" if byte in b"/.-_" else "end" if byte in b" \0" else byte for byte in line)
    expected = -sum(n / len(line) * math.log2(n / len(line)) for n in classes.values())
    assert read([line])[1][0] == pytest.approx(expected)
