"""``daemoneye bugtool``: one machine's archive, with secrets planted in every file that it reads."""

import json
from pathlib import Path

import pytest

from daemoneye_cli.main import main
from daemoneye_cli.state import State
from tests.unit.cli import planted


@pytest.fixture
def state(tmp_path) -> State:
    """What a run leaves: configurations with passwords, logs, a spool."""
    state = State(tmp_path / "state")
    state.prepare()
    for name in ("sensor.json", "analytics.json"):
        state.write_private(name, planted.settings())
    (state.broker / "broker.json").write_text(
        json.dumps({"authorization": {"users": [planted.settings()]}, "listen": "127.0.0.1:-1"})
    )
    (state.broker / "credentials.json").write_text(json.dumps({"sensor": "unheard-of-password"}))
    for path in (state.logs / "sensor.log", state.logs / "sensor.log.1", state.broker / "broker.log"):
        path.write_text(planted.log() + "it uses unheard-of-password\n")
    spool = state.path / "sensor" / "spool"
    spool.mkdir(parents=True)
    (spool / "1.segment").write_bytes(b"x" * 1000)
    return state


def written(tmp_path: Path) -> Path:
    (path,) = tmp_path.glob("daemoneye-bugtool-*.tar.gz")
    return path


def test_everything_is_in_it_but_no_secret(state, tmp_path, capsys):
    assert main(["bugtool", "--state", str(state.path), "--output", str(tmp_path)]) == 0
    path = written(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    entries = planted.found_in(path)
    assert {
        "versions/local.json", "doctor.txt", "machine.json", "files.jsonl", "configuration/sensor.json", "configuration/analytics.json",
        "configuration/broker.json", "logs/sensor.log", "logs/sensor.log.1", "logs/broker.log", "manifest.json",
    } <= set(entries)  # fmt: skip
    assert "configuration/credentials.json" not in entries
    log = entries["logs/sensor.log"].decode()
    assert "INFO the first line" in log
    assert "ERROR the last line" in log
    assert "nats://REDACTED@broker:4222" in log
    assert json.loads(entries["configuration/sensor.json"])["harmless"] == "stays"
    assert b"1.segment" in entries["files.jsonl"]
    assert "kernel" in entries["doctor.txt"].decode()
    manifest = json.loads(entries["manifest.json"])
    assert {entry["name"] for entry in manifest["entries"]} == set(entries) - {"manifest.json"}
    assert all(entry["bytes"] == len(entries[entry["name"]]) for entry in manifest["entries"])
    assert manifest["missing"] == [
        {
            "what": "what the broker tells",
            "why": f"no daemoneye runs with {state.path} (fix: start one with: daemoneye run (or name its --state))",
        }
    ]
    told = capsys.readouterr()
    assert str(path) in told.out
    assert "left out: what the broker tells" in told.err


def test_the_installations_own_passwords_are_known_wherever_they_stand(state, tmp_path, capsys):
    state.write_private(
        "cli.json",
        {"url": "nats://127.0.0.1:1", "user": "cli", "password": "unheard-of-password", "inbox_prefix": "_I"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemoneye_cli.client._FIRST_S", 0.5)
        assert main(["bugtool", "--state", str(state.path), "--output", str(tmp_path)]) == 0
    entries = planted.found_in(written(tmp_path))
    assert b"it uses REDACTED" in entries["logs/broker.log"]
    assert not [name for name, data in entries.items() if b"unheard-of-password" in data]
    assert "does not answer" in capsys.readouterr().err


def test_without_a_state_directory_the_machine_alone_is_told(tmp_path, capsys):
    path = tmp_path / "report.tar.gz"
    assert main(["bugtool", "--state", str(tmp_path / "none"), "--output", str(path)]) == 0
    entries = planted.found_in(path)
    assert {"doctor.txt", "machine.json"} <= set(entries)
    assert "nothing has run with it" in capsys.readouterr().err


def test_broken_files_are_noted_and_end_nothing(state, tmp_path, capsys):
    (state.run / "sensor.json").write_text('{"password": ')
    (state.logs / "folder.log").mkdir()
    path = tmp_path / "report.tar.gz"
    assert main(["bugtool", "--state", str(state.path), "--output", str(path)]) == 0
    entries = planted.found_in(path)
    missing = {gap["what"] for gap in json.loads(entries["manifest.json"])["missing"]}
    assert {"configuration/sensor.json", "logs/folder.log"} <= missing
    assert "logs/sensor.log" in entries
    assert "left out: configuration/sensor.json: JSONDecodeError" in capsys.readouterr().err


def test_a_file_that_is_there_is_status_2(tmp_path, capsys):
    path = tmp_path / "report.tar.gz"
    path.touch()
    assert main(["bugtool", "--state", str(tmp_path), "--output", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
