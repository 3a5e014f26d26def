"""What a workload does and when: jobs on a timetable of days, drawn from a seed. Nothing runs here, and no time passes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

BEGIN: Final = datetime(2026, 3, 2, tzinfo=UTC)
"""When every recording begins: a Monday."""
DAY: Final = 86_400.0
HOUR: Final = 3_600.0
MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """One program that a daemon of the workload starts; with `lines` it is a shell on a terminal, and they are typed."""

    daemon: str
    uid: int
    argv: tuple[str, ...]
    cwd: str = "/"
    lines: tuple[str, ...] = ()
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """Steps that run one after another.

    Attributes:
        at: Seconds after `BEGIN` at which it is due.
        steps: What runs.
        pace: How many seconds of the recording a second of its run counts: a person is slower than a script.
        technique: Name of the attack technique, empty for what is benign.
        rare: What a rare benign event is, empty for routine.
    """

    at: float
    steps: tuple[Step, ...]
    pace: float = 1.0
    technique: str = ""
    rare: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process that starts others."""

    name: str
    uid: int
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Foothold:
    """Where an attack begins: the daemon that was broken into, as whom, in which folder."""

    daemon: str
    uid: int
    cwd: str = "/tmp"


Make = Step | Callable[[datetime], "Step | Sequence[Step]"]
"""What is to be run: the same each time, or drawn for a moment."""


@dataclass(slots=True)
class Plan:
    """One workload: what is on its machine, who starts programs there, and its timetable. Filled by a module of `workloads`."""

    kind: str
    name: str
    days: int
    rng: random.Random
    daemons: list[Daemon] = field(default_factory=list)
    footholds: list[Foothold] = field(default_factory=list)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    def daemon(self, name: str, *argv: str, uid: int = 0) -> str:
        """A daemon; its program is a copy of the launcher at argv[0]."""
        self.daemons.append(Daemon(name, uid, argv))
        return name

    def foothold(self, daemon: str, uid: int, cwd: str = "/tmp") -> None:
        """A place where an attack may begin."""
        self.footholds.append(Foothold(daemon, uid, cwd))

    def file(self, path: str, text: str, mode: int = 0o644) -> str:
        """A file of the workload. Returns its path."""
        self.files[path] = (text, mode)
        return path

    def script(self, path: str, *lines: str, interpreter: str = "/bin/sh") -> str:
        """An executable script. Returns its path."""
        return self.file(path, "\n".join((f"#!{interpreter}", *lines, "")), 0o755)

    def add(self, at: float, make: Make, *, rare: str = "", pace: float = 1.0) -> None:
        """One job."""
        if 0 <= at < self.days * DAY:
            made = make if isinstance(make, Step) else make(BEGIN + timedelta(seconds=at))
            steps = (made,) if isinstance(made, Step) else tuple(made)
            self.jobs.append(Job(at, steps, pace, rare=rare))

    def every(self, seconds: float, make: Make, *, jitter: float = 0.5) -> None:
        """A timer, as cron's: the same second of each period, some of it late."""
        phase = self.rng.uniform(0, seconds)
        for turn in range(int(self.days * DAY / seconds) + 1):
            self.add(phase + turn * seconds + self.rng.uniform(0, jitter), make)

    def daily(self, hour: float, make: Make) -> None:
        """Once a day."""
        for day in range(self.days):
            self.add(day * DAY + hour * HOUR + self.rng.uniform(0, 5), make)

    def visits(self, a_day: float, make: Make, *, night: float = 0.15, pace: float = 1.0) -> None:
        """What people cause: a Poisson stream that is `night` as strong at four in the morning as at four in the afternoon."""
        at, peak = 0.0, 2 * a_day / (1 + night) / DAY
        while (at := at + self.rng.expovariate(peak)) < self.days * DAY:
            swing = (1 - math.cos(2 * math.pi * (at / DAY - 4 / 24))) / 2
            if self.rng.random() < night + (1 - night) * swing:
                self.add(at, make, pace=pace)

    def rarely(self, what: str, times: float, make: Make, *, pace: float = 1.0) -> None:
        """A rare benign event: `times` on average in the whole recording, in working hours."""
        for _ in range(int(times) + (self.rng.random() < times % 1)):
            at = self.rng.randrange(self.days) * DAY + self.rng.uniform(8.5, 18) * HOUR
            self.add(at, make, rare=what, pace=pace)


def sh(daemon: str, uid: int, command: str, cwd: str = "/") -> Step:
    """A command as daemons run it."""
    return Step(daemon, uid, ("/bin/sh", "-c", command), cwd)


def bash(daemon: str, uid: int, command: str, cwd: str = "/") -> Step:
    """The same by bash."""
    return Step(daemon, uid, ("/bin/bash", "-c", command), cwd)


def session(daemon: str, uid: int, lines: Sequence[str], cwd: str = "") -> Step:
    """A person at an interactive shell."""
    home = cwd or ("/root" if uid == 0 else f"/home/u{uid}")
    return Step(daemon, uid, ("/bin/bash", "-i"), home, tuple(lines))
