"""Runs of the whole pipeline for tests, ended and cleaned up whatever happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import apiserver, callout, storm
from tests.support.apiserver import ApiServer
from tests.support.running import Run
from tests.support.sensors import Place, Pods, place_in, pods_of

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


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server that lets the callout ask."""
    with apiserver.serving(tmp_path_factory.mktemp("api")) as server:
        callout.install(server)
        yield server


@pytest.fixture(scope="session")
def sensor_pods(api: ApiServer) -> Pods:
    """Sensors' pods on it."""
    return pods_of(api)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, api: ApiServer, sensor_pods: Pods) -> Iterator[Place]:
    """What sensors meet in a cluster; the fixture's parameter holds other settings than the defaults."""
    with place_in(tmp_path, api, sensor_pods, **getattr(request, "param", {})) as place:
        yield place
