"""The sensor under cProfile, by processor time and from its first turn on: `python -m tests.bench.profiled REPORT --config FILE`."""

from __future__ import annotations

import cProfile
import sys
import time

from daemoneye_sensor import main
from daemoneye_sensor.pipeline import Pipeline


def run(report: str, arguments: list[str]) -> int:
    """The sensor's main, with everything between the first turn and the end in the report."""
    profile = cProfile.Profile(time.thread_time)
    original = Pipeline.run

    async def profiled(pipeline: Pipeline) -> None:
        profile.enable()
        await original(pipeline)

    Pipeline.run = profiled  # type: ignore[method-assign,assignment]
    try:
        return main.main(arguments)
    finally:
        profile.disable()
        profile.dump_stats(report)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
