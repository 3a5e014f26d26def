"""A terminal must not be attackable through a process name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.escape import command_line, escape


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("ünïcode ✓ 漢字", "ünïcode ✓ 漢字"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\r", r"a\x0ab\x09c\x0d"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("\u202eevil", r"\u202eevil"),
        ("\u2028", r"\u2028"),
        ("\x9b31m", r"\x9b31m"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_unsafe_characters_become_visible(raw: str | bytes, shown: str) -> None:
    assert escape(raw) == shown


@given(st.text() | st.binary())
def test_nothing_that_a_terminal_obeys_gets_through(raw: str | bytes) -> None:
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in escape(raw))


def test_command_lines_are_quoted_where_a_blank_would_mislead() -> None:
    assert command_line(["sh", "-c", "echo 'hi'", ""]) == r"sh -c 'echo '\''hi'\''' ''"
