"""Runs of the whole pipeline for tests, ended and cleaned up whatever happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import storm
from tests.support.running import Run

BPFFS = Path("/sys/fs/bpf/daemoneye")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start runs; each has a state directory of its own unless it names one."""
    made: list[Run] = []

    def start(*arguments: str, state: Path | None = None, **options: object) -> Run:
        made.append(Run(state or tmp_path / f"state-{len(made)}", *arguments, **options))
        return made[-1]

    yield start
    for run in made:
        run.kill()
        if (run.state / "run" / "sensor.json").exists():
            shutil.rmtree(BPFFS / run.instance, ignore_errors=True)


@pytest.fixture(scope="session")
def storming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exec storm."""
    return storm.build(tmp_path_factory.mktemp("storm"))
