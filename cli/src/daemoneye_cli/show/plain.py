"""Plain lines for people: what ``daemoneye run`` writes where there is no terminal, and with ``-o plain``.

Responsible for the form alone.
"""

from __future__ import annotations

from typing import Any

from daemoneye.envelope import Batch
from daemoneye.events.jsonform import events_json
from daemoneye_cli.show import text
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.tally import Tally


def finding_lines(finding: dict[str, Any]) -> str:
    """Give a finding as a headline, its explanation and its process tree."""
    lines = [f"{text.plain(finding.get('time'))} {text.headline(finding)}"]
    lines += [f"    {sentence}" for sentence in text.explanation(finding)]
    lines += [f"    {'  ' * depth}└ {text.process(entry)}" for depth, entry in enumerate(text.process_tree(finding))]
    return "\n".join(lines) + "\n"


class PlainView:
    """Writes lines."""

    def __init__(self, writer: LineWriter, tally: Tally, *, events: bool) -> None:
        self.wants_batches = events
        self.wants_scores = False
        self._writer = writer
        self._tally = tally

    async def on_batch(self, batch: Batch) -> None:
        """Write a line for each event."""
        await self._writer.write("".join(f"{text.event(event)}\n" for event in events_json(batch)))

    async def on_finding(self, finding: dict[str, Any]) -> None:
        """Write a finding."""
        await self._writer.write(finding_lines(finding))

    async def on_score(self, score: dict[str, Any]) -> None:
        """Scores are not shown."""

    async def on_loss(self, loss: dict[str, Any]) -> None:
        """Write a loss."""
        await self._writer.write(f"{text.plain(loss.get('time'))} {text.loss(loss)}\n".lstrip())

    async def status(self) -> None:
        """Write the run's status."""
        tally = self._tally
        line = (
            f"{tally.state}: {tally.events:,} events ({tally.rate():.0f}/s), {tally.findings_count} findings, "
            f"lost: {text.counts(tally.lost, 'nothing')}"
        )
        await self._writer.write(f"{line}\n")
        if tally.state == "ready" and tally.hint:
            await self._writer.write(f"To see a finding, paste into another shell: {tally.hint}\n")
