"""How far analytics is, and how late: what its metrics and its liveness are made of.

Responsible for counting since the start of the process, and for delays by the wall clock; not for what is read and stored
(`daemoneye_analytics.consumer`, `daemoneye_analytics.store`), nor for what must outlive the process (`daemoneye_analytics.pipeline`).
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime

from daemoneye import metrics
from daemoneye.envelope import Envelope
from daemoneye.exposition import histogram
from daemoneye.findings import Finding


class Progress:
    """Of one process.

    Attributes:
        corrupt: Messages that were no batches, or spoke for another node than the one whose subject they came under.
        lag: Messages of the stream that have not been read.
        stored: Findings that the broker has since then, by detector and severity.
        event_delay: Seconds from a batch's newest event to the batch being processed.
        finding_delay: Seconds from an event to its finding being stored.
    """

    def __init__(self) -> None:
        self.corrupt = 0
        self.lag = 0
        self.stored: Counter[tuple[str, str]] = Counter()
        self.event_delay = histogram(metrics.ANALYTICS_EVENT_DELAY)
        self.finding_delay = histogram(metrics.ANALYTICS_FINDING_DELAY)
        self._newest_ns: int | None = None
        self.begin()

    def begin(self) -> None:
        """The events are this process' from now on: what it is measured by begins anew."""
        self._began_ns = time.time_ns()
        self._turned = self._saved = time.monotonic()

    def turn(self) -> None:
        """The loop goes on, or something was tried in vain once more: nothing is stuck."""
        self._turned = time.monotonic()

    def save(self) -> None:
        """A checkpoint is stored."""
        self._saved = time.monotonic()

    def process(self, envelope: Envelope) -> None:
        """A batch of events took effect. A node's clock may be ahead of ours: nothing is older than it is by that, or newer than now."""
        if not envelope.rows:
            return
        now = time.time_ns()
        newest = min(envelope.last_time + envelope.clock_offset_ns, now)
        self.event_delay.observe((now - newest) / 1e9)
        self._newest_ns = newest if self._newest_ns is None else max(self._newest_ns, newest)

    def store(self, finding: Finding) -> None:
        """A finding is stored. Somebody else's detector may have given it a time that is none."""
        self.stored[finding.detector, finding.severity] += 1
        try:
            happened = datetime.fromisoformat(finding.time).timestamp()
        except (ValueError, OverflowError, OSError):
            return
        self.finding_delay.observe(max(time.time() - happened, 0.0))

    @property
    def behind_s(self) -> float:
        """Age of the newest event that was processed, while messages wait. Before the first one it is the process's own: at least so old."""
        newest = self._began_ns if self._newest_ns is None else self._newest_ns
        return max(time.time_ns() - newest, 0) / 1e9 if self.lag else 0.0

    @property
    def unsaved_s(self) -> float:
        """Seconds since the last checkpoint, or the start."""
        return time.monotonic() - self._saved

    @property
    def still_s(self) -> float:
        """Seconds since something went on."""
        return time.monotonic() - self._turned
