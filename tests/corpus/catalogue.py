"""Which workloads there are, and the timetable of each: a kind, a number and a seed make it, so that it can be made again."""

from __future__ import annotations

import random
from typing import Final

from tests.corpus import attacks
from tests.corpus.schedule import Plan
from tests.corpus.workloads import (
    adminhost,
    background,
    ci,
    cronhost,
    database,
    datajob,
    gitserver,
    mailer,
    monitoring,
    packages,
    web,
)

KINDS: Final = {
    "web": web, "cron": cronhost, "packages": packages, "ci": ci, "data": datajob, "admin": adminhost, "monitoring": monitoring, "mail": mailer,
    "database": database, "git": gitserver,
}  # fmt: skip
SPLITS: Final = {"dev": (1, 2, 3), "test": (4, 5, 6)}
"""Instances of each kind by split. Chosen before anything was tuned; they are recorded in runs of their own."""
DAYS: Final = 3
SEED: Final = 20_260_302


def stand_ins() -> tuple[str, ...]:
    """Paths of all programs that the launcher stands for."""
    return tuple(
        sorted(
            {path for module in KINDS.values() for path in module.STAND_INS}
            | set(attacks.STAND_INS)
            | set(background.STAND_INS)
        )
    )


def plans(split: str, days: int = DAYS) -> list[Plan]:
    """The workloads of a split with their timetables, attacks among them, in order of time."""
    made = []
    for number in SPLITS[split]:
        for kind, module in KINDS.items():
            plan = Plan(kind, f"{kind}-{number}", days, random.Random(f"{SEED}/{kind}/{number}"))
            module.plan(plan)
            background.plan(plan)
            made.append(plan)
    attacks.place(made, split)
    for plan in made:
        plan.jobs.sort(key=lambda job: job.at)
    return made
