"""Generated files on disk: written anew, or compared with what they should be.

Responsible for that and for the command line of `python -m daemoneye.codegen` and `python -m daemoneye_operator.codegen`; not for what is in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def run(files: Mapping[str, Callable[[], str]], argv: Sequence[str] | None, *, prog: str, description: str) -> int:
    """Write `files` (path in the repository → what makes its text); exit status 1 when `--check` finds a stale one."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; say which files are stale")
    parser.add_argument("root", nargs="?", type=Path, default=Path.cwd(), help="root of the repository")
    arguments = parser.parse_args(argv)
    stale = []
    for name, render in files.items():
        path = arguments.root / name
        text = render()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in stale:
        sys.stderr.write(f"{name}: {'stale; run `make generate`' if arguments.check else 'written'}\n")
    return 1 if arguments.check and stale else 0
