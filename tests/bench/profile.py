"""Where the sensor's time goes: the storm and a quiet second under cProfile. Not among the default benches: profiling itself costs most.

Read it for proportions. Functions in C (numpy, zstd, sockets, fdatasync) are told apart by name; what runs inside nats-py counts as publishing.
"""

from __future__ import annotations

import pstats
import time
from pathlib import Path
from typing import Final

from tests.bench.stack import Stack
from tests.bench.tables import Outcome
from tests.bench.workloads import Counts, build, workspace

_SHOWN: Final = 25
_QUIET_S: Final = 5.0


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    outcome = Outcome("profile", ("phase", "order", "function", "calls", "own ms", "with callees ms"))
    with workspace() as directory:
        workloads = build(directory, Counts.sized(scale))
        for phase in ("unthrottled", "paced", "quiet"):
            home = directory / phase
            home.mkdir()
            report = home / "profile"
            stack = Stack(home, sensor=("-m", "tests.bench.profiled", str(report)))
            try:
                stack.start()
                workloads["warm-up"].run()
                if phase == "quiet":
                    time.sleep(_QUIET_S)
                else:
                    workloads[phase].run()
                time.sleep(1)
            finally:
                stack.stop()
            _rows(outcome, phase, report)
    return outcome


def _rows(outcome: Outcome, phase: str, report: Path) -> None:
    stats = pstats.Stats(str(report)).stats  # type: ignore[attr-defined]
    shown = [sorted(stats.items(), key=lambda item: -item[1][column])[:_SHOWN] for column in (2, 3)]
    for order, items in zip(("own", "with callees"), shown, strict=True):
        for (file, line, name), (_, calls, own, cumulative, _) in items:
            where = f"{'/'.join(Path(file).parts[-2:])}:{line}:" if line else ""
            outcome.rows.append((phase, order, f"{where}{name}", calls, own * 1000, cumulative * 1000))
