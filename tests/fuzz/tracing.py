"""What the product's code does with an input: how many lines it runs, and from which to which."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

Edge = tuple[str, int, int]
"""File, and lines one after another; 0 before the first of a function."""


def traced(work: Callable[[], Any]) -> tuple[int, set[Edge]]:
    """Run it: the number of lines, and the different steps between them."""
    count = 0
    edges: set[Edge] = set()
    last: dict[FrameType, int] = {}

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            edges.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        elif event == "return":
            last.pop(frame, None)
        return line

    def call(frame: FrameType, _event: str, _: Any) -> Any:
        return line if "daemoneye" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count, edges
