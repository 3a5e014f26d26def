"""The settings' file: what a user wrote wrong is named with file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemoneye.errors import ConfigError
from daemoneye.events.registry import KERNEL_EVENTS
from daemoneye_operator.reconcile.daemonset import desired_configmap
from daemoneye_operator.settings import OperatorSettings
from daemoneye_sensor.programs import RingSizes
from daemoneye_sensor.settings import Settings, load

BASE: dict[str, Any] = {"node": "n", "state_dir": "s", "nats": {"url": "nats://127.0.0.1:1"}}


def made(tmp_path: Path, **changes: Any) -> Settings:
    path = tmp_path / "sensor.json"
    path.write_text(json.dumps({k: v for k, v in (BASE | changes).items() if v is not None}))
    return load(path)


def test_on_one_machine_the_file_says_which_events(tmp_path: Path) -> None:
    settings = made(tmp_path)
    assert settings.events == tuple(KERNEL_EVENTS)
    assert settings.configuration == "file"
    assert settings.health_port == 0, "nobody asks for a port on a machine of one's own"
    assert made(tmp_path, kernel_monitoring={"enable_ebpf": False}).events == ()
    assert "process_exec" not in made(tmp_path, kernel_monitoring={"events": {"process_exec": False}}).events
    without = made(tmp_path, kernel_monitoring={"enable_socket_events": False}).events
    assert set(KERNEL_EVENTS) - set(without) == {"socket_open", "socket_close"}


def test_in_a_cluster_the_pod_says_the_node_and_the_broker_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DE_NODE", "node.1")
    nats = {"url": "tls://nats:4222", "user_file": "/u", "password_file": "/p", "tls": {"ca": "/ca"}}
    settings = made(tmp_path, node=None, node_env="DE_NODE", configuration="broker", runtime_tasks="/tasks", nats=nats)
    assert settings.node == "node.1"
    assert settings.events == ()
    assert settings.runtime_tasks == Path("/tasks")
    assert settings.access.tls_ca == Path("/ca")


def test_what_the_operator_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEMONEYE_NODE", "node.1")
    operator = {
        "release": "eye", "namespace": "security", "fullname": "daemoneye", "sensor": {"image": "daemoneye/sensor:dev"},
        "nats": {"url": "tls://daemoneye-nats.security.svc:4222"},
    }  # fmt: skip
    written = desired_configmap(OperatorSettings.model_validate(operator), "uid", None)
    path = tmp_path / "sensor.json"
    path.write_text(written["data"]["sensor.json"])
    settings = load(path)
    assert (settings.node, settings.cluster, settings.configuration) == ("node.1", "uid", "broker")
    assert settings.access.user_file == Path("/etc/daemoneye/broker/user")
    assert settings.access.tls_ca == Path("/etc/daemoneye/broker/ca.crt")
    assert settings.keep_programs
    assert settings.health_port == 8080
    assert settings.runtime_tasks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node": None}, "key 'node' is missing"),
        ({"node_env": "DE_NOT_SET"}, "'DE_NOT_SET', which node_env names, is not set"),
        ({"configuration": "elsewhere"}, "configuration 'elsewhere' is neither 'file' nor 'broker'"),
        ({"configuration": "broker", "source": "replay"}, "source 'replay' cannot be configured by the broker"),
        ({"nats": {}}, "nats: 'url' is missing"),
        ({"nats": {"url": "nats://x", "tls": [1]}}, "nats.tls is .*, not a mapping"),
        ({"instance": "a/b"}, "instance 'a/b': letters, digits"),
        ({"rings": {"exec_bytes": "many"}}, "many"),
        ({"health_port": "8080"}, "health_port '8080' is not a number from 0"),
        ({"health_port": 65_536}, "health_port 65536 is not a number from 0"),
        ({"health_port": True}, "health_port True"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"sensor.json: .*{message}"):
        made(tmp_path, **changes)


def test_rings_that_only_a_newer_operator_knows_are_left_out(tmp_path: Path) -> None:
    """Sensors of this release run beside the next one's operator while it upgrades them."""
    settings = made(tmp_path, rings={"exec_bytes": 8192, "later_bytes": 4096})
    assert settings.rings == RingSizes(exec_bytes=8192)
