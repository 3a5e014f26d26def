"""``daemoneye top`` and ``daemoneye bugtool`` beside a real run on this machine."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import COMMAND, REPOSITORY, Run

pytestmark = [pytest.mark.integration, pytest.mark.kernel]

POLICY = str(REPOSITORY / "examples/one-machine/policy.yaml")
SECRET = "Zq7-hunter2-of-a-user"
TRIGGER = f"cp /bin/true /tmp/eye; (rm /tmp/eye; /proc/self/fd/3 --password {SECRET} {SECRET}) 3< /tmp/eye"


def ask(run: Run, *arguments: str) -> subprocess.Popen[str]:
    command = [str(COMMAND), *arguments, "--state", str(run.state)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)


def entries(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = [(member.name.partition("/")[2], archive.extractfile(member)) for member in archive]
        return {name: file.read() for name, file in members if file is not None}


def test_costs_and_a_report_of_a_run(runs: Callable[..., Run], tmp_path: Path) -> None:
    run = runs("--policy", POLICY).ready()
    subprocess.run(["/bin/bash", "-c", TRIGGER], check=True)
    run.read(lambda: any("/tmp/eye" in str(finding["title"]) for finding in run.of("finding")))

    # Together, for each waits for heartbeats.
    path, whole = tmp_path / "report.tar.gz", tmp_path / "whole.tar.gz"
    asked = [
        ask(run, "top", "-o", "json"),
        ask(run, "bugtool", "--last", "1000", "--output", str(path)),
        ask(run, "bugtool", "--last", "1000", "--include-arguments", "--output", str(whole)),
    ]
    told, told_of_report, _ = (process.communicate(timeout=120) for process in asked)
    assert [process.returncode for process in asked] == [0, 0, 0], told_of_report
    assert not told[1]
    costs = {line["component"]: line for line in map(json.loads, told[0].splitlines())}
    assert set(costs) == {"sensor", "analytics", "broker"}
    assert 0 < costs["sensor"]["cpu_percent"] < 100
    assert costs["sensor"]["rss_bytes"] > 10 << 20
    assert costs["sensor"]["wakeups_per_second"] > 0
    assert costs["sensor"]["age_s"] < 60, "it waits for a heartbeat, and the others come as often"
    assert costs["analytics"]["events_per_second"] is not None
    assert costs["broker"]["version"]

    assert "left out" not in told_of_report[1], "everything of a run can be had"
    found = entries(path)
    heard = {one["name"]: one["heartbeat"] for one in map(json.loads, found["broker/heartbeats.jsonl"].splitlines())}
    assert len(heard) == 2
    assert heard["analytics"]["version"]
    streams = [json.loads(line)["config"]["name"] for line in found["broker/streams.jsonl"].splitlines()]
    assert "DAEMONEYE_EVENTS_0" in streams
    assert b".segment" in found["files.jsonl"]
    assert b"/tmp/eye" in found["findings.jsonl"]
    passwords = [json.loads(file.read_bytes())["nats"]["password"] for file in (run.state / "run").glob("[as]*.json")]
    assert len(passwords) == 2
    for name, data in found.items():
        assert SECRET.encode() not in data, name
        assert not any(password.encode() in data for password in passwords), name

    findings = entries(whole)["findings.jsonl"].decode()
    assert "--password" in findings
    assert SECRET in findings, "an argument that nothing marks as a secret is there when that is asked for"
    assert f'"--password","{SECRET}"' not in findings
    assert run.stop() == 0
