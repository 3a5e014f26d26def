"""Text from processes made safe to show: a terminal must not be attackable through a process name.

Control characters (ESC above all), line and paragraph separators, bidirectional overrides and other format characters become visible
escapes; so do bytes that are not UTF-8. What is printable stays as it is.
"""

from __future__ import annotations

import unicodedata

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def decode(raw: bytes) -> str:
    r"""Text of bytes; those that are not UTF-8 become \xNN. Control characters stay: for JSON, whose encoder escapes them."""
    return raw.decode("utf-8", "backslashreplace")


def escape(text: str | bytes) -> str:
    r"""Text that a terminal shows and never obeys: unsafe characters as \xNN, \uNNNN or \UNNNNNNNN."""
    if isinstance(text, bytes):
        text = decode(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def command_line(argv: list[str]) -> str:
    """Arguments as one line for people: escaped, and quoted where a blank or a quote would mislead."""
    return " ".join(_quote(escape(a)) for a in argv)


def _quote(text: str) -> str:
    if text and not any(c in text for c in " \t'\"\\$`|&;<>()*?[]#~"):
        return text
    return "'" + text.replace("'", "'\\''") + "'"
