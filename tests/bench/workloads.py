"""The work that agents watch: three exec storms and a syscall-heavy loop, each under a name that agents' output shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import storm

HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Done:
    """A workload that ran: the seconds that it says it took, and which process it was."""

    seconds: float
    pid: int


@dataclass(frozen=True, slots=True)
class Workload:
    """A program with its arguments.

    Attributes:
        name: For people.
        program: A copy of the program of its own, so that its path tells the workload.
        arguments: What it is given.
        execs: Executions that it makes, its own not counted.
        paced: Whether it keeps a rate: then its wall time says nothing.
    """

    name: str
    program: Path
    arguments: tuple[str, ...]
    execs: int
    paced: bool = False

    def run(self) -> Done:
        """Run it to its end."""
        with subprocess.Popen(
            [self.program, *self.arguments], stdout=subprocess.PIPE, cwd=self.program.parent
        ) as process:
            try:
                said, _ = process.communicate()
            except BaseException:
                process.kill()
                raise
        return Done(float(said), process.pid)


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of each workload."""

    storm: int = 5000
    paced: int = 2000
    rate: int = 1000
    varied: int = 2000
    opens: int = 200_000

    @classmethod
    def sized(cls, scale: float) -> Counts:
        """All of them, scaled."""
        whole = cls()
        storm_, paced, varied, opens = (
            max(int(n * scale), 20) for n in (whole.storm, whole.paced, whole.varied, whole.opens)
        )
        return cls(storm_, paced, whole.rate, varied, opens)


@contextmanager
def workspace() -> Iterator[Path]:
    """A directory on a real disk that not everybody can write to: detectors look at where a program lies."""
    parent = next((p for p in (Path("/var/cache"),) if os.access(p, os.W_OK)), None)
    directory = Path(tempfile.mkdtemp(prefix="daemoneye-bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def compile_c(source: Path, program: Path) -> Path:
    """A static program from one C file, so that an exec costs little of its own."""
    subprocess.run(["cc", "-O2", "-static", "-o", program, source], check=True)
    return program


def build(directory: Path, counts: Counts) -> dict[str, Workload]:
    """The workloads, ready to run."""
    made = storm.build(directory)
    paced = Path(shutil.copy(made, directory / "storm-paced"))
    varied = compile_c(HERE / "varied.c", directory / "storm-varied")
    opens = compile_c(HERE / "opens.c", directory / "opens")
    warm = Path(shutil.copy(made, directory / "storm-warm-up"))
    unthrottled = Path(shutil.copy(made, directory / "storm-unthrottled"))
    each = (
        Workload("warm-up", warm, ("200",), 200),
        Workload("unthrottled", unthrottled, (str(counts.storm),), counts.storm),
        Workload("paced", paced, (str(counts.paced), str(counts.rate)), counts.paced, paced=True),
        Workload("varied", varied, ("storm", str(counts.varied)), counts.varied),
        Workload("opens", opens, (str(counts.opens),), 0),
    )
    return {workload.name: workload for workload in each}
