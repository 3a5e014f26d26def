"""`daemoneye run --replay` of recordings as lines: what it shows, to whom, and what it says of a file that is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import COMMAND, REPOSITORY, Run, let_others_in

pytestmark = pytest.mark.integration


def test_the_shipped_recording_replays_without_privileges(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    let_others_in(tmp_path)
    home.chmod(0o777)
    recording = tmp_path / "demo.jsonl"
    shutil.copy(REPOSITORY / "examples/one-machine/recording.jsonl", recording)
    done = subprocess.run(
        [COMMAND, "run", "--replay", recording, "-o", "json", "--state", home / "state"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    findings = [line for line in map(json.loads, done.stdout.splitlines()) if line["kind"] == "finding"]
    assert {"high"} <= {f["severity"] for f in findings}
    assert all(f["explanation"] for f in findings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b'{"kind":"event","event":"process_exec"}\n', "line 1"),
        (b'{"kind":"event"', "line 1"),
        (b"\x7fELF nonsense", "recording"),
    ],
)
def test_a_recording_that_cannot_be_read_says_where_and_why(
    runs: Callable[..., Run], tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    run = runs("--replay", str(path))
    assert run.finish(180) == 1
    assert message in run.stderr()
    assert str(path) in run.stderr()


def test_scores_of_windows_are_written_when_they_are_asked_for(runs: Callable[..., Run], tmp_path: Path) -> None:
    """250 executions of one workload, a second apart: two full windows, of a workload that is still being learned."""
    shipped = (REPOSITORY / "examples/one-machine/recording.jsonl").read_text().splitlines()
    event = next(e for e in map(json.loads, shipped) if e["event"] == "process_exec")
    path = tmp_path / "recording.jsonl"
    lines = []
    for number in range(250):
        moment = f"2026-11-22T22:{20 + number // 60:02}:{number % 60:02}.000000000Z"
        lines.append(
            json.dumps({**event, "pid": 20_000 + number, "tid": 20_000 + number, "time": moment, "start_time": moment})
        )
    path.write_text("\n".join(lines) + "\n")
    run = runs("--replay", str(path), "--scores")
    assert run.finish(180) == 0, run.stderr()
    scores = run.of("score")
    assert [(s["workload"], s["executions"], s["state"]) for s in scores] == [(event["workload"], 100, "Learning")] * 2
    assert [(s["score"], s["p"]) for s in scores] == [(None, None)] * 2, "too few windows were seen to judge any"
    assert scores[0]["start"].startswith("2026-11-22T22:20:00")
    assert scores[0]["end"] <= scores[1]["start"]
    assert set(scores[0]["models"]) == {"intrusion", "process_rarity", "process_shift", "process_shape"}
