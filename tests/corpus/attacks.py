"""Attack techniques, replayed inside workloads: harmless here, for machines and their networks end with the recording. Where and when they happen.

What is typed is drawn by `tests.corpus.techniques`; a line of `TECHNIQUES` says the rest. Those of `held_out` occur in no split but `test`: what is tuned on `dev`
has never seen them.
"""
# ruff: noqa: E501 - a table, one technique after another

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.corpus import techniques as draws
from tests.corpus.schedule import DAY, Foothold, Job, Plan, Step, session

STAND_INS: Final = (
    "/usr/bin/nc",
    "/usr/sbin/useradd",
    "/usr/sbin/usermod",
    "/usr/sbin/insmod",
    "/usr/sbin/iptables",
    "/usr/bin/crontab",
    "/usr/bin/systemctl",
    "/usr/bin/sudo",
    "/usr/bin/nmap",
)
FIRST_DAY: Final = 1.4
"""Attacks begin after so many days: before, a workload is learned."""
_APART: Final = 45 * 60.0

Draw = Callable[[random.Random], "str | Sequence[str]"]


@dataclass(frozen=True, slots=True)
class Technique:
    """One technique.

    Attributes:
        attack: Its id in MITRE ATT&CK.
        draw: Gives command lines, each for a shell of its own.
        root: It is done as root, after rights were gained elsewhere.
        typed: The lines are typed at one interactive shell.
        held_out: It occurs in the test split alone.
        pace: Seconds of the recording that a second of its run counts.
    """

    attack: str
    draw: Draw
    root: bool = False
    typed: bool = False
    held_out: bool = False
    pace: float = 1.0


TECHNIQUES: Final[dict[str, Technique]] = {
    "web shell": Technique("T1505.003", draws.webshell, pace=20), "reverse shell": Technique("T1059.004", draws.reverse, pace=20), "curl into shell": Technique("T1105", draws.fetch),
    "decoded script": Technique("T1140", draws.decoded), "memory file": Technique("T1620", draws.memfd), "execution from tmp": Technique("T1036.005", draws.dropped),
    "execution from shared memory": Technique("T1564.001", draws.shm), "renamed tool": Technique("T1036.003", draws.renamed), "discovery burst": Technique("T1082", draws.discovery),
    "search for setuid": Technique("T1083", draws.setuids), "shadow copied": Technique("T1003.008", draws.shadow, root=True), "search for passwords": Technique("T1552.001", draws.passwords),
    "cron persistence": Technique("T1053.003", draws.cron, root=True), "ssh key added": Technique("T1098.004", draws.key, root=True), "logs cleared": Technique("T1070.002", draws.logs, root=True),
    "setuid shell": Technique("T1548.001", draws.setuid, root=True), "miner": Technique("T1496", draws.miner), "lateral scan": Technique("T1046", draws.lateral), "data staged": Technique("T1560.001", draws.staging),
    "python terminal": Technique("T1059.006", draws.pty), "shell out of a tool": Technique("T1059", draws.lolbin), "module listing": Technique("T1014", draws.modules, root=True),
    "container escape": Technique("T1611", draws.escape, root=True), "upload": Technique("T1048", draws.upload), "sudo enumeration": Technique("T1069.001", draws.sudo), "binary dropped": Technique("T1204.002", draws.elf),
    "hands on keyboard": Technique("T1059.004", draws.hands, typed=True, pace=60),
    "preloaded library": Technique("T1574.006", draws.preload, held_out=True), "perl reverse shell": Technique("T1059", draws.perl, held_out=True, pace=20), "module inserted": Technique("T1547.006", draws.insmod, root=True, held_out=True),
    "service persistence": Technique("T1543.002", draws.service, root=True, held_out=True), "account created": Technique("T1136.001", draws.account, root=True, held_out=True), "masked name": Technique("T1036.004", draws.masked, held_out=True),
    "times changed": Technique("T1070.006", draws.stomp, root=True, held_out=True), "history cleared": Technique("T1070.003", draws.history, typed=True, held_out=True, pace=60), "defences stopped": Technique("T1562.001", draws.disable, root=True, held_out=True),
    "cloud metadata": Technique("T1552.005", draws.metadata, held_out=True), "key collection": Technique("T1552.004", draws.keys, held_out=True), "process injection": Technique("T1055.008", draws.inject, held_out=True),
    "profile backdoor": Technique("T1546.004", draws.profile, held_out=True), "sniffing": Technique("T1040", draws.sniff, root=True, held_out=True), "encrypted shell": Technique("T1573.002", draws.tunnel, held_out=True, pace=10),
    "rivals killed": Technique("T1489", draws.rivals, held_out=True),
}  # fmt: skip
EACH: Final = {"dev": 6, "test": 8}
"""Attacks in each workload."""


def place(plans: Sequence[Plan], split: str) -> None:
    """Give each workload its attacks: each technique in several workloads, moments apart from one another."""
    rng = random.Random(f"attacks/{split}")
    names = [name for name, technique in TECHNIQUES.items() if split == "test" or not technique.held_out]
    queue: list[str] = []
    for plan in plans:
        first, last = min(FIRST_DAY, plan.days / 2) * DAY, plan.days * DAY - 2 * 3600
        moments: list[float] = []
        while len(moments) < EACH[split]:
            at = rng.uniform(first, last)
            if all(abs(at - other) > _APART for other in moments):
                moments.append(at)
        for at in sorted(moments):
            if not queue:
                queue = rng.sample(names, len(names))
            name = queue.pop()
            technique = TECHNIQUES[name]
            plan.jobs.append(Job(at, _steps(technique, plan, rng), technique.pace, technique=name))


def _steps(technique: Technique, plan: Plan, rng: random.Random) -> tuple[Step, ...]:
    where = rng.choice(plan.footholds)
    if technique.root and where.uid:
        where = Foothold(next(daemon.name for daemon in plan.daemons if not daemon.uid), 0, "/")
    drawn = technique.draw(rng)
    lines = [drawn] if isinstance(drawn, str) else list(drawn)
    if technique.typed:
        return (session(where.daemon, where.uid, lines),)
    shell = rng.choice(draws.SHELLS)
    return tuple(Step(where.daemon, where.uid, (shell, "-c", line), where.cwd) for line in lines)
