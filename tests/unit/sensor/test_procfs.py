"""Whether the sensor sees cgroups by their paths on the host."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from daemoneye_sensor import procfs

PURE = "0::/\n"
HYBRID = "4:memory:/kubepods/pod1\n0::/\n"


def proc(directory: Path, cgroup: str, **namespaces: str) -> Path:
    """A folder like /proc; namespaces of processes by the file that stands for them."""
    for pid, name in namespaces.items():
        home = directory / pid.removeprefix("pid") / "ns"
        home.mkdir(parents=True)
        (directory / name).touch()
        (home / "cgroup").symlink_to(directory / name)
    (directory / "self/cgroup").write_text(cgroup)
    return directory


def said(caplog: pytest.LogCaptureFixture, where: Path) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        procfs.see_host_cgroups(where)
    return [record.getMessage() for record in caplog.records]


def test_a_right_that_is_missing_is_said_once_where_it_matters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The files stand for namespaces: the kernel refuses to enter them, as it refuses without CAP_SYS_ADMIN.
    (line,) = said(caplog, proc(tmp_path / "own", PURE, self="mine", pid1="host", pid2="host"))
    assert "CAP_SYS_ADMIN" in line
    (line,) = said(caplog, proc(tmp_path / "closed", PURE, self="mine"))
    assert "CAP_SYS_ADMIN" in line
    assert said(caplog, proc(tmp_path / "hybrid", HYBRID, self="mine", pid1="host")) == [], "v1's paths say it all"


def test_who_is_in_the_hosts_namespace_needs_no_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = proc(tmp_path, PURE, self="host", pid1="host")
    assert procfs.enter_host_cgroups(where)
    assert said(caplog, where) == []
