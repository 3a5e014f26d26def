"""A pod that executes something every few milliseconds, and how many times it did by its own count."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.cluster.oracle import Oracle
from tests.cluster.release import Release, wait

EVERY_MS: Final = 20
A_MOMENT: Final = 20
"""Events that may find neither rings in the moment of an upgrade; they are counted."""
COMMAND: Final = ("steady", str(EVERY_MS))
"""What the pod runs of victim.c."""


def nothing_lost(oracle: Oracle, upgrades: int = 1) -> None:
    """Rings, spool and stream have room for all of this; only in the moment of an upgrade some events may find neither rings, and are counted."""
    assert oracle.lost() == oracle.lost("lease") <= upgrades * A_MOMENT, oracle.losses


def all_there_once(release: Release, oracle: Oracle, pod: dict[str, Any], upgrades: int = 1) -> None:
    """Stop the generator: each of its executions is in the stream once, or was counted as lost."""
    uid, name, namespace = (pod["metadata"][key] for key in ("uid", "name", "namespace"))
    os.kill(_generator(uid), signal.SIGUSR1)
    log = wait("its count", lambda: release.cluster.kubectl("logs", name, "-n", namespace).split(), 90)
    made = int(log[log.index("made") + 1])

    def all_seen() -> bool:
        oracle.look()
        assert oracle.executions[uid] >= made - oracle.lost(), (
            f"{oracle.executions[uid]} of {made}, {oracle.lost()} lost"
        )
        return True

    wait("its last one", all_seen, 180)
    oracle.settle()
    assert made - oracle.lost() <= oracle.executions[uid] <= made
    nothing_lost(oracle, upgrades)
    print(f"\nload: {made} executions in {oracle.batches} batches, {oracle.repeated} of them twice in the stream")


def _generator(uid: str) -> int:
    """The process that executes the others: a child of it that has not become another program yet has the same arguments."""
    found = pids(uid, f"/victim {COMMAND[0]}")
    parents = {}
    for pid in found:
        with suppress(OSError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    (generator,) = (pid for pid, parent in parents.items() if parent not in found)
    return generator


def pids(uid: str, words: str) -> list[int]:
    """Processes of a pod with these words among their arguments, by their numbers on the node."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and uid in (entry / "cgroup").read_text():
                arguments = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if words in arguments:
                    found.append(int(entry.name))
    assert found, f"no process {words}"
    return found
