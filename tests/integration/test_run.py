"""The whole pipeline on real events: kernel → spool → JetStream → analytics → finding → what a person sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemoneye_cli.show import text
from tests.integration.conftest import BPFFS
from tests.support.running import COMMAND, REPOSITORY, TRIGGER, Run, let_others_in

pytestmark = [pytest.mark.integration, pytest.mark.kernel]

POLICY = str(REPOSITORY / "examples/one-machine/policy.yaml")
EXEC_FIELDS = {
    "pid", "ppid", "start_time", "exe", "cwd", "argv", "argv_truncated", "uid", "gid", "euid", "cgroup", "container_id", "pod_uid", "workload", "flags",
    "parent",
}  # fmt: skip
FINDING_FIELDS = {
    "id", "time", "severity", "score", "detector", "title", "techniques", "subject", "explanation", "confidence", "events",
}  # fmt: skip


def about(run: Run, title: str) -> list[dict[str, object]]:
    return [finding for finding in run.of("finding") if title in str(finding["title"])]


def test_documented_trigger_gives_an_explained_finding(runs: Callable[..., Run]) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert TRIGGER in readme, "the README shows the trigger that is tested"
    assert TRIGGER == text.TRIGGER, "and so does the live view"
    run = runs("--policy", POLICY).ready()
    subprocess.run(["/bin/bash", "-c", TRIGGER], check=True)
    run.read(lambda: bool(about(run, "/tmp/eye")))
    finding = about(run, "/tmp/eye")[0]
    assert set(finding) >= FINDING_FIELDS
    assert finding["severity"] in {"medium", "high"}
    assert finding["explanation"]
    assert finding["techniques"]
    assert finding["process_tree"][-1]["exe"] == "/tmp/eye"  # type: ignore[index]
    assert run.stop() == 0
    assert not run.stray, "stdout carries JSON lines only"
    assert run.lines[-1]["kind"] == "status"
    assert not (BPFFS / run.instance).exists()


def test_23_executions_are_23_events_with_everything_in_them(runs: Callable[..., Run], tmp_path: Path) -> None:
    run = runs("--policy", POLICY, "--events").ready()
    pids = {}
    for i in range(23):
        process = subprocess.Popen(["/bin/true", f"number {i}", "\x1b[31m"], cwd=tmp_path)
        process.wait()
        pids[process.pid] = i
    run.read(lambda: len({e["pid"] for e in run.events("process_exit")} & set(pids)) == 23)
    run.stop()
    seen = [e for e in run.events() if e["pid"] in pids]
    assert len(seen) == 23
    for event in seen:
        assert set(event) >= EXEC_FIELDS
        assert event["argv"] == ["/bin/true", f"number {pids[event['pid']]}", "\x1b[31m"]
        assert event["exe"] == str(Path("/bin/true").resolve())
        assert event["cwd"] == str(tmp_path)
        assert event["parent"]["pid"] == os.getpid()
        assert event["workload"].startswith("host/")
    assert "\x1b" not in json.dumps(run.lines)


@pytest.mark.parametrize("victim", ["daemoneye_sensor", "nats-server", "daemoneye_analytics"])
def test_a_killed_process_loses_nothing_and_repeats_nothing(
    runs: Callable[..., Run], storming: Path, victim: str
) -> None:
    run = runs("--policy", POLICY, "--events").ready()
    storm = subprocess.Popen([storming, "3000", "500"], stdout=subprocess.DEVNULL)
    run.read(lambda: len(run.events()) > 500)
    os.kill(run.child(victim), signal.SIGKILL)
    assert storm.wait() == 0
    subprocess.run(["/bin/bash", "-c", TRIGGER], check=True)
    run.read(lambda: any(e["pid"] == storm.pid for e in run.events("process_exit")), 90)
    run.read(lambda: bool(about(run, "/tmp/eye")), 90)
    assert run.stop() == 0
    ours = [(e["pid"], e["start_time"]) for e in run.events() if e["argv"] == [str(storming), "-"]]
    assert len(ours) == 3000
    assert len(set(ours)) == 3000
    assert not run.of("loss")
    assert len(about(run, "/tmp/eye")) == 1
    assert (
        run.of("status")[-1]["restarts"][
            {"daemoneye_sensor": "sensor", "nats-server": "broker", "daemoneye_analytics": "analytics"}[victim]
        ]
        == 1
    )


def comparable(run: Run) -> dict[str, tuple[object, ...]]:
    """What a finding says, by its id. Its references to events name the run's own epoch and are left out."""
    return {
        f["id"]: (
            f["detector"],
            f["title"],
            f["severity"],
            f["score"],
            tuple(f["explanation"]),
            json.dumps(f["subject"], sort_keys=True),
        )
        for f in run.of("finding")
    }


def test_live_and_both_kinds_of_replay_give_the_same_findings(runs: Callable[..., Run], tmp_path: Path) -> None:
    live = runs("--policy", POLICY, "--events").ready()
    for _ in range(2):
        subprocess.run(["/bin/bash", "-c", TRIGGER], check=True)
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; f = os.memfd_create('x'); os.write(f, open('/bin/true', 'rb').read()); os.execve(f, ['hid\\xff\\x1bden'], {})",
        ],
        check=True,
    )
    live.read(lambda: bool(about(live, "/memfd:x")) and bool(about(live, "/tmp/eye")))
    live.stop()
    assert len(live.of("finding")) >= 2

    lines = tmp_path / "recording.jsonl"
    lines.write_text("".join(json.dumps(line) + "\n" for line in live.lines))
    from_lines = runs("--policy", POLICY, "--replay", str(lines))
    assert from_lines.finish(120) == 0, from_lines.stderr()
    assert comparable(from_lines) == comparable(live)

    (segment,) = sorted((live.state / "sensor" / "spool").glob("*.segment"))
    native = runs("--policy", POLICY, "--replay", str(segment), "--events")
    assert native.finish(120) == 0, native.stderr()
    assert comparable(native) == comparable(live)
    assert [e["argv"] for e in native.events()] == [e["argv"] for e in live.events()]


def test_a_truncated_native_recording_gives_what_is_whole_and_then_says_so(
    runs: Callable[..., Run], tmp_path: Path
) -> None:
    live = runs("--policy", POLICY, "--events").ready()
    subprocess.run(["/bin/bash", "-c", TRIGGER], check=True)
    live.read(lambda: bool(about(live, "/tmp/eye")))
    live.stop()
    (segment,) = sorted((live.state / "sensor" / "spool").glob("*.segment"))
    cut = tmp_path / "cut.segment"
    cut.write_bytes(segment.read_bytes()[:-7])
    run = runs("--policy", POLICY, "--replay", str(cut), "--events")
    assert run.finish(90) == 1
    assert run.events()
    assert "cut.segment" in run.stderr()


def test_without_privileges_it_says_what_is_missing_and_offers_the_replay(tmp_path: Path) -> None:
    state = tmp_path / "state"
    let_others_in(tmp_path)
    tmp_path.chmod(0o777)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", COMMAND, "run", "--state", state],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    if "Permission denied" in done.stderr and "daemoneye" not in done.stderr:
        pytest.skip("the checkout cannot be reached by other users on this machine")
    assert done.returncode == 3, done.stderr
    assert "root" in done.stderr
    assert "--replay" in done.stderr
