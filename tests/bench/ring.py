"""How many records one core carries from a ring to the broker's acknowledgement, and whether a full ring loses exactly what it says."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from daemoneye.events.process_exec import PROCESS_EXEC
from tests.bench import machine
from tests.bench.agents import summary
from tests.bench.fakering import DTYPES, FakeRing, Produced, make, produce
from tests.bench.stack import Stack, decoded, lost_rows
from tests.bench.tables import Outcome, Target, median
from tests.bench.workloads import workspace

_MIB: Final = 1 << 20
_EXECS: Final = 600_000
_RATE: Final = 100_000
_SMALL: Final = 256 * 1024
_DONE_S: Final = 60.0


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    columns = (
        "records",
        "offered/s",
        "client records/CPU-s",
        "client execs/CPU-s",
        "broker CPU-s per million",
        "B/record on the stream",
        "rows a batch",
        "RSS MB",
    )
    outcome = Outcome("ring", columns)
    execs = max(int(_EXECS * scale), 2000)
    best: list[float] = []
    with workspace() as directory:
        for label, whole in (
            ("exec, of 1,000 processes again and again", False),
            ("fork + exec + exit, of new processes", True),
        ):
            results = [
                _throughput(directory / f"{'whole' if whole else 'exec'}-{n}", execs, whole=whole)
                for n in range(rounds)
            ]
            columns_of = {key: [r[key] for r in results] for key in results[0]}
            outcome.rows.append(
                (label, *(columns_of[key] for key in ("offered", "records", "execs", "broker", "size", "batch", "rss")))
            )
            outcome.data[label] = {key: summary(values) for key, values in columns_of.items()}
            if not whole:
                best = columns_of["execs"]
        lost = _overflow(directory / "overflow", max(execs // 4, 2000))
    outcome.data["overflow"] = lost
    outcome.notes.append(
        f"overflow of a ring of {_SMALL // 1024} KiB: {lost['offered']:,} records offered, {lost['stored']:,} on the stream, "
        f"{lost['dropped']:,} found no room, {lost['reported']:,} reported as lost"
    )
    outcome.notes.append(
        "rings in shared memory laid out as the kernel's, filled by another process; the client is the sensor's whole process, spool with fdatasync"
    )
    outcome.targets.append(Target("exec records per client CPU-second", median(best), 500_000, at_least=True))
    missing = lost["offered"] - lost["stored"] - lost["reported"]
    outcome.targets.append(Target("records neither stored nor reported lost", float(abs(missing)), 0))
    return outcome


class _Run:
    """Rings, broker and client."""

    def __init__(self, directory: Path, sizes: dict[str, int]) -> None:
        directory.mkdir()
        self._fds = {name: make(name, sizes[name]) for name in DTYPES}
        self.wake = os.eventfd(0, 0)
        self.rings = {name: FakeRing(fd, DTYPES[name]) for name, fd in self._fds.items()}
        numbers = [str(fd) for fd in (*self._fds.values(), self.wake)]
        self.stack = Stack(directory, sensor=("-m", "tests.bench.ring_client", *numbers))

    def start(self) -> None:
        self.stack.start(pass_fds=(*self._fds.values(), self.wake))

    def produce(self, **arguments: Any) -> Produced:
        return produce({name: self.rings[name] for name in ("exec", "process")}, self.wake, **arguments)

    def wait_until_acknowledged(self, rows: int) -> None:
        """Until the stream holds so many event rows."""
        deadline = time.monotonic() + _DONE_S
        while (newest := self.stack.newest()) is None or newest.next_sequence < rows:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the stream holds {newest.next_sequence if newest else 0} rows of {rows}")
            time.sleep(0.05)

    def close(self) -> None:
        self.stack.stop()
        for ring in self.rings.values():
            ring.close()
        for fd in (*self._fds.values(), self.wake):
            os.close(fd)


def _throughput(directory: Path, execs: int, *, whole: bool) -> dict[str, float]:
    sys.stderr.write(f"bench: ring: {directory.name}\n")
    run_ = _Run(directory, {"exec": 4 * _MIB, "process": 2 * _MIB, "blob": _MIB})
    try:
        run_.start()
        warm = run_.produce(execs=1000, rate=0, whole=whole, lossy=False)
        run_.wait_until_acknowledged(warm.execs + warm.processes)
        time.sleep(0.5)
        begin = run_.stack.last_sequence()
        cpu, broker = machine.usage([run_.stack.sensor_pid]).cpu_s, machine.usage([run_.stack.broker_pid]).cpu_s
        done = run_.produce(execs=execs, rate=_RATE if not whole else _RATE // 2, whole=whole, lossy=False)
        rows = done.execs + done.processes
        run_.wait_until_acknowledged(rows + warm.execs + warm.processes)
        used = machine.usage([run_.stack.sensor_pid])
        helper = machine.usage([run_.stack.broker_pid]).cpu_s - broker
        spent = used.cpu_s - cpu
        batches = decoded(run_.stack.messages(begin))
    finally:
        run_.close()
    assert sum(batch.envelope.rows for batch, _ in batches) == rows
    return {
        "offered": rows / done.seconds, "records": rows / spent, "execs": execs / spent, "broker": helper / rows * 1e6,
        "size": sum(size for _, size in batches) / rows, "batch": rows / len(batches), "rss": used.rss / _MIB,
    }  # fmt: skip


def _overflow(directory: Path, execs: int) -> dict[str, int]:
    run_ = _Run(directory, {"exec": _SMALL, "process": _SMALL, "blob": _MIB})
    try:
        run_.start()
        done = run_.produce(execs=execs, rate=0, whole=False, lossy=True)
        run_.wait_until_acknowledged(execs - done.dropped)
        time.sleep(1)  # the loss is told a turn later
        messages = run_.stack.messages(0)
    finally:
        run_.close()
    stored = sum(
        len(s.rows)
        for batch, _ in decoded(messages)
        for s in batch.sections
        if s.record is PROCESS_EXEC and not s.context
    )
    return {"offered": execs, "stored": stored, "dropped": done.dropped, "reported": lost_rows(messages)}
