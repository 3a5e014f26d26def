"""A doctor's checks, in lines for people or as JSON, each as soon as it is made.

Responsible for form and escaping.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from daemoneye.escape import escape
from daemoneye_cli.check import Check


def show_checks(checks: Iterable[Check], output: str) -> list[Check]:
    """Print each check as it is made; gives those that fail and are needed."""
    missing = []
    for check in checks:
        print(_json(check) if output == "json" else plain_line(check), flush=True)
        if check.needed and not check.ok:
            missing.append(check)
    return missing


def _json(check: Check) -> str:
    return json.dumps({"kind": "check", **dataclasses.asdict(check)})


def plain_line(check: Check) -> str:
    """Give a check in a line for people, with a second one that says what to do."""
    mark = "✓" if check.ok else "✗"
    optional = "" if check.needed or check.ok else " (optional)"
    line = f"{mark} {check.name:<20}{escape(check.detail)}{optional}"
    return f"{line}\n  {'':<20}fix: {escape(check.fix)}" if check.fix and not check.ok else line
