"""The chart's values: one declaration, its generated files, what is refused, and that each value does something."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from daemoneye import streams
from daemoneye.errors import ConfigError
from daemoneye_operator import codegen, settings
from daemoneye_operator.chartvalues import SENSOR_ELSEWHERE, ChartValues, SensorValues
from daemoneye_operator.settings import Findings, OperatorSettings, Sensor, Streams
from tests.chart.chart import CHART, CI, MONITORING, ROOT, RefusedError, objects, render, template

MIB = 1 << 20


def leaves(node, path=""):
    """Path → value; free-form mappings and resources are one value."""
    for key, value in node.items():
        where = f"{path}{key}"
        if isinstance(value, dict) and not re.search(
            r"(Selector|affinity|Annotations|[lL]abels|requests|limits|issuerRef)$", where
        ):
            yield from leaves(value, f"{where}.")
        else:
            yield where, value


def written(tmp_path, *sets, values=None):
    path = tmp_path / "operator.json"
    (text,) = (
        value["data"]["operator.json"]
        for value in render(*sets, values=values).values()
        if "operator.json" in value.get("data", {})
    )
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", codegen.FILES)
def test_generated_file_is_fresh(name):
    assert (ROOT / name).read_text() == codegen.FILES[name](), "run make generate"


def test_check_names_a_stale_file_and_writes_nothing(tmp_path, capsys):
    assert codegen.main([str(tmp_path)]) == 0
    stale = tmp_path / "charts/daemoneye/values.yaml"
    stale.write_text("foo: bar\n")
    assert codegen.main(["--check", str(tmp_path)]) == 1
    assert "charts/daemoneye/values.yaml: stale; run `make generate`" in capsys.readouterr().err
    assert stale.read_text() == "foo: bar\n"


def test_crds_of_the_chart_are_those_of_the_repository():
    ours, theirs = sorted((ROOT / "crds").glob("*.yaml")), sorted((CHART / "crds-yaml").glob("*.yaml"))
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert [path.read_text() for path in ours] == [path.read_text() for path in theirs]


def test_defaults_are_the_models():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values == ChartValues().model_dump(by_alias=True)
    assert ChartValues.model_validate(values, by_alias=True, by_name=False) == ChartValues()


def test_every_value_has_a_comment_for_helm_docs_and_the_file_is_short():
    lines = (CHART / "values.yaml").read_text().splitlines()
    assert len(lines) <= 300
    bare = []
    for number, line in enumerate(lines):
        key = re.match(r" *([A-Za-z]+):", line)
        if not key:
            continue
        group = line.rstrip().endswith(":")
        above = [text.strip() for text in lines[:number]]
        while above and above[-1].startswith("# ") and not above[-1].startswith("# -- "):
            above.pop()  # a comment of several lines
            if group:
                break
        if not (group or (above and above[-1].startswith("# -- "))):
            bare.append(line)
    assert bare == []


def test_what_reaches_the_operator_is_declared_once():
    """Same bounds, defaults and words as the settings: another declaration could drift."""
    assert set(SensorValues.model_fields) == {*Sensor.model_fields} - {*SENSOR_ELSEWHERE} | {"image"}
    for name in Sensor.model_fields.keys() - {*SENSOR_ELSEWHERE}:
        assert SensorValues.model_fields[name].description == Sensor.model_fields[name].description
    for name in ("streams", "findings"):
        ours = ChartValues.model_fields[name].annotation
        assert ours is {"streams": Streams, "findings": Findings}[name]


def test_schema_is_strict_and_described_everywhere():
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(node, path):
        if "properties" in node:
            assert node["additionalProperties"] is False, path
            assert "required" not in node, path  # helm lays what is given over the chart's values
        for name, child in node.get("properties", {}).items():
            assert child.get("description"), f"{path}.{name}"
            assert "$ref" not in child
            walk(child, f"{path}.{name}")

    walk(schema, "")


def test_default_operator_json_is_the_settings_with_their_defaults(tmp_path):
    found = settings.load(written(tmp_path))
    assert found.sensor == Sensor(image="daemoneye/sensor:0.1.0")
    assert found.streams == Streams()
    assert found.findings == Findings()
    assert (found.release, found.namespace, found.fullname) == ("rel", "security", "rel-daemoneye")
    assert found.nats.url == "tls://rel-daemoneye-nats.security.svc:4222"
    assert not found.nats.external
    assert (found.health_port, found.log_level, found.version) == (8080, "info", "0.1.0")


@pytest.mark.parametrize("values", CI, ids=[path.name.removesuffix("-values.yaml") for path in CI])
def test_operator_json_is_taken_by_the_operator(tmp_path, values: Path):
    assert isinstance(settings.load(written(tmp_path, values=values)), OperatorSettings)


def test_everything_set_reaches_the_operator(tmp_path):
    path = CHART / "ci" / "everything-set-values.yaml"
    given = yaml.safe_load(path.read_text())
    found = settings.load(written(tmp_path, values=path)).model_dump(by_alias=True)
    sensor = {key: value for key, value in given["sensor"].items() if key != "image"}
    assert {key: found["sensor"][key] for key in sensor} == sensor
    assert found["sensor"]["image"].startswith("registry.example.com/mirror/security/sensor:0.1.1@sha256:")
    assert found["sensor"]["imagePullSecrets"] == [{"name": "mirror"}]
    assert found["streams"] == given["streams"]
    assert found["findings"] == given["findings"]
    assert (found["logLevel"], found["resyncSeconds"], found["clusterName"]) == ("debug", 30, "production")
    assert (found["nats"]["replicas"], found["nats"]["storeMaxBytes"]) == (3, 25769803776)


def test_external_broker_reaches_the_operator(tmp_path):
    found = settings.load(written(tmp_path, values=CHART / "ci" / "external-nats-values.yaml")).nats
    assert found.external
    assert found.url == "tls://nats.example.com:4443"
    assert found.tls_secret_ref == settings.SecretRef(name="nats-ca")
    assert found.credentials_secret_ref == settings.SecretRef(name="nats-users")


@pytest.mark.slow
def test_every_value_does_something(tmp_path):
    """One value after another, changed as in everything-set: what is rendered differs, or a rule over several values speaks."""
    given = dict(leaves(yaml.safe_load((CHART / "ci" / "everything-set-values.yaml").read_text())))
    given |= {"crds.enabled": False, "nats.storage.enabled": False, "networkPolicy.enabled": False}
    given |= {"nats.external.url": "tls://n.example.com:4222", "nats.external.tlsSecretRef.name": "a"}
    given |= {"nats.external.credentialsSecretRef.name": "a", "nats.issuerRef": {"name": "ours"}}
    defaults = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    assert given.keys() == defaults.keys(), "everything-set says something of each value"
    assert [path for path in given if given[path] == defaults[path]] == []

    def effect(path):
        value = given[path]
        for key in reversed(path.split(".")):
            value = {key: value}
        file = tmp_path / f"{path}.yaml"
        file.write_text(json.dumps(value))
        try:
            return template(values=file, apis=MONITORING)
        except RefusedError as error:
            return str(error)

    plain = template(apis=MONITORING)
    with ThreadPoolExecutor(4) as pool:
        results = dict(zip(given, pool.map(effect, given), strict=True))
    assert [path for path, text in results.items() if text == plain] == []
    refused = {path for path, text in results.items() if "Error:" in text}
    assert refused <= {
        "nats.external.url", "nats.storeMaxBytes", "streams.eventsMaxBytes", "streams.replicas", "nats.external.tlsSecretRef.name",
        "nats.external.credentialsSecretRef.name", "nats.issuerRef", "analytics.parts", "streams.shards",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sensor.spoolMaxBytes=lots", "at '/sensor/spoolMaxBytes': got string, want integer"),
        ("sensor.spoolMaxBytes=1", "at '/sensor/spoolMaxBytes': minimum: got 1, want"),
        ("sensor.spool=1", "at '/sensor': additional properties 'spool' not allowed"),
        ("sensor.affinity.nodeAffinity=x", "at '/sensor': additional properties 'affinity' not allowed"),
        ("sensors.privileged=true", "at '': additional properties 'sensors' not allowed"),
        ("sensor.hostPaths.spool=var/lib", "at '/sensor/hostPaths/spool': 'var/lib' does not match pattern"),
        ("sensor.updateMaxUnavailable=0%", "at '/sensor/updateMaxUnavailable'"),
        ("sensor.updateMaxUnavailable=0", "at '/sensor/updateMaxUnavailable'"),
        ("nats.replicas=2", "at '/nats/replicas': value must be one of 1, 3"),
        ("nats.storage.size=10", "at '/nats/storage/size': got number, want string"),
        ("nats.storage.size=10GB", "at '/nats/storage/size': '10GB' does not match pattern"),
        ("nats.external.url=nats.example.com", "at '/nats/external/url': 'nats.example.com' does not match pattern"),
        ("operator.logLevel=loud", "at '/operator/logLevel': value must be one of 'debug', 'info', 'warning', 'error'"),
        ("operator.resources.limits.memory=much", "at '/operator/resources/limits/memory': 'much' does not match pattern"),
        ("operator.resources.limits.cpu=null", "at '/operator/resources/limits': missing property 'cpu'"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        ("image.registry=example.com/", "at '/image/registry'"),
        ("analytics.image.repository=a:b", "at '/analytics/image/repository'"),
        ("networkPolicy.apiServerPorts={0}", "at '/networkPolicy/apiServerPorts/0': minimum: got 0, want 1"),
        ("metrics.podMonitor.interval=often", "at '/metrics/podMonitor/interval': 'often' does not match pattern"),
        ("metrics.prometheusRule.runbookBaseUrl=wiki", "at '/metrics/prometheusRule/runbookBaseUrl'"),
        ("grafana.dashboards.label=", "at '/grafana/dashboards/label': minLength: got 0, want 1"),
        ("crds.enabled=yes please", "at '/crds/enabled': got string, want boolean"),
        ("findings.maxObjects=0", "at '/findings/maxObjects': minimum: got 0, want 1"),
        ("fullnameOverride=Eye", "at '/fullnameOverride'"),
        ("streams.replicas=3", "streams.replicas is 3: write at most nats.replicas, which is 1"),
        ("nats.storeMaxBytes=5000000000", "nats.storeMaxBytes is 5000000000: write at least 5997854720, which the streams reserve"),
        ("evidence.maxBytes=1", "at '/evidence/maxBytes': minimum: got 1, want"),
        ("nats.storage.size=4Gi", "nats.storage.size is 4Gi: write one of at least nats.storeMaxBytes, which is 8589934592 bytes"),
        ("nats.external.url=tls://n.example.com", "nats.external.credentialsSecretRef.name is missing: a broker of your own needs a user"),
        ("nats.external.credentialsSecretRef.name=x", "nats.external.credentialsSecretRef is set but nats.external.url is not"),
    ],
)  # fmt: skip
def test_wrong_value_is_refused_with_its_path(value, words):
    with pytest.raises(RefusedError) as caught:
        template(value)
    assert words in str(caught.value)


def test_release_with_a_dot_is_refused():
    with pytest.raises(RefusedError, match=r'name is "a\.b": write one without dots'):
        template(release="a.b")


@pytest.mark.parametrize("value", ["global.imageRegistry=x", "sensor.tolerations=null", "image.pullSecrets=null"])
def test_what_helm_itself_or_a_parent_chart_may_do_is_taken(tmp_path, value):
    assert settings.load(written(tmp_path, value)).sensor.tolerations == []


def test_least_store_of_chart_and_operator_is_the_same_and_holds_the_streams(tmp_path):
    sizes = {"events_max_bytes": 4096 * MIB, "findings_max_bytes": 1024 * MIB}
    least = sum(sizes.values()) + 600 * MIB
    declared = (*streams.declared(1, **sizes), *streams.buckets())
    assert streams.reserved_bytes(declared) <= least
    path = written(tmp_path, f"nats.storeMaxBytes={least}")
    assert settings.load(path).nats.store_max_bytes == least
    with pytest.raises(RefusedError):
        template(f"nats.storeMaxBytes={least - 1}")
    path.write_text(path.read_text().replace(str(least), str(least - 1)))
    with pytest.raises(ConfigError, match=f"nats.storeMaxBytes is {least - 1}: write at least {least}"):
        settings.load(path)


def test_each_size_of_storage_is_read(tmp_path):
    for size in ("8192Mi", "8Gi", "1Ti"):
        assert objects(template(f"nats.storage.size={size}"))
    with pytest.raises(RefusedError, match="is 8191Mi"):
        template("nats.storage.size=8191Mi")
