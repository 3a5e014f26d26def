"""What a capture may cost: a CPU budget, and what is left out, step by step, while it costs more.

Responsible for the decision only: it is told moments and seconds, and says how far to step down; whoever captures does what a step says.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

WINDOW_S: Final = 10.0
"""Costs are judged over so long."""
_EASE: Final = 0.6
"""Share of the budget below which there is room for what was left out."""
_CALM: Final = 6
"""Windows with room before a step up."""
_CALM_MOST: Final = 60
"""The same at most, after steps up that had to be taken back."""


class Level(IntEnum):
    """How far the governor stepped down; each level leaves out what those before it do, too."""

    EVERYTHING = 0
    NO_JA3 = 1
    NO_ANSWERS = 2
    FEW_SEGMENTS = 3
    FLOWS_ONLY = 4


MEANING: Final = {
    Level.EVERYTHING: "everything is looked at",
    Level.NO_JA3: "JA3 is not computed",
    Level.NO_ANSWERS: "nor are the data of DNS answers read",
    Level.FEW_SEGMENTS: "nor more than four segments of a message",
    Level.FLOWS_ONLY: "nor any message, but for one a second and processor; conversations are counted",
}
"""What is left out at a level, beside what the levels before it leave out."""


def said(level: Level) -> str:
    """What is left out down to a level, as a sentence goes on."""
    return ", ".join(MEANING[one] for one in Level if Level.EVERYTHING < one <= level) or MEANING[Level.EVERYTHING]


class Governor:
    """The budget of one capture.

    Attributes:
        level: How far it stepped down.
        used: Percent of one core that the last whole window cost.
    """

    def __init__(self, percent: float) -> None:
        """`percent` of one core are the budget."""
        self.level = Level.EVERYTHING
        self.used = 0.0
        self.percent = percent
        self._began: float | None = None
        self._spent = 0.0
        self._calm = 0
        self._wanted = _CALM
        self._rose = False

    def due(self, now: float) -> bool:
        """Whether the cost is judged with what is spent until `now`."""
        return self._began is not None and now - self._began >= WINDOW_S

    def spend(self, now: float, seconds: float) -> bool:
        """Processor time was spent until `now` (s, any clock that only rises); whether the level changed."""
        if self._began is None:
            self._began = now
        self._spent += seconds
        if not self.due(now):
            return False
        self.used = 100 * self._spent / (now - self._began)
        self._began, self._spent = now, 0.0
        return self._judge()

    def _judge(self) -> bool:
        before = self.level
        if self.used > self.percent:
            self._calm = 0
            if self._rose:  # what the last step up brought back is too much: the next one has to wait longer
                self._wanted = min(2 * self._wanted, _CALM_MOST)
            self._rose = False
            self.level = Level(min(self.level + 1, Level.FLOWS_ONLY))
        elif self.used <= _EASE * self.percent:
            self._calm += 1
            if self.level and self._calm >= self._wanted:
                self.level = Level(self.level - 1)
                self._calm, self._rose = 0, True
            elif self._calm >= _CALM_MOST:
                self._wanted, self._rose = _CALM, False
        else:
            self._calm = 0
        return self.level is not before
