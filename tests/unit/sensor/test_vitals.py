"""What a sensor's life is: its tasks run and its pipeline turns."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

from daemoneye_sensor import vitals
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.settings import load
from daemoneye_sensor.sources.replay import ReplaySource
from daemoneye_sensor.spool import Spool

RECORDING = Path(__file__).parents[3] / "examples/one-machine/recording.jsonl"


def parts(tmp_path: Path) -> tuple[Pipeline, ReplaySource, Spool]:
    path = tmp_path / "sensor.json"
    path.write_text('{"node": "n", "state_dir": "s", "source": "replay", "nats": {"url": "nats://127.0.0.1:1"}}')
    spool = Spool(tmp_path / "spool", max_bytes=1 << 24)
    source = ReplaySource(RECORDING)
    return Pipeline(source, spool, load(path)), source, spool


async def test_a_task_that_has_ended_is_named() -> None:
    async def nothing() -> None:
        pass

    waiting = asyncio.create_task(asyncio.Event().wait(), name="publisher")
    ended = asyncio.create_task(nothing(), name="heartbeat")
    tasks: list[asyncio.Task[Any]] = [waiting, ended]
    assert vitals.alive(tasks, None) == {"ok": True, "reason": ""}
    await ended
    assert vitals.alive(tasks, None) == {"ok": False, "reason": "its task heartbeat has ended"}
    waiting.cancel()


async def test_a_pipeline_that_does_not_turn_is_dead_and_one_that_has_ended_is_not(tmp_path: Path) -> None:
    one, source, spool = parts(tmp_path)
    one.turned -= 1000
    assert vitals.alive((), one)["ok"], "it does not run yet"
    seen: list[dict[str, Any]] = []
    turn = one.turn

    def look() -> None:
        seen.append(vitals.alive((), one))
        turn()
        one.turned -= 1000
        seen.append(vitals.alive((), one))

    one.turn = look  # type: ignore[method-assign]
    await one.run()
    assert [answer["ok"] for answer in seen[:2]] == [False, False]
    assert re.fullmatch(r"it has not looked at its source for 10\d\d s", seen[1]["reason"])
    assert vitals.alive((), one)["ok"], "it has read all"
    assert one.events > 0
    turn()
    assert time.monotonic() - one.turned < vitals.STUCK_S
    source.close(keep=False)
    spool.close()
