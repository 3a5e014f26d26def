"""The live view of a terminal.

Responsible for layout, colours and keys; not for wording and escaping (:mod:`daemoneye_cli.show.text`), counting or
reading. Drawn at most four times a second, and only when something changed or a second has passed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from daemoneye.envelope import Batch
from daemoneye_cli.show import text
from daemoneye_cli.tally import Tally

FRAME_S: Final = 0.25
_BARS: Final = " ▁▂▃▄▅▆▇█"
_COLOURS: Final = {"critical": "bold white on red", "high": "bold red", "medium": "yellow", "low": "cyan"}
_STATES: Final = {"ready": "bold green", "running": "bold green", "starting": "yellow", "stopping": "yellow"}


def sparkline(values: list[int]) -> str:
    """Draw numbers as bars one row high; the greatest fills it."""
    top = max(values, default=0)
    return "".join(_BARS[0 if not value else 1 + value * (len(_BARS) - 2) // top] for value in values)


def render(tally: Tally, *, selected: int = 0, height: int = 40) -> RenderableType:
    """Draw one frame. ``selected`` counts findings from the newest, ``height`` is the terminal's in rows.

    Everything goes through :class:`rich.text.Text`, never through rich's markup: a process name may look like it.
    """
    layout = Layout()
    body = max(6, height - 5)
    rows = max(3, body // 2 - 2)
    findings = list(reversed(tally.findings))
    selected = min(selected, max(0, len(findings) - 1))
    layout.split_column(
        Layout(_header(tally), size=3),
        Layout(name="middle", ratio=1),
        Layout(name="detail", ratio=1),
        Layout(_footer(tally), size=2),
    )
    layout["middle"].split_row(
        Layout(Group(_workloads(tally, max(1, rows - 6)), _losses(tally)), ratio=2),
        Layout(_findings(findings, selected, rows), ratio=3),
    )
    layout["detail"].update(_detail(findings[selected], rows) if findings else _notes(tally, rows))
    return layout


def _header(tally: Tally) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    left = Text.assemble(("DaemonEye ", "bold"), text.plain(tally.node), "  ")
    left.append(tally.state, _STATES.get(tally.state, "bold"))
    left.append(f"  up {_duration(tally.clock() - tally.started)}", "dim")
    if any(tally.restarts.values()):
        left.append(f"  restarts: {text.counts(tally.restarts, '')}", "yellow")
    right = Text.assemble(
        (f"{tally.rate():,.0f} events/s ", "bold"), (sparkline(tally.rates(30)), "green"), f" {tally.events:,}"
    )
    grid.add_row(left, right)
    return Panel(grid, padding=(0, 1))


def _workloads(tally: Tally, rows: int) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(justify="right")
    for name, count in tally.workloads.most_common(rows):
        table.add_row(Text(text.plain(name)), Text(f"{count:,}"))
    return Panel(table, title="workloads by events", title_align="left", height=rows + 2)


def _losses(tally: Tally) -> RenderableType:
    lost = text.counts(tally.lost, "nothing")
    kinds = text.counts(dict(tally.kinds.most_common(4)), "none yet")
    style = "bold yellow" if any(tally.lost.values()) else "green"
    lines = [
        Text.assemble(" lost: ", (lost, style)),
        Text.assemble(" events: ", (kinds, "dim"), overflow="ellipsis", no_wrap=True),
    ]
    if any((phases := tally.phases()).values()):
        lines.append(Text.assemble(" analyser: ", (text.workloads(phases), "dim"), overflow="ellipsis", no_wrap=True))
    return Group(*lines)


def _findings(findings: list[dict[str, Any]], selected: int, rows: int) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(width=8)
    table.add_column(width=9, no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    first = max(0, min(selected - rows // 2, len(findings) - rows))
    for index, finding in enumerate(findings[first : first + rows], first):
        grade = text.severity(finding)
        line = Text.assemble(text.plain(finding.get("title")), ("  ", ""), (text.subject(finding), "dim"))
        style = "reverse" if index == selected else ""
        table.add_row(
            Text(text.clock_time(finding.get("time")), "dim"),
            Text(grade, _COLOURS.get(grade, "dim")),
            line,
            style=style,
        )
    return Panel(table, title=f"findings {len(findings)}", title_align="left")


def _detail(finding: dict[str, Any], rows: int) -> RenderableType:
    body: list[RenderableType] = [Text(f"· {sentence}") for sentence in text.explanation(finding)]
    chain = text.process_tree(finding)
    if chain:
        tree = Tree(Text(text.process(chain[0])), guide_style="dim")
        branch = tree
        for depth, entry in enumerate(chain[1:], 2):
            branch = branch.add(Text(text.process(entry), "bold" if depth == len(chain) else ""))
        body.append(tree)
    grade = text.severity(finding)
    title = Text.assemble((grade, _COLOURS.get(grade, "dim")), f" {text.headline(finding).partition(' ')[2]}")
    return Panel(Group(*body), title=title, title_align="left", height=rows + 3)


def _notes(tally: Tally, rows: int) -> RenderableType:
    lines = [Text(line, "dim") for line in tally.inactive]
    lines += [Text(f"{line.source}: {line.text}", "red" if line.level == "error" else "yellow") for line in tally.lines]
    if not lines:
        lines = [Text("no finding yet", "dim")]
    return Panel(Group(*lines[-rows:]), title="notes", title_align="left")


def _footer(tally: Tally) -> RenderableType:
    last = tally.lines[-1] if tally.lines else None
    upper = Text.assemble("try: ", (tally.hint, "cyan"), overflow="fold") if tally.hint else Text()
    if last and tally.findings:
        lower = Text(f"{last.source}: {last.text}", "yellow", overflow="ellipsis", no_wrap=True)
    else:
        lower = Text("↑ ↓ choose a finding    q quits", "dim")
    return Group(upper, lower)


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


class LiveView:
    """Draws a run on a terminal; ``on_quit`` is called when the user asks for the end, and with what went wrong if it cannot draw."""

    wants_batches = True
    wants_scores = False

    def __init__(self, tally: Tally, *, on_quit: Callable[..., None], console: Console | None = None) -> None:
        self._tally = tally
        self._on_quit = on_quit
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._selected = 0
        self._dirty = asyncio.Event()
        self._keys: list[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the screen."""
        self._live.start()
        if sys.stdin.isatty():
            self._keys = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            asyncio.get_running_loop().add_reader(sys.stdin, self._key)
        self._task = asyncio.create_task(self._draw())
        self._task.add_done_callback(self._drawn)

    async def close(self) -> None:
        """Give the screen back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._keys is not None:
            asyncio.get_running_loop().remove_reader(sys.stdin)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._keys)
        self._live.stop()

    async def on_batch(self, batch: Batch) -> None:
        """Count a batch's workloads."""
        self._tally.add_workloads(batch)

    async def on_finding(self, finding: dict[str, Any]) -> None:  # noqa: ARG002 - the tally has it
        """Show a finding on top; a finding that the user looks at stays the chosen one."""
        if self._selected:
            self._selected = min(self._selected + 1, len(self._tally.findings) - 1)
        self._dirty.set()

    async def on_score(self, score: dict[str, Any]) -> None:
        """Scores are not shown."""

    async def on_loss(self, loss: dict[str, Any]) -> None:  # noqa: ARG002 - the tally has it
        """Count a loss."""
        self._dirty.set()

    async def status(self) -> None:
        """Show the run's state."""
        self._dirty.set()

    async def _draw(self) -> None:
        while True:
            self._dirty.clear()
            frame = render(self._tally, selected=self._selected, height=self._console.size.height)
            self._live.update(frame, refresh=True)
            await asyncio.sleep(FRAME_S)
            try:
                async with asyncio.timeout(1.0 - FRAME_S):
                    await self._dirty.wait()
            except TimeoutError:
                continue

    def _drawn(self, task: asyncio.Task[None]) -> None:
        # A screen that stands still without a word would look like a machine on which nothing happens.
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_quit(error)

    def _key(self) -> None:
        keys = os.read(sys.stdin.fileno(), 64)
        if keys in {b"q", b"Q"} or not keys:
            self._on_quit()
        elif keys in {b"\x1b[A", b"k"}:
            self._selected = max(0, self._selected - 1)
        elif keys in {b"\x1b[B", b"j"}:
            self._selected = min(self._selected + 1, max(0, len(self._tally.findings) - 1))
        self._dirty.set()
