"""The sensor's process: what ends it, and what it says then."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemoneye import metrics
from daemoneye.errors import ConfigError
from daemoneye_sensor import main
from tests.support.page import Page, fetch
from tests.support.ports import free_port

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


def test_a_signal_ends_it_while_what_it_read_waits_for_the_broker(tmp_path: Path) -> None:
    """A recording's events wait for ten minutes; whoever asks it to end does not, and is told what was not sent."""
    port = free_port()
    settings = {
        "node": "n", "source": "replay", "replay_path": str(RECORDING), "state_dir": str(tmp_path / "state"), "health_port": port,
        "nats": {"url": "nats://127.0.0.1:1"},
    }  # fmt: skip
    config = tmp_path / "sensor.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "daemoneye_sensor", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 90
            while not (fetch(port, "/readyz")[0] == 200 and Page(port).of(metrics.SENSOR_EVENTS, "urgent")):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)  # between two looks at its page, within a deadline
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]
            took = time.monotonic() - asked
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert took < 30
    assert "batches were not sent (" in said
    assert "they stay in the spool for the next start" in said
