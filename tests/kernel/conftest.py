"""The kernel side for tests: a source with rings of its own, and a reader that waits for what is expected."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events.jsonform import events_json
from daemoneye.events.registry import KERNEL_EVENTS
from daemoneye_sensor.opensockets import OpenSockets
from daemoneye_sensor.programs import BPFFS, RingSizes
from daemoneye_sensor.sources.base import Origin
from daemoneye_sensor.sources.ebpf import EbpfSource
from tests.support.namespaces import Namespace, star

REPOSITORY = Path(__file__).parents[2]
BPF = REPOSITORY / "bpf"
DEADLINE_S = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a kernel test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kernel)


class Kernel:
    """A source and what it gave."""

    def __init__(self, instance: str, sizes: RingSizes | None = None, events: list[str] | None = None) -> None:
        self.instance = instance
        self.source = EbpfSource(
            bpf_dir=BPF, instance=instance, sizes=sizes or RingSizes(), events=events or list(KERNEL_EVENTS)
        )
        self.events: list[dict[str, Any]] = []
        self.batches: list[Batch] = []
        self.origin: Origin | None = None
        self.lost: list[Any] = []

    def open(self, resume: dict[str, int] | None = None, epoch: int | None = None) -> Kernel:
        self.origin = self.source.open(resume or {}, epoch)
        return self

    def read(self) -> None:
        """Everything that is ready, as a reader of the stream would see it."""
        assert self.origin
        while (drain := self.source.drain()) is not None:
            about = Envelope(
                "node",
                self.origin.boot_id,
                self.origin.epoch,
                drain.lane,
                0,
                drain.rows,
                self.origin.clock_offset_ns,
                positions=drain.positions,
            )
            batch = envelope.decode(envelope.encode(about, drain.sections))
            if (following := self.source.commit(drain)) is not None:
                self.lost.extend(self.source.lost())
                self.origin = following
            self.batches.append(batch)
            self.events.extend(events_json(batch))
        self.lost.extend(self.source.lost())

    def wait(self, done: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Read until the events fulfil a condition."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self.read()
            if done(self.events):
                return self.events
            if time.monotonic() > deadline:
                pytest.fail(f"not seen within {DEADLINE_S} s among {len(self.events)} events")
            os.sched_yield()

    def execs(self, **wanted: Any) -> list[dict[str, Any]]:
        """process_exec events with these values."""
        return [e for e in self.events if e["event"] == "process_exec" and all(e[k] == v for k, v in wanted.items())]

    def exec_of(self, pid: int) -> dict[str, Any]:
        """The newest execution of a process, waited for."""
        self.wait(lambda _: bool(self.execs(pid=pid)))
        return self.execs(pid=pid)[-1]


def rows(kernel: Kernel, event: str, **wanted: Any) -> list[dict[str, Any]]:
    """Events of this name with these values."""
    return [e for e in kernel.events if e["event"] == event and all(e.get(k) == v for k, v in wanted.items())]


def one(kernel: Kernel, event: str, **wanted: Any) -> dict[str, Any]:
    """The only event with these values, waited for."""
    kernel.wait(lambda _: bool(rows(kernel, event, **wanted)))
    (found,) = rows(kernel, event, **wanted)
    return found


def look_again(kernel: Kernel) -> OpenSockets:
    """Have the next turn look at the open sockets."""
    assert kernel.source._sockets
    kernel.source._sockets._next = 0.0
    return kernel.source._sockets


def receiver(kernel: Kernel) -> str:
    """How this kernel tells whose an accepted connection is; tests/kernel/vm runs the tests on one without the tracepoints."""
    return "descriptor" if kernel.source.status()["sockets"]["instead"] else "exact"  # type: ignore[index]


@pytest.fixture(scope="module")
def networks() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, joined by a cable: 10.213.0.1 and fd00:213::1, .2 and ::2."""
    with star(1) as (here, there):
        yield here, there


@pytest.fixture(scope="module")
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """One source for a module's tests, gone without a trace afterwards."""
    made = Kernel(f"test-{os.getpid()}-{request.module.__name__.rpartition('.')[2]}").open()
    yield made
    made.source.close(keep=False)
    shutil.rmtree(BPFFS / "daemoneye" / made.instance, ignore_errors=True)


@pytest.fixture
def kernels() -> Iterator[Callable[..., Kernel]]:
    """Sources for a test that needs its own; call with a suffix and the constructor's arguments."""
    made: list[Kernel] = []

    def make(suffix: str, **arguments: Any) -> Kernel:
        made.append(Kernel(f"test-{os.getpid()}-{suffix}", **arguments))
        return made[-1]

    yield make
    for kernel in made:
        kernel.source.close(keep=False)
        shutil.rmtree(BPFFS / "daemoneye" / kernel.instance, ignore_errors=True)
