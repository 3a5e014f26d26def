"""What is known of each workload besides its counts: how long it was watched, in which phase it is, how its windows were judged.

Responsible for the life cycle Learning → Calibrating → Active → Drifted, and for how much of a window may be learned; everything follows from the
events' own time. One small object a workload, touched once a window.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND
_UNUSUAL: Final = 0.1
_RATE: Final = 0.1
_ENOUGH: Final = 20
_DRIFTED: Final = 0.5
_BACK: Final = 0.25
_FORMAT: Final = 1


class Phase(StrEnum):
    """Where a workload is in its life."""

    LEARNING = "Learning"
    CALIBRATING = "Calibrating"
    ACTIVE = "Active"
    DRIFTED = "Drifted"


@dataclass(slots=True)
class Life:
    """One workload with its image.

    Attributes:
        name: The workload, for people.
        first: First execution, ns since 1970.
        last: Last one.
        executions: How many.
        windows: Closed windows.
        judged: Of those, the ones that got a score.
        alarms: Of those, the ones at or above the threshold.
        unusual: Running share of windows with p ≤ 0.1: a tenth if the calibration holds.
        drifted: Whether that share was too large.
        calibrated: Whether its last window could be judged.
        hour: Hour of the events' time that `learned` is about.
        learned: Weight of executions learned in that hour.
    """

    name: str
    first: int
    last: int
    executions: int = 0
    windows: int = 0
    judged: int = 0
    alarms: int = 0
    unusual: float = _UNUSUAL
    drifted: bool = False
    calibrated: bool = False
    hour: int = 0
    learned: float = 0.0


class Lives:
    """All workloads, those seen longest ago go first when there are too many.

    Attributes:
        dropped: Workloads that had to go.
        counted: Closed windows since this process began, of workloads that went, too: `judged`, `insufficient` (calibration was), `alarms`.

    Args:
        capacity: Workloads at most.
        events: Executions that a workload must show before it has been learned.
        seconds: Time that it must have been watched as well.
        quiet_seconds: Time after which one that executes little has been learned, too.
        hourly: Executions' weight that is learned of one workload in an hour of the events' time.
    """

    def __init__(self, capacity: int, events: int, seconds: float, quiet_seconds: float, hourly: float) -> None:
        self.capacity = capacity
        self.dropped = 0
        self.counted: Counter[str] = Counter()
        self._rule = (events, int(seconds * _SECOND), int(quiet_seconds * _SECOND))
        self._hourly = hourly
        self._lives: dict[int, Life] = {}

    def __len__(self) -> int:
        return len(self._lives)

    def of(self, key: int, name: str, time: int) -> Life:
        """The life of a workload, begun at `time` if it is new."""
        life = self._lives.pop(key, None)
        if life is None:
            life = Life(name, time, time)
        self._lives[key] = life
        while len(self._lives) > self.capacity:
            del self._lives[next(iter(self._lives))]
            self.dropped += 1
        return life

    def learned(self, life: Life) -> bool:
        """Whether it has left Learning."""
        events, seconds, quiet = self._rule
        watched = life.last - life.first
        return watched >= quiet or (life.executions >= events and watched >= seconds)

    def phase(self, life: Life) -> Phase:
        """Where it is."""
        if not self.learned(life):
            return Phase.LEARNING
        if not life.calibrated:
            return Phase.CALIBRATING
        return Phase.DRIFTED if life.drifted else Phase.ACTIVE

    def close(self, life: Life, size: int, end: int) -> None:
        """A window of it is over."""
        life.executions += size
        life.windows += 1
        life.last = max(life.last, end)

    def judge(self, life: Life, p: float, *, alarm: bool) -> bool:
        """That window's p-value; NaN where calibration was insufficient. Whether the workload drifted by it."""
        life.calibrated = not np.isnan(p)
        self.counted["judged" if life.calibrated else "insufficient"] += 1
        if not life.calibrated:
            return False
        life.judged += 1
        life.alarms += alarm
        self.counted["alarms"] += alarm
        life.unusual += _RATE * ((p <= _UNUSUAL) - life.unusual)
        before = life.drifted
        if life.judged >= _ENOUGH:
            life.drifted = life.unusual > (_BACK if life.drifted else _DRIFTED)
        return life.drifted and not before

    def weight(self, life: Life, size: int, time: int) -> float:
        """Weight from 0 to 1 with which `size` executions may be learned now: a flood teaches no more than an hour may."""
        hour = time // _HOUR
        if hour != life.hour:
            life.hour, life.learned = hour, 0.0
        weight = min(1.0, max(self._hourly - life.learned, 0.05 * size) / max(size, 1))
        life.learned += weight * size
        return weight

    def settle(self) -> None:
        """The models were trained anew: what drifted is what is usual now."""
        for life in self._lives.values():
            life.drifted, life.unusual = False, _UNUSUAL

    def status(self) -> dict[str, Any]:
        """Workloads by phase, and how often windows alarmed."""
        phases = Counter(str(self.phase(life)) for life in self._lives.values())
        return {
            "workloads": len(self._lives), "phases": {str(p): phases.get(str(p), 0) for p in Phase}, "dropped": self.dropped,
            "windows": sum(life.windows for life in self._lives.values()), "judged": sum(life.judged for life in self._lives.values()),
            "alarms": sum(life.alarms for life in self._lives.values()),
        }  # fmt: skip

    def newest(self, number: int) -> list[tuple[Life, Phase]]:
        """The lives of so many workloads, those that drifted before the others, of each those seen last first."""
        drifted: list[Life] = []
        others: list[Life] = []
        for life in reversed(self._lives.values()):
            # Few drift; the others' phases need not be known of all, for every heartbeat asks.
            if life.drifted and self.phase(life) is Phase.DRIFTED:
                drifted.append(life)
            elif len(others) < number:
                others.append(life)
        return [(life, self.phase(life)) for life in (*drifted, *others)[:number]]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        lives = list(self._lives.values())
        return {
            "format": _FORMAT,
            "key": np.array(list(self._lives), np.uint64),
            "names": [life.name for life in lives],
            "numbers": np.array([
                (x.first, x.last, x.executions, x.windows, x.judged, x.alarms, x.drifted, x.calibrated, x.hour) for x in lives
            ], np.int64).reshape(-1, 9),
            "shares": np.array([(x.unusual, x.learned) for x in lives]).reshape(-1, 2),
            "dropped": self.dropped,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form; nothing was taken over.
        """
        try:
            if state["format"] != _FORMAT:
                msg = f"lives of format {state['format']}, this version reads {_FORMAT}"
                raise ValueError(msg)
            lives = {}
            for key, name, n, (unusual, learned) in zip(
                state["key"].tolist(), state["names"], state["numbers"].tolist(), state["shares"].tolist(), strict=True
            ):
                first, last, executions, windows, judged, alarms, drifted, calibrated, hour = n
                lives[key] = Life(
                    str(name), first, last, executions, windows, judged, alarms, unusual, bool(drifted), bool(calibrated), hour, learned
                )  # fmt: skip
            dropped = int(state["dropped"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            msg = f"not lives: {error!r}"
            raise ValueError(msg) from error
        self._lives, self.dropped = lives, dropped
