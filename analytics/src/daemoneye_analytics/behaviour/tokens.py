"""The words of command lines as numbers, for thousands of command lines at once.

Responsible for cutting arguments into words, for what makes two words the same, and for figures about their characters; all on bytes, no Python per
row. A run of digits counts as one `#`: process ids, dates and numbers of temporary files would make every command line a new one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.events.codec import gather, starts
from daemoneye.events.sets import ranks

WORDS: Final = 12
"""Words of a command line that are looked at; the program's own name is not one of them."""
_BYTES: Final = 512
_LONGEST: Final = 256
_CLASSES: Final = 32
_BREAKS: Final = b"\0 \t\r\n\"'`|&;<>(),=:"
_SLASH: Final = ord("/")
_DOT: Final = ord(".")
_DIGIT: Final = np.zeros(256, bool)
_DIGIT[48:58] = True
_BREAK: Final = np.zeros(256, bool)
_BREAK[list(_BREAKS)] = True
# A number for each byte at each place in a word; their sum is the word's.
_PLACES: Final = splitmix64(np.arange(1, 256 * _LONGEST + 1, dtype=np.uint64))


def _classes() -> np.ndarray:
    """Classes of characters: each letter one, then digits, capitals, the marks of paths and options, quotes, brackets and the rest."""
    out = np.full(256, 31, np.int64)
    out[97:123] = np.arange(26)
    out[48:58] = 26
    out[65:91] = 27
    out[list(b"/.-_")] = 28
    out[list(b" \0")] = 29
    out[list(b"+=")] = 30
    return out


_CLASS: Final = _classes()


class Parts(NamedTuple):
    """Pieces of n command lines one after another: words that end at slashes, too. Arrays of one length.

    Attributes:
        row: Command line, int64, ascending.
        hash: What `spelled` gives, u64.
        dotted: Which begin with a dot and name something.
    """

    row: np.ndarray
    hash: np.ndarray
    dotted: np.ndarray


def words(heap: np.ndarray, begin: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, Parts]:
    """Words and characters of n command lines.

    Args:
        heap: uint8.
        begin: Where each line's arguments begin in it, each argument ended by NUL, int64, shape (n,).
        length: Their length in bytes; of longer ones the first 512 are looked at.

    Returns:
        Hashes of the first `WORDS` words after the program's name, u64, shape (n, WORDS), 0 where there are none; the entropy of the characters in bits
        per character, 0 to 5, float64, shape (n,); and the pieces of all words.
    """
    n = len(begin)
    length = np.minimum(length, _BYTES)
    out = np.zeros((n, WORDS), np.uint64)
    raw = gather(heap, begin, length)
    if not len(raw):
        return out, np.zeros(n), Parts(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, bool))
    row = np.repeat(np.arange(n), length)
    inside = np.arange(len(raw)) - np.repeat(starts(length), length)
    entropy = _entropy(raw, row, length, n)
    # What comes before the first NUL is the program's name.
    ends = np.flatnonzero(raw == 0)
    name = np.full(n, _BYTES, np.int64)
    first = np.minimum(np.searchsorted(ends, starts(length)), max(len(ends) - 1, 0))
    if len(ends):
        at = ends[first] - starts(length)
        name = np.where((at >= 0) & (at < length), at, _BYTES)
    solid = ~_BREAK[raw] & (inside > name[row])
    whose, sums, _ = _cut(raw, row, solid)
    rank = ranks(whose)
    few = rank < WORDS
    out[whose[few], rank[few]] = sums[few]
    whose, sums, first = _cut(raw, row, solid & (raw != _SLASH))
    return out, entropy, Parts(whose, sums, (raw[first] == _DOT) & ~np.isin(sums, _DOTS))


def spelled(text: str) -> int:
    """The hash of a piece of a command line; digits are written as one `#`."""
    places = [int(_PLACES[min(at, _LONGEST - 1) * 256 + byte]) for at, byte in enumerate(text.encode())]
    return int(splitmix64(np.array([sum(places) & 0xFFFFFFFFFFFFFFFF], np.uint64))[0]) or 1


def _cut(raw: np.ndarray, row: np.ndarray, solid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of bytes that are `solid`: the row of each, its hash, never 0, and where it begins."""
    digit = _DIGIT[raw]
    byte = np.where(digit, np.uint8(35), raw).astype(np.int64)
    same = (row[1:] == row[:-1]) & solid[:-1]
    begins, kept = solid.copy(), solid.copy()
    begins[1:] &= ~same
    kept[1:] &= ~(digit[1:] & digit[:-1] & same)
    # A digit that was left out may stand between a word's beginning and the rest: places count what is kept.
    at = np.flatnonzero(kept)
    heads = np.flatnonzero(begins[at])
    if not len(heads):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64)
    place = np.minimum(np.arange(len(at)) - np.repeat(heads, np.diff(np.append(heads, len(at)))), _LONGEST - 1)
    sums = splitmix64(np.add.reduceat(_PLACES[place * 256 + byte[at]], heads))
    return row[at[heads]], np.where(sums == 0, np.uint64(1), sums), at[heads]


def _entropy(raw: np.ndarray, row: np.ndarray, length: np.ndarray, n: int) -> np.ndarray:
    """Shannon's entropy of the classes of characters of each line, bits per character, shape (n,)."""
    counts = np.bincount(row * _CLASSES + _CLASS[raw], minlength=n * _CLASSES).reshape(n, _CLASSES)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = counts / np.maximum(length, 1)[:, None]
        return np.where(counts > 0, -share * np.log2(share), 0.0).sum(axis=1)


_DOTS: Final = np.array([spelled("."), spelled("..")], np.uint64)
