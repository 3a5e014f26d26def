"""The source `replay`: a recording instead of a kernel, through the same pipeline.

Two forms are read, told apart by their first bytes: the native one (a spool's segment, batches as they were published) and JSON Lines as
`daemoneye run -o json --events` writes them. Native batches pass as they are, context included; JSON rows get theirs from the process table, as
live rows do. What cannot be read is counted and named; what can be read is not lost with it.
"""

from __future__ import annotations

import itertools
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from daemoneye import envelope
from daemoneye.errors import CorruptData
from daemoneye.events import jsonread
from daemoneye_sensor.processes import ProcessTable
from daemoneye_sensor.sources.base import Drain, Lost, Origin
from daemoneye_sensor.spool import Entry, read_recording

_LINES: Final = 2048
_REASONS_KEPT: Final = 5


class ReplaySource:
    """A recording, read from beginning to end. One of several nodes is taken for one of its first node."""

    name = "replay"
    patient = True

    def __init__(self, path: Path) -> None:
        """Nothing is read before `open`."""
        self._path = path
        self._drains: Iterator[Drain] | None = None
        self._finished = False
        self._bad: list[str] = []
        self._bad_count = 0
        self._told = 0
        self._rows = 0
        self._file: BinaryIO | None = None

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:  # noqa: ARG002 - each replay is a run of its own
        """Find out the form.

        Raises:
            CorruptData: The file cannot be opened or is empty.
        """
        try:
            self._file = self._path.open("rb")
            start = self._file.read(1)
            self._file.seek(0)
        except OSError as error:
            msg = f"cannot be read: {error.strerror}"
            raise CorruptData(msg, where=str(self._path)) from error
        if not start:
            raise CorruptData("the recording is empty", where=str(self._path))
        self._drains = self._json(self._file) if start in {b"{", b" ", b"\n", b"["} else self._native()
        return Origin(self._node(), "replay", secrets.randbits(48), 0)

    def _node(self) -> str:
        """Name of the node that the first batch is of: look at it, and put it back."""
        first = self.drain()
        if first is None or self._drains is None:
            return ""
        self._rows -= first.rows
        self._drains = itertools.chain([first], self._drains)
        return first.origin.node if first.origin else ""

    def wake_fd(self) -> int | None:
        """A file is always ready."""
        return None

    def drain(self) -> Drain | None:
        """The next batch of the recording."""
        if self._drains is None or self._finished:
            return None
        try:
            drain = next(self._drains)
        except StopIteration:
            self._finished = True
            return None
        except CorruptData as error:
            self._refuse(str(error))
            self._finished = True
            return None
        self._rows += drain.rows
        return drain

    def commit(self, drain: Drain) -> None:
        """A recording keeps what was read."""

    def lost(self) -> list[Lost]:
        """Lines and batches that could not be read."""
        new, self._told = self._bad_count - self._told, self._bad_count
        return [Lost("decode", "", new, "; ".join(self._bad))] if new else []

    def positions(self) -> dict[str, int]:
        """None."""
        return {}

    def status(self) -> dict[str, object]:
        """Counters, and the first things that could not be read."""
        more = self._bad_count - len(self._bad)
        error = f"{self._path}: " + "; ".join(self._bad) + (f"; and {more} more" if more else "") if self._bad else ""
        return {"records": {"replay": self._rows}, "malformed": self._bad_count, "error": error}

    @property
    def finished(self) -> bool:
        """Whether all was read."""
        return self._finished

    def close(self, *, keep: bool) -> None:  # noqa: ARG002 - nothing to take over
        """Close the file."""
        if self._file:
            self._file.close()

    def _refuse(self, reason: str) -> None:
        self._bad_count += 1
        if len(self._bad) < _REASONS_KEPT:
            self._bad.append(reason)

    def _native(self) -> Iterator[Drain]:
        for entry in read_recording(self._path):
            try:
                drain = _of_entry(entry)
            except CorruptData as error:
                self._refuse(str(error))
                continue
            if drain:
                yield drain

    def _json(self, file: BinaryIO) -> Iterator[Drain]:
        tables: defaultdict[jsonread.Clock, ProcessTable] = defaultdict(ProcessTable)
        lines = enumerate(file, 1)
        while chunk := list(itertools.islice(lines, _LINES)):
            rows: defaultdict[jsonread.Clock, list[dict[str, Any]]] = defaultdict(list)
            for number, line in chunk:
                try:
                    row = jsonread.parse_line(line)
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                    self._refuse(f"line {number}: {error}")
                    continue
                if row:
                    rows[row["clock"]].append(row)
            for clock, mine in rows.items():
                sections, images, identities = jsonread.sections_of(mine)
                tables[clock].seed(images)
                context = tables[clock].explain(sections)
                explained = tuple(s for s in (*sections, context, identities) if len(s.rows))
                origin = Origin(clock.node, clock.boot_id, 0, clock.offset_ns)
                yield Drain("urgent", explained, rows=len(mine), more=True, origin=origin)


def _of_entry(entry: Entry) -> Drain | None:
    batch = envelope.decode(entry.payload)
    about = batch.envelope
    origin = Origin(about.node, about.boot_id, about.epoch, about.clock_offset_ns)
    # Losses of the recording are part of what it tells; they go on as they are.
    rows = sum(len(s.rows) for s in batch.sections if not s.context)
    return Drain(about.lane, batch.sections, rows=rows, more=True, origin=origin)
