"""The CRDs: structural, described everywhere, bounded. The real API server says the rest (tests/cluster/test_crds.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from daemoneye import conditions
from daemoneye.codegen import crd

REPOSITORY = Path(__file__).parents[2]
KINDS = {kind.name: kind for kind in crd.KINDS}
FORBIDDEN = {
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
    "title",
    "const",
    "examples",
    "$defs",
    "x-kubernetes-preserve-unknown-fields",
}


def walk(node, path=""):
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_text_for_kubectl_explain(kind):
    bare = [p for p, node in walk(crd.schema(KINDS[kind])) if not node.get("description") and p != ".metadata"]
    assert not bare


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_structural(kind):
    for path, node in walk(crd.schema(KINDS[kind])):
        assert not FORBIDDEN & set(node), path
        assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean"}, path
        if node["type"] == "object" and path != ".metadata":
            assert ("properties" in node) != ("additionalProperties" in node), path


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_can_grow_is_bounded(kind):
    for path, node in walk(crd.schema(KINDS[kind])):
        if path.startswith(".spec"):
            if node["type"] == "array":
                assert "maxItems" in node or "enum" in node["items"], path
            if node["type"] == "string":
                assert "maxLength" in node or "enum" in node, path
            if "additionalProperties" in node:
                assert "maxProperties" in node, path


@pytest.mark.parametrize("kind", KINDS)
def test_cel_rules_have_messages(kind):
    for path, node in walk(crd.schema(KINDS[kind])):
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 20, path


@pytest.mark.parametrize("kind", KINDS)
def test_new_objects_begin_with_every_condition_unknown(kind):
    status = crd.schema(KINDS[kind])["properties"]["status"]
    first = status["properties"]["conditions"].get("default", [])
    assert [c["type"] for c in first] == list(conditions.TYPES[kind])
    assert {(c["status"], c["reason"]) for c in first} <= {("Unknown", "Pending")}


def test_files_are_small_and_in_one_category():
    for path in (REPOSITORY / "crds").glob("*.yaml"):
        assert path.stat().st_size < 256 << 10
        assert yaml.safe_load(path.read_text())["spec"]["names"]["categories"] == ["daemoneye"]


def test_columns_are_those_of_the_design():
    columns = {kind.name: [name.upper() for name, *_, priority in kind.columns if not priority] for kind in crd.KINDS}
    assert columns["DaemonEyePolicy"] == ["READY", "SENSORS", "FINDINGS", "LAST FINDING", "AGE"]
    assert columns["FederationPeer"] == ["ROLE", "READY", "IN-SYNC", "CONFLICTS", "LAST SYNC", "AGE"]
    assert columns["Finding"] == ["SEVERITY", "SCORE", "SUBJECT", "DETECTOR", "COUNT", "AGE"]


def test_reasons_are_words_and_sentences():
    for reason, text in conditions.REASONS.items():
        assert reason.isalnum()
        assert text.endswith((".", "?", "DEBUG_INFO_BTF."))


def test_a_condition_keeps_its_time_while_its_status_stays():
    first = conditions.put([], [conditions.condition("Ready", None, "Pending")], generation=1, now="t1")
    same = conditions.put(first, [conditions.condition("Ready", None, "SensorsProgressing")], generation=2, now="t2")
    other = conditions.put(same, [conditions.condition("Ready", True, "AsAsked")], generation=2, now="t3")
    assert [c[0]["lastTransitionTime"] for c in (first, same, other)] == ["t1", "t1", "t3"]
    assert same[0]["observedGeneration"] == 2
