"""Patterns of ``*`` and ``?``, as exceptions have them.

Responsible for that they cost little whatever they are: they are people's, and the texts are watched processes'.
"""

from __future__ import annotations


def fits(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern of ``*`` and ``?``, in time that no pattern can blow up: only the last ``*`` is ever widened."""
    at = star = mark = 0
    place = 0
    found = False
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            found, star, mark = True, at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at, place = at + 1, place + 1
        elif found:
            mark += 1
            at, place = star + 1, mark
        else:
            return False
    return not pattern[at:].strip("*")
