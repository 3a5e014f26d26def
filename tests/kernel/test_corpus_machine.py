"""A machine of the corpus: what is run there is in its cgroup, has the parent that it should have, and reaches nothing of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.corpus.machine import CGROUPS, SLICE, Layer, Machine


@pytest.fixture
def machine(tmp_path):
    layer = Layer(tmp_path / "machines", ["/usr/sbin/cron", "/usr/bin/kubectl"])
    try:
        with Machine(layer, f"test-{os.getpid()}", {"/srv/told.txt": ("told\n", 0o644)}) as machine:
            machine.daemon("cron", 0, ["/usr/sbin/cron", "-f"])
            yield machine
    finally:
        layer.close()


def said(machine, command, uid=0):
    """What a command prints below cron, and its status."""
    status = machine.run("cron", uid, "/tmp", ["/bin/sh", "-c", f"umask 0; ({command}) > /tmp/out 2>&1"])
    return Path(f"/proc/{machine.first}/root/tmp/out").read_text(), status


def test_a_command_runs_below_its_daemon_in_the_workloads_cgroup(machine):
    text, status = said(machine, "cat /srv/told.txt; cat /proc/$$/../$PPID/comm; cat /proc/self/cgroup")
    assert status == 0
    assert text.startswith("told\ncron\n")
    assert f"::/{SLICE}/{machine.name}.service\n" in text
    assert said(machine, "id -u; exit 3", uid=1000) == ("1000\n", 3)
    assert said(machine, "kubectl get pods") == ("", 0)


def test_it_sees_and_reaches_nothing_of_this_machine(machine, tmp_path):
    text, _ = said(
        machine,
        f"ls -A /root /home/u1000 /mnt; ls {tmp_path}; ip -o link | wc -l; ls /proc | grep -c '^[0-9]'; touch /usr/bin/mine /etc/mine",
    )
    assert f"cannot access '{tmp_path}'" in text
    counts = text.split()[-2:]
    assert counts[0] == "1"
    assert int(counts[1]) < 10
    assert not Path("/usr/bin/mine").exists()
    assert not Path("/etc/mine").exists()


def test_lines_are_typed_at_a_terminal(machine):
    assert machine.type("cron", 1000, "/tmp", ["/bin/bash", "-i"], ["tty > /tmp/tty", "exit 4"], 25) == 4
    assert Path(f"/proc/{machine.first}/root/tmp/tty").read_text().startswith("/dev/pts/")


def test_it_ends_with_all_that_runs_there(tmp_path):
    layer = Layer(tmp_path / "machines", ["/usr/sbin/cron"])
    try:
        with Machine(layer, f"test-{os.getpid()}", {}) as machine:
            machine.daemon("cron", 0, ["/usr/sbin/cron"])
            machine.run("cron", 0, "/", ["/bin/sleep", "600"], wait=False)
            first = machine.first
        assert not Path(f"/proc/{first}").exists()
    finally:
        layer.close()
    assert not list(CGROUPS.glob(f"**/{SLICE}/test-{os.getpid()}.service"))
    assert str(tmp_path) not in subprocess.run(["mount"], check=True, capture_output=True, text=True).stdout
