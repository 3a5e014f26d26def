"""The words of command lines as numbers, for thousands of command lines at once.

Responsible for cutting arguments into words, for what makes two words the same, and for figures about their characters; all on bytes, no Python per
row. A run of digits counts as one `#`: process ids, dates and numbers of temporary files would make every command line a new one.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.events.codec import gather, starts

WORDS: Final = 12
"""Words of a command line that are looked at; the program's own name is not one of them."""
_BYTES: Final = 512
_LONGEST: Final = 256
_CLASSES: Final = 32
_BREAKS: Final = b"\0 \t\r\n\"'`|&;<>(),=:"
_SLASH: Final = ord("/")
_DOT: Final = ord(".")
_LETTER: Final = bytes(ord("#") if byte in b"0123456789" else byte for byte in range(256))
"""What a byte counts as in a word."""
_INSIDE: Final = bytes(byte not in _BREAKS for byte in range(256))
# A number for each byte at each place in a word; their sum is the word's.
_PLACES: Final = splitmix64(np.arange(1, 256 * _LONGEST + 1, dtype=np.uint64))


def _classes() -> bytes:
    """Classes of characters: each letter one, then digits, capitals, the marks of paths and options, quotes, brackets and the rest."""
    out = np.full(256, 31, np.uint8)
    out[97:123] = np.arange(26)
    out[48:58] = 26
    out[65:91] = 27
    out[list(b"/.-_")] = 28
    out[list(b" \0")] = 29
    out[list(b"+=")] = 30
    return out.tobytes()


_CLASS: Final = _classes()


class Parts(NamedTuple):
    """Pieces of n command lines one after another: words that end at slashes, too. Arrays of one length.

    Attributes:
        row: Command line, ascending.
        hash: What `spelled` gives, u64.
        dotted: Which begin with a dot and name something.
    """

    row: np.ndarray
    hash: np.ndarray
    dotted: np.ndarray

    def of(self, lines: np.ndarray) -> Self:
        """The pieces of some lines, int array, which are lines 0 and on of the result."""
        number = np.bincount(self.row, minlength=int(lines.max(initial=0)) + 1)
        many = number[lines]
        at = np.arange(int(many.sum())) + np.repeat(starts(number)[lines] - starts(many), many)
        return type(self)(np.repeat(np.arange(len(lines)), many), self.hash[at], self.dotted[at])


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
        return out, np.zeros(n), _NO_PARTS
    start = starts(length)
    entropy = _entropy(raw, length)
    # What comes before the first NUL is the program's name; without one, all is.
    ends = np.append(np.flatnonzero(raw == 0), len(raw))
    rest = np.minimum(ends[np.searchsorted(ends, start)], start + length)
    rest_length = start + length - rest
    raw = gather(raw, rest, rest_length)
    if not len(raw):
        return out, entropy, _NO_PARTS
    row = np.repeat(np.arange(n, dtype=np.int32), rest_length)
    # Each line's rest begins with its NUL, so that no word goes on from one line to the next.
    solid = _translated(raw, _INSIDE).view(bool)
    whose, sums, _ = _cut(raw, row, solid)
    rank = np.arange(len(whose)) - starts(np.bincount(whose, minlength=n))[whose]
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
    digit = raw - np.uint8(ord("0")) < 10
    begins, kept = solid.copy(), solid.copy()
    begins[1:] &= ~solid[:-1]
    kept[1:] &= ~(digit[1:] & digit[:-1])
    # A digit that was left out may stand between a word's beginning and the rest: places count what is kept.
    at = np.flatnonzero(kept)
    heads = np.flatnonzero(begins[at])
    if not len(heads):
        return np.zeros(0, row.dtype), np.zeros(0, np.uint64), np.zeros(0, np.int64)
    place = np.arange(len(at)) - np.repeat(heads, np.diff(np.append(heads, len(at))))
    np.minimum(place, _LONGEST - 1, out=place)
    place *= 256
    place += _translated(raw[at], _LETTER)
    sums = splitmix64(np.add.reduceat(_PLACES.take(place), heads))
    first = at[heads]
    return row[first], np.where(sums == 0, np.uint64(1), sums), first


def _entropy(raw: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Shannon's entropy of the classes of characters of each of n lines, one after another in `raw`, bits per character, shape (n,)."""
    n = len(length)
    cell = np.repeat(np.arange(0, n * _CLASSES, _CLASSES), length)
    cell += _translated(raw, _CLASS)
    counts = np.bincount(cell, minlength=n * _CLASSES).reshape(n, _CLASSES)
    share = counts / np.maximum(length, 1)[:, None]
    # A class that does not occur adds nothing, and its logarithm is not asked for.
    np.copyto(share, 1.0, where=counts == 0)
    return (-share * np.log2(share)).sum(axis=1) + 0.0


def _translated(raw: np.ndarray, table: bytes) -> np.ndarray:
    """Each byte by a table of 256, uint8: `bytes` does it five times as quick as an array's index."""
    return np.frombuffer(raw.tobytes().translate(table), np.uint8)


_NO_PARTS: Final = Parts(np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0, bool))
_DOTS: Final = np.array([spelled("."), spelled("..")], np.uint64)
