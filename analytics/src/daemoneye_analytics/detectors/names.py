"""What a domain name says of itself: whose it is, how much of it nobody would have chosen, and what that carries.

Responsible for single names. Whether a letter follows another as in names that people gave is learned from the public suffix list itself: 5,000
labels of towns, companies and services, in all languages that Latin letters write.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from math import log2
from pathlib import Path
from typing import Final, NamedTuple

from publicsuffixlist import PSLFILE, PublicSuffixList

DRAWN: Final = 5.2
"""Surprise, in bits a character, from which on a label counts as drawn. Of 20,000 names of Python packages, which are odder than those of domains,
6 % reach it; of labels of 8, 12 and 20 letters drawn at random 86 %, 93 % and 98 %, of those with digits among them nearly all."""
SHORTEST: Final = 8
"""Characters of a label from which on this can be told of it alone."""
_LEAST_BITS: Final = 64.0
"""What a label has to carry at least to count as data: more than an id of 17 hexadecimal digits, less than a hash."""
_EDGE, _DIGIT, _OTHER = "^", "0", "_"
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz-")
_SYMBOLS: Final = len(_LETTERS) + 3
_DIGIT_BITS: Final = log2(10)
_DISTINCT: Final = 65_536


class Name(NamedTuple):
    """A name taken apart.

    Attributes:
        domain: The domain that somebody registered; empty for what is none (a public suffix, a name of one label).
        data: The labels before it that carry `_LEAST_BITS` or more, joined.
        bits: What these carry.
        searched: Whether another name stands before the domain, as search lists of resolvers make them (`www.example.com.corp.example`).
        surprise: That of the registered label; 0 where it is shorter than `SHORTEST`, or encodes other letters (`xn--`).
    """

    domain: str
    data: str = ""
    bits: float = 0.0
    searched: bool = False
    surprise: float = 0.0


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()  # 0.1 s, when the first name comes


@lru_cache(maxsize=_DISTINCT)
def read(name: str) -> Name:
    """Take a name apart by the public suffix list (https://publicsuffix.org)."""
    name = name.rstrip(".").lower()
    domain = _suffixes().privatesuffix(name) or ""
    if not domain:
        return Name("")
    before = name[: -len(domain) - 1].split(".")
    data = [(label, bits) for label in before if (bits := carried(label)) >= _LEAST_BITS]
    return Name(
        domain,
        "".join(label for label, _ in data),
        sum(bits for _, bits in data),
        # A search list comes behind at least a name and the domain that it is below.
        any(_suffixes().publicsuffix(label, accept_unknown=False) for label in before[2:]),
        _chosen(domain.partition(".")[0]),
    )


@lru_cache(maxsize=_DISTINCT)
def registered(name: str) -> str:
    """The domain that somebody registered below a suffix that the list knows; empty for a suffix, an address, and names of one's own network."""
    return _suffixes().privatesuffix(name.rstrip(".").lower(), accept_unknown=False) or ""


def entropy(text: str) -> float:
    """Shannon's entropy of a text's characters, bits a character; 0 for the empty text."""
    total = len(text)
    return -sum(count / total * log2(count / total) for count in Counter(text).values()) if total else 0.0


def surprise(label: str) -> float:
    """Bits a character that somebody needs to write a label who knows which letters follow which in names that people gave; 0 for the empty one.

    Names that people chose need 3.7 to 5.0, letters drawn at random 6, with digits among them 7.
    """
    if not label:
        return 0.0
    table, marked = _table(), f"{_EDGE}{_plain(label)}{_EDGE}"
    bits = sum(table.get(marked[i : i + 2], table[marked[i]]) for i in range(len(marked) - 1))
    return (bits + marked.count(_DIGIT) * _DIGIT_BITS) / (len(label) + 1)


def carried(label: str) -> float:
    """Bits that a label carries: the entropy, bits a character times characters, of those parts between hyphens that look drawn."""
    return sum(entropy(part) * len(part) for part in label.split("-") if surprise(part) >= DRAWN)


def _chosen(label: str) -> float:
    return surprise(label) if len(label) >= SHORTEST and not label.startswith("xn--") else 0.0


def _plain(label: str) -> str:
    """Letters and hyphens as they are, digits as one symbol, whatever else as another."""
    return "".join(char if char in _LETTERS else _DIGIT if char.isdecimal() else _OTHER for char in label)


@lru_cache(maxsize=1)
def _table() -> dict[str, float]:
    """Bits of each symbol behind each other one, and of those that were never seen behind it (by that one alone)."""
    known: set[str] = set()
    for line in Path(PSLFILE).read_text("utf-8").splitlines():
        if line and not line.startswith("//"):
            known.update(label for label in re.split(r"[.!*]", line) if len(label) > 3 and label.isascii())
    pairs: Counter[str] = Counter()
    for label in known:
        marked = f"{_EDGE}{_plain(label)}{_EDGE}"
        pairs.update(marked[i : i + 2] for i in range(len(marked) - 1))
    firsts: Counter[str] = Counter()
    for pair, count in pairs.items():
        firsts[pair[0]] += count
    # Half an occurrence more of every pair (Krichevsky, Trofimov), so that nothing is impossible.
    table = {first: -log2(0.5 / (firsts[first] + 0.5 * _SYMBOLS)) for first in (*_LETTERS, _EDGE, _DIGIT, _OTHER)}
    for pair, count in pairs.items():
        table[pair] = -log2((count + 0.5) / (firsts[pair[0]] + 0.5 * _SYMBOLS))
    return table
