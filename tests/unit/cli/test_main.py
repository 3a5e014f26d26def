"""The command line's contract: exit status, refusals by name, one clear line instead of a traceback."""

import json

import pytest

from daemoneye_cli.commands import run
from daemoneye_cli.main import main


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("run", "doctor", "events", "findings", "version"))


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["run", "--nonsense"], ["run", "--for", "0"], ["run", "--for", "x"], ["run", "-o", "xml"],
     ["run", "--policy", "a", "--config", "b"], ["events", "--last", "-1"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_status_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["etl", "evtx", "es"])
def test_inputs_that_come_later_are_refused_by_name(option, capsys):
    assert main(["run", f"--{option}", "file"]) == 2
    assert f"--{option} arrives with" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["intel"], ["intel", "sync", "--now"], ["rules", "test", "x.yml"]], ids=" ".join)
def test_commands_that_come_later_are_refused_by_name(command, capsys):
    assert main(command) == 2
    assert f"the command {command[0]} arrives with" in capsys.readouterr().err


def test_a_broken_policy_is_status_2_and_names_its_place(tmp_path, capsys):
    path = tmp_path / "p.yaml"
    path.write_text("kind: DaemonEyePolicy\nspec: {}\n")
    assert main(["run", "--policy", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"daemoneye: {path}:1:1: apiVersion is missing: add it" in lines[0]
    assert "metadata is missing" in lines[1]


def test_a_missing_recording_is_status_2(tmp_path, capsys):
    assert main(["run", "--replay", str(tmp_path / "none"), "--state", str(tmp_path / "state")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_a_policy_that_watches_nothing_is_status_2(tmp_path, capsys):
    path = tmp_path / "p.yaml"
    path.write_text("enterprise: {kernel_monitoring: {enable_ebpf: false}}")
    assert main(["run", "--config", str(path), "--state", str(tmp_path / "state")]) == 2
    assert "nothing to watch" in capsys.readouterr().err


def test_an_unusable_state_directory_is_status_3_with_a_fix(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["run", "--state", str(tmp_path / "file" / "state")]) == 3
    error = capsys.readouterr().err
    assert "is not usable" in error
    assert "--state" in error


@pytest.mark.parametrize("command", ["events", "findings"])
def test_without_a_running_instance_reading_is_status_3(command, tmp_path, capsys):
    assert main([command, "--state", str(tmp_path)]) == 3
    assert "no daemoneye runs with" in capsys.readouterr().err


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["quiet", "debug"])
def test_a_bug_is_status_1_with_a_traceback_for_debug_only(debug, monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("the \x1b[31mbug")

    monkeypatch.setattr(run, "_policy", broken)
    assert main(["run", *debug]) == 1
    error = capsys.readouterr().err
    assert "internal error: RuntimeError: the \\x1b[31mbug" in error
    assert ("Traceback" in error) is bool(debug)


def test_version_knows_every_part(capsys):
    assert main(["version", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "version"
    assert found["nats-server"].count(".") == 2
    assert {"daemoneye", "daemoneye-cli", "daemoneye-sensor", "daemoneye-analytics", "python", "kernel"} <= set(found)
