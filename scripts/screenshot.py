"""Draws a terminal's screen as SVG: `tmux capture-pane -e -p | .venv/bin/python scripts/screenshot.py TITLE > docs/live-view.svg`.

The screen is the real one; only the drawing is ours. No fonts are fetched: viewers use their own monospace.
"""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console
from rich.text import Text

_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> int:
    """Read ANSI text from stdin, write SVG to stdout."""
    # Blanks that do not collapse: not every viewer honours SVG's text lengths.
    lines = [Text.from_ansi(line) for line in sys.stdin.read().replace(" ", "\N{NO-BREAK SPACE}").splitlines()]
    console = Console(
        record=True,
        file=io.StringIO(),
        width=max(line.cell_len for line in lines),
        force_terminal=True,
        color_system="truecolor",
    )
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    svg = _FONTS.sub("", console.export_svg(title=sys.argv[1] if len(sys.argv) > 1 else "daemoneye"))
    sys.stdout.write(svg.replace("Fira Code", "monospace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
