r"""The contract's lines: one JSON object a line.

Responsible for the form alone. Strings are written with \u escapes (``ensure_ascii``), so that even a terminal that
shows the lines cannot be attacked through them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from daemoneye.envelope import Batch
from daemoneye.events.jsonform import events_json
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.tally import Tally


def json_line(content: Mapping[str, Any]) -> str:
    """Give one line, with its end."""
    return json.dumps(content, separators=(",", ":")) + "\n"


class JsonView:
    """Writes JSON lines; log lines are the caller's affair (stderr)."""

    def __init__(self, writer: LineWriter, tally: Tally, *, events: bool, scores: bool = False) -> None:
        self.wants_batches = events
        self.wants_scores = scores
        self._writer = writer
        self._tally = tally

    async def on_batch(self, batch: Batch) -> None:
        """Write a batch's events."""
        await self._writer.write("".join(json_line(event) for event in events_json(batch)))

    async def on_finding(self, finding: dict[str, Any]) -> None:
        """Write a finding."""
        await self._writer.write(json_line({"kind": "finding", **finding}))

    async def on_loss(self, loss: dict[str, Any]) -> None:
        """Write a loss."""
        await self._writer.write(json_line(loss))

    async def on_score(self, score: dict[str, Any]) -> None:
        """Write a score."""
        await self._writer.write(json_line({"kind": "score", **score}))

    async def status(self) -> None:
        """Write the run's status."""
        await self._writer.write(json_line(self._tally.as_status()))
