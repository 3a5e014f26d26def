"""The policy's model: what every field must have so that CRD, reference and chart can be drawn from it."""

import json

import pytest
from pydantic import BaseModel, JsonValue, ValidationError

from daemoneye.api.v1alpha1.analytics import DetectorSettings
from daemoneye.api.v1alpha1.common import MERGE_KEY
from daemoneye.api.v1alpha1.policy import DaemonEyePolicy, KernelMonitoring, PolicySpec

RULES = {"or", "max", "union", "scoped", "singleton"}


def fields(model: type[BaseModel], path: str = ""):
    for name, field in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        yield where, field
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, where)


ALL = dict(fields(DaemonEyePolicy))
# Kubernetes' own types are one setting each: what is inside of them has no merge rule and no default of ours.
OPAQUE = tuple(f"spec.selector.{name}." for name in ("tolerations", "namespace_selector", "pod_selector"))


@pytest.mark.parametrize("path", ALL)
def test_every_field_is_described_in_a_sentence(path):
    text = ALL[path].description
    assert text
    assert text[0].isupper()
    assert text.endswith(".")


@pytest.mark.parametrize("path", [path for path in ALL if path.count(".") >= 2 and not path.startswith(OPAQUE)])
def test_every_setting_says_how_policies_merge(path):
    assert ALL[path].json_schema_extra[MERGE_KEY] in RULES


@pytest.mark.parametrize("path", [path for path in ALL if path.count(".") == 2])
def test_every_setting_has_a_default_that_its_description_tells(path):
    field = ALL[path]
    assert not field.is_required()
    assert "by default" in field.description


def test_defaults_are_safe():
    spec = PolicySpec()
    assert spec.kernel_monitoring.enable_ebpf
    assert spec.analytics.enable_behavioral_analysis
    assert not spec.network_monitoring.enable_packet_capture
    assert not spec.federation.enable_federation
    assert not spec.stix_taxii.enable_integration
    assert spec.analytics.enable_machine_learning
    assert spec.federation.primary_endpoint is None
    assert spec.federation.regional_endpoints == ()
    assert spec.stix_taxii.taxii_endpoint is None


def test_a_policy_is_frozen():
    with pytest.raises(ValidationError):
        KernelMonitoring().enable_ebpf = False


@pytest.mark.parametrize("value", ["true", 1, "yes"])
def test_a_switch_takes_only_true_and_false(value):
    with pytest.raises(ValidationError):
        KernelMonitoring.model_validate({"enableEbpf": value})


def test_a_whole_number_does_for_a_threshold():
    assert PolicySpec.model_validate({"analytics": {"anomalyThreshold": 1}}).analytics.anomaly_threshold == 1.0


def test_keys_are_camel_case_outside_and_snake_case_inside():
    spec = PolicySpec()
    assert set(spec.model_dump(by_alias=True)) == {
        "selector",
        "kernelMonitoring",
        "networkMonitoring",
        "federation",
        "stixTaxii",
        "analytics",
    }
    assert "enable_ebpf" in spec.kernel_monitoring.model_dump(mode="json")


def test_the_schema_for_the_crd_can_be_made():
    schema = DaemonEyePolicy.model_json_schema(by_alias=True)
    analytics = schema["$defs"]["Analytics"]["properties"]
    assert analytics["anomalyThreshold"]["maximum"] == 1
    assert analytics["anomalyThreshold"][MERGE_KEY] == "scoped"
    json.dumps(schema)


def test_a_detectors_parameters_are_free_form():
    parameters: dict[str, JsonValue] = {"a": [1, {"b": None}], "c": "d"}
    assert DetectorSettings(name="x", parameters=parameters).parameters == parameters
