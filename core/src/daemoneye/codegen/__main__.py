"""Write the generated files, or say which are stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daemoneye.codegen import apireference, crd, header, reference

FILES: Final[dict[str, Callable[[], str]]] = {
    "bpf/include/events.gen.h": header.render,
    "docs/reference/events.md": reference.render,
    "docs/reference/api.md": apireference.fields,
    "docs/reference/conditions.md": apireference.reasons,
    **crd.files("crds"),
    **crd.files("charts/daemoneye/crds-yaml"),  # Helm reads only what lies in the chart
}
"""Path in the repository → what makes its text. A new generated file is one line here."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when `--check` finds a stale file."""
    parser = argparse.ArgumentParser(prog="python -m daemoneye.codegen", description="Write the generated files.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which files are stale")
    parser.add_argument("root", nargs="?", type=Path, default=Path.cwd(), help="root of the repository")
    arguments = parser.parse_args(argv)
    stale = []
    for name, render in FILES.items():
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


if __name__ == "__main__":
    raise SystemExit(main())
