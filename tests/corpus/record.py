"""Record a split with the real pipeline, as root: `python -m tests.corpus.record SPLIT DIRECTORY`.

`DIRECTORY` then holds the run's state (`state/`, with the sensor's spool) and `jobs.jsonl`: which job of which workload ran from when to when. Jobs
run one after another without the hours between them, as fast as the machine goes; `tests.corpus.build` lays them out on the timetable again. What
the sensor sees is not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.corpus import catalogue
from tests.corpus.machine import Layer, Machine
from tests.corpus.schedule import Plan

_AT_ONCE: Final = 4
_READY_S: Final = 180.0


@contextmanager
def sensor(state: Path) -> Iterator[None]:
    """`daemoneye run` with a state directory of its own, from the moment at which it writes what it sees to an orderly end."""
    command = [sys.executable, "-m", "daemoneye_cli", "run", "-o", "plain", "--state", str(state), "--node", "corpus"]
    with (state.parent / "run.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + _READY_S
            while not any(path.stat().st_size > 4096 for path in state.glob("sensor/**/*.segment")):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the sensor does not start, see {log.name}")
                time.sleep(
                    0.2
                )  # its spool is all that it says of itself here: it is looked at again, with something new in it
                subprocess.run(["true"], check=True)
            yield
            time.sleep(
                2
            )  # the sensor looks at its rings within a second, and nothing says from outside that it has; no test waits here
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def play(layer: Layer, plan: Plan) -> list[dict[str, Any]]:
    """Run one workload from beginning to end. Returns a line for each job: times are the kernel's boot-time clock in ns, statuses those of the steps."""
    done = []
    with Machine(layer, plan.name, plan.files) as machine, _outside(machine.first):
        for daemon in plan.daemons:
            machine.daemon(daemon.name, daemon.uid, daemon.argv)
        for number, job in enumerate(plan.jobs):
            begin, statuses = time.clock_gettime_ns(time.CLOCK_BOOTTIME), []
            for step in job.steps:
                if step.lines:
                    statuses.append(machine.type(step.daemon, step.uid, step.cwd, step.argv, step.lines, 25))
                else:
                    statuses.append(machine.run(step.daemon, step.uid, step.cwd, step.argv, wait=step.wait))
            end = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            done.append(
                {
                    "workload": plan.name,
                    "job": number,
                    "at": job.at,
                    "begin": begin,
                    "end": end,
                    "pace": job.pace,
                    "technique": job.technique,
                    "rare": job.rare,
                    "statuses": statuses,
                }
            )
    return done


@contextmanager
def _outside(pid: int) -> Iterator[None]:
    command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-m", "tests.corpus.outside"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=catalogue.SPLITS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--days", type=int, default=catalogue.DAYS)
    parser.add_argument("--only", default="", help="names of workloads that begin like this")
    options = parser.parse_args()
    directory: Path = options.directory.absolute()
    directory.mkdir(parents=True)
    os.umask(0o022)
    plans = [plan for plan in catalogue.plans(options.split, options.days) if plan.name.startswith(options.only)]
    layer = Layer(directory / "machines", catalogue.stand_ins())
    try:
        with (
            sensor(directory / "state"),
            ThreadPoolExecutor(_AT_ONCE) as pool,
            (directory / "jobs.jsonl").open("w") as file,
        ):
            for done in pool.map(lambda plan: play(layer, plan), plans):
                file.writelines(json.dumps(line) + "\n" for line in done)
                file.flush()
                print(
                    f"{done[0]['workload']}: {len(done)} jobs in {(done[-1]['end'] - done[0]['begin']) / 1e9:.1f} s",
                    flush=True,
                )
    finally:
        layer.close()


if __name__ == "__main__":
    main()
