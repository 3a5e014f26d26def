"""What this sensor knows to be lost.

Responsible for counting it by stage, for as long as the process lives, and for keeping it until a pipeline has told it as rows of `loss`: pipelines
come and go with configurations, and the publisher loses batches while there is none. Not for storing those rows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye.events.codec import Section, section_of
from daemoneye.events.loss import LOSS
from daemoneye_sensor.sources.base import Lost
from daemoneye_sensor.spool import Entry, Evicted

STAGES: Final = ("ring", "table", "capture", "lease", "blob", "decode", "spool", "publish")
"""Stages at which a sensor loses something; `stream` is analytics'."""
_LANE: Final = "loss"
_NO_SEQUENCE: Final = int(np.iinfo(np.uint64).max)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loss:
    """A loss, and whose it is; without a first sequence the records had none yet."""

    lost: Lost
    lane: str
    first_sequence: int
    epoch: int
    count: int

    @property
    def kind(self) -> tuple[str, str, str, str, int]:
        """Losses of different kinds are different rows."""
        return (self.lost.stage, self.lost.ring, self.lost.reason, self.lane, self.epoch)

    @property
    def following(self) -> int:
        """First sequence of a loss that goes on with this one."""
        return _NO_SEQUENCE if self.first_sequence == _NO_SEQUENCE else self.first_sequence + self.count


class Losses:
    """Counted at once, told later.

    Attributes:
        counts: Records or rows lost since the start of the process, by stage. Rows that tell losses and are lost themselves are not in it: what
            they told was counted before.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(STAGES, 0)
        self._untold: list[_Loss] = []
        self._newest: dict[tuple[str, str, str, str, int], _Loss] = {}  # of each kind of the above

    def __len__(self) -> int:
        """Rows of `loss` that nobody has stored yet."""
        return len(self._untold)

    def add(self, lost: Lost, lane: str, first_sequence: int = _NO_SEQUENCE, epoch: int = 0) -> None:
        """Something is lost. What goes on with the last of its kind is one with it: a disk that stays full fills no memory."""
        self.counts[lost.stage] = self.counts.get(lost.stage, 0) + lost.count
        loss = _Loss(lost, lane, first_sequence, epoch, lost.count)
        newest = self._newest.get(loss.kind)
        if newest is not None and newest.following == first_sequence:
            newest.count += loss.count
            return
        self._untold.append(loss)
        self._newest[loss.kind] = loss

    def evicted(self, gone: Evicted) -> None:
        """The spool had to make room."""
        if gone.lane != _LANE:
            lost = Lost("spool", "", gone.rows, "evicted before it was sent")
            self.add(lost, gone.lane, gone.first_sequence, gone.epoch)

    def refused(self, entry: Entry, reason: str) -> None:
        """The broker will never take a batch: its rows are lost at the stage `publish`. A refused loss batch only leaves a log line."""
        _log.warning("batch %s/%d refused: %s", entry.lane, entry.first_sequence, reason)
        if entry.lane != _LANE:
            self.add(Lost("publish", "", entry.rows, reason), entry.lane, entry.first_sequence, entry.epoch)

    def section(self, since_ns: int, until_ns: int) -> Section:
        """Rows of `loss` for all that is untold, which happened between two moments of the boot-time clock."""
        losses, n = self._untold, len(self._untold)
        values: dict[str, object] = {
            "time": [until_ns] * n, "since": [since_ns] * n, "count": [loss.count for loss in losses],
            "first_sequence": np.array([loss.first_sequence for loss in losses], np.uint64), "epoch": [loss.epoch for loss in losses],
            "stage": [loss.lost.stage.encode() for loss in losses], "lane": [loss.lane.encode() for loss in losses],
            "ring": [loss.lost.ring.encode() for loss in losses], "reason": [loss.lost.reason.encode() for loss in losses],
        }  # fmt: skip
        return section_of(LOSS, values, n)

    def told(self) -> None:
        """All of it is safe in the spool."""
        self._untold.clear()
        self._newest.clear()
