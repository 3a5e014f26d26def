"""The file that ``bugtool`` leaves, and what it says of it.

Responsible for what the two commands of that name have in common: options, the archive's place, the last words.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from pathlib import Path
from typing import Final

from daemoneye_cli.bundle import MAX_TOTAL, Bundle, default_name
from daemoneye_cli.commands.options import count, say
from daemoneye_cli.redact import Redactor

_LAST: Final = 20
_NOTES: Final = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument("--output", type=Path, metavar="PATH", help="file, or folder, to write (default: here)")
    parser.add_argument("--last", type=count, default=_LAST, metavar="N", help=f"findings in full (default {_LAST})")
    parser.add_argument(
        "--include-arguments",
        action="store_true",
        help="keep the arguments of findings' processes, which may be somebody's secrets",
    )


def opened(output: Path | None) -> Bundle:
    """Give the archive that is to be written at ``output``."""
    name = default_name(dt.datetime.now(dt.UTC))
    path = Path(name) if output is None else output / name if output.is_dir() else output
    return Bundle(path, Redactor())


def tell(bundle: Bundle) -> None:
    """Say what is in the archive, and what is not."""
    for gap in bundle.missing[:_NOTES]:
        say(f"left out: {gap['what']}: {gap['why']}")
    if len(bundle.missing) > _NOTES:
        say(f"left out: {len(bundle.missing) - _NOTES} more: manifest.json has all")
    size = os.path.getsize(bundle.path)
    print(
        f"{bundle.path}: {len(bundle.entries)} files, {size / (1 << 20):.1f} MiB packed, {bundle.size / (1 << 20):.1f} of at most {MAX_TOTAL >> 20} MiB.\n"
        "Passwords, tokens and keys are taken out. Names of nodes, pods and programs are in it: look through it before you send it."
    )
