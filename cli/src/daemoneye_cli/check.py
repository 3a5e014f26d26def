"""What one check of a doctor found, on this machine or in a cluster alike.

Responsible for the value alone: it is needed where the checks' own imports are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIN_KERNEL: Final = (5, 8)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. ``needed``: without it nothing can be watched."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = True
