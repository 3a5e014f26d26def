"""The state directory."""

import os
from pathlib import Path

import pytest

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError
from daemoneye_cli.state import State, default_state_directory


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"DAEMONEYE_STATE": "/x", "XDG_STATE_HOME": "/y"}, 0, "/x"),
        ({"XDG_STATE_HOME": "/y"}, 0, "/var/lib/daemoneye"),
        ({"XDG_STATE_HOME": "/y"}, 1000, "/y/daemoneye"),
        ({}, 1000, str(Path.home() / ".local/state/daemoneye")),
    ],
)
def test_the_default_place(environ, uid, expected):
    assert str(default_state_directory(environ, uid=uid)) == expected


def test_it_is_for_its_user_alone(tmp_path):
    state = State.at(tmp_path / "s")
    state.prepare()
    state.prepare()
    assert {path.stat().st_mode & 0o777 for path in (state.path, state.run, state.logs, state.broker)} == {0o700}
    path = state.write_private("x.json", {"a": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    assert state.read_private("x.json") == {"a": 1}
    assert os.listdir(state.run) == ["x.json"]


def test_a_second_run_is_refused_by_the_firsts_process(tmp_path):
    state = State.at(tmp_path)
    state.prepare()
    with state.locked(), pytest.raises(DaemonEyeError, match=f"process {os.getpid()} runs"), state.locked():
        pass
    with state.locked():
        pass


def test_instances_differ_by_place_and_stay_the_same(tmp_path):
    assert State.at(tmp_path / "a").instance != State.at(tmp_path / "b").instance
    assert State.at(tmp_path / "a").instance == State.at(tmp_path / "a").instance
    assert State.at(tmp_path).instance.replace("-", "").isalnum()


def test_files_that_are_absent_or_broken(tmp_path):
    state = State.at(tmp_path)
    state.prepare()
    with pytest.raises(MachineError, match="daemoneye run"):
        state.read_private("cli.json")
    for broken in ("{", "[]"):
        (state.run / "cli.json").write_text(broken)
        with pytest.raises(ConfigError, match=r"cli\.json"):
            state.read_private("cli.json")


def test_an_unusable_place(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="not usable"):
        State.at(tmp_path / "file").prepare()
