"""The sensor's process: what ends it, and what it says then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemoneye.errors import ConfigError
from daemoneye_sensor import main

RECORDING = Path(__file__).parents[3] / "examples/one-machine/recording.jsonl"


def test_without_a_publisher_it_does_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it reads would wait in the spool for nobody."""
    password = tmp_path / "password"
    settings = {
        "node": "n", "source": "replay", "replay_path": str(RECORDING), "state_dir": str(tmp_path / "state"),
        "nats": {"url": "nats://127.0.0.1:1", "user": "sensor", "password_file": str(password)},
    }  # fmt: skip
    config = tmp_path / "sensor.json"
    config.write_text(json.dumps(settings))
    assert main.main(["--config", str(config)]) == ConfigError.exit_code
    assert "cannot read the broker's credentials" in (said := capsys.readouterr().err)
    assert str(password) in said
