"""An analyser that has learned for hours, once for all tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.checkpoint import Checkpoint, decode, encode
from tests.unit.analytics.behaviour.sockets import analyser, frames, run

HOURS: Final = 14
LATER: Final = HOURS * 3600
VICTIM: Final = "shop/Deployment/app-2/main"
AFTER: Final = 100_000
"""Number of the first row that comes after what was learned."""


class Lesson:
    """What an analyser keeps after hours of connections.

    Attributes:
        state: Its checkpoint.
        findings: What it found meanwhile.
        scores: The windows that it closed meanwhile.
    """

    def __init__(self, usual: Callable[..., list[dict[str, Any]]], **parameters: Any) -> None:
        """`usual` makes the rows of so many hours, with a `seed` from a `start` on."""
        self._usual = usual
        self._parameters = parameters
        detector = analyser(**parameters)
        self.findings, self.scores = run(detector, usual(HOURS), 2000)
        self.state = detector.state()

    def again(self, **parameters: Any) -> BehavioralAnomaly:
        """An analyser that goes on from there."""
        detector = analyser(**(self._parameters | parameters))
        detector.restore(self.state)
        return detector

    def later(self, *extra: dict[str, Any], hours: float = 0.5) -> list[dict[str, Any]]:
        """What is usual afterwards, and what is not."""
        rows = [*self._usual(hours, seed=2, start=LATER + 60), *extra]
        return sorted(rows, key=lambda row: row["time"])

    def restarting(self, rows: Sequence[dict[str, Any]], size: int):
        """Findings and scores of an analyser that goes on from a checkpoint of its own after every batch."""
        detector, findings, scores = self.again(), [], []
        for frame in frames(rows, size, first=AFTER):
            findings += detector.process(frame)
            scores += detector.scores
            detector = renewed(detector, **self._parameters)
        return findings, scores


def renewed(detector: BehavioralAnomaly, **parameters: Any) -> BehavioralAnomaly:
    """Another analyser that goes on from the checkpoint of one."""
    saved = decode(encode(Checkpoint(1, 1, {}, {"behavioral_anomaly": detector.state()})))
    other = analyser(**parameters)
    other.restore(dict(saved.detectors["behavioral_anomaly"]))
    return other
