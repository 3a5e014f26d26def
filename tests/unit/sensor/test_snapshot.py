"""What /proc says of processes that run already, and of those that just ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye_sensor.procfs import snapshot

POD = "/kubepods/pod12345678-1234-1234-1234-123456789012/container"


def running(*processes: tuple[int, int]) -> np.ndarray:
    rows = np.zeros(len(processes), PROCESS_FORK.dtype)
    rows["pid"] = [pid for pid, _ in processes]
    rows["cgroup_id"] = [cgroup for _, cgroup in processes]
    return rows


def of(proc: Path, pid: int, cgroup: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(f"0::{cgroup}\n")


def test_a_process_that_ended_meanwhile_does_not_say_whose_its_cgroup_is(tmp_path: Path) -> None:
    of(tmp_path, 8, POD)
    _, cgroups = snapshot(running((7, 55), (8, 55), (9, 66)), seconds=60.0, proc=tmp_path)
    assert cgroups == {55 << 32: (POD, "/")}


def test_cgroups_are_learned_when_there_is_no_time_for_more(tmp_path: Path) -> None:
    of(tmp_path, 8, POD)
    (tmp_path / "8" / "cmdline").write_text("late\0")
    images, cgroups = snapshot(running((8, 55)), seconds=-1.0, proc=tmp_path)
    assert images.values("argv") == [b""]
    assert cgroups == {55 << 32: (POD, "/")}
