"""operator.json: what it takes, and what it says of what it does not."""

import json

import pytest

from daemoneye.errors import ConfigError
from daemoneye_operator.settings import OperatorSettings, load
from tests.unit.operator.factory import SETTINGS


def write(tmp_path, **changes):
    path = tmp_path / "operator.json"
    path.write_text(json.dumps({**SETTINGS, **changes}))
    return path


def test_the_least_file_gives_defaults(tmp_path):
    settings = load(write(tmp_path))
    assert settings.fullname == "daemoneye"
    assert settings.sensor.host_paths.spool == "/var/lib/daemoneye"
    assert settings.findings.max_objects == 1000
    assert settings.resync_seconds == 60
    assert not settings.sensor.privileged
    assert {"cpu", "memory"} <= settings.sensor.resources.limits.keys() & settings.sensor.resources.requests.keys()


@pytest.mark.parametrize("required", ["release", "namespace", "fullname", "nats", "sensor"])
def test_what_has_no_default_is_named(tmp_path, required):
    path = write(tmp_path)
    path.write_text(json.dumps({key: value for key, value in SETTINGS.items() if key != required}))
    with pytest.raises(ConfigError, match=f"operator.json: {required} is missing"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"analyticsParts": 0}, "analyticsParts is 0: write a number that is at least 1"),
        ({"streams": {"shards": "2"}}, 'streams.shards is "2": write a whole number'),
        ({"streams": {"shard": 1}}, "streams.shard is no setting: did you mean shards"),
        ({"nats": {"url": "nats.example.com"}}, "nats.url is"),
        ({"logLevel": "loud"}, "logLevel is"),
        ({"streams": {"replicas": 2}}, "streams.replicas"),
        ({"sensor": {"image": ""}}, "sensor.image is"),
        ({"sensor": {"image": "x", "affinity": {}}}, "sensor.affinity is no setting"),
        ({"sensor": {"image": "x", "updateMaxUnavailable": "0%"}}, "sensor.updateMaxUnavailable is '0%'"),
        ({"sensor": {"image": "x", "updateMaxUnavailable": 0}}, "sensor.updateMaxUnavailable is 0"),
        ({"sensor": {"image": "x", "resources": {"limits": {"cpu": "lots", "memory": "1Gi"}}}}, "sensor.resources.limits.cpu is 'lots'"),
        ({"sensor": {"image": "x", "resources": {"limits": {"cpu": "1"}}}}, "sensor.resources.limits.memory is missing"),
        ({"sensor": {"image": "x", "hostPaths": {"spool": "var"}}}, "sensor.hostPaths.spool is"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_file_and_key(tmp_path, changes, words):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, **changes))
    assert "operator.json: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("[]", "no JSON object"), ("{", "broken"), ("\x00", "operator.json")])
def test_what_is_no_settings_at_all(tmp_path, text, words):
    path = tmp_path / "operator.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.json")


def test_a_key_that_is_written_twice_is_told(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace('"release"', '"namespace": "other", "release"', 1))
    with pytest.raises(ConfigError, match="namespace"):
        load(path)


def fields(model, path=""):
    for name, info in model.model_fields.items():
        yield f"{path}{name}", info
        if hasattr(info.annotation, "model_fields"):
            yield from fields(info.annotation, f"{path}{name}.")


@pytest.mark.parametrize(
    ("path", "info"), list(fields(OperatorSettings)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_setting_is_described(path, info):
    assert info.description
    assert info.description.endswith(".")
