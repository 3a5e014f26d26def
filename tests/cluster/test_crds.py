"""The CRDs on a real API server: accepted, explained, defaulted, and strict about what users write."""

from __future__ import annotations

import json
import re

import pytest

from daemoneye import conditions
from daemoneye.codegen import crd
from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import wait
from tests.support.bad_objects import BAD, ENDPOINT, document

pytestmark = pytest.mark.cluster
WHOLE = {
    "DaemonEyePolicy": {},
    "FederationPeer": {"role": "Primary", "endpoint": ENDPOINT},
    "Finding": {"detector": "d", "severity": "high", "score": 0.8, "title": "t", "subject": {"node": "n", "pid": 1}},
    "DetectionException": {"scope": {"detector": "d"}, "verdict": "Benign", "owner": "o", "expiresAt": "2030-01-01T00:00:00Z"},
}  # fmt: skip
"""The smallest spec of each kind."""
OTHER = {"string": 7, "date-time": 7}
"""Values of another type, where a text is none."""


@pytest.fixture
def api(crds: Cluster) -> Cluster:
    return crds


def create(cluster: Cluster, *values, check: bool = True) -> str:
    text = "\n---\n".join(map(json.dumps, values))
    return cluster.kubectl("create", "--validate=strict", "-f", "-", input=text, check=check)


def test_definitions_are_structural_and_established(api: Cluster):
    for kind in crd.KINDS:
        found = api.get("crd", f"{kind.plural}.daemoneye.io")["status"]["conditions"]
        assert {c["type"]: c["status"] for c in found} == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize(("name", "kind", "spec", "answer"), BAD, ids=[bad[0] for bad in BAD])
def test_bad_object_is_refused_with_the_reason(api: Cluster, name, kind, spec, answer):
    said = create(api, document(name, kind, spec), check=False)
    assert answer in said
    assert "created" not in said


@pytest.mark.parametrize("kind", crd.KINDS, ids=[kind.name for kind in crd.KINDS])
def test_each_field_in_turn_is_refused_when_it_is_of_another_type(api: Cluster, kind: crd.Kind):
    """One message an object, which names the field and what belongs there."""
    schema = crd.schema(kind)["properties"]["spec"]
    wrong = [(path, _type(node)) for path, node in _walk(schema, "spec")][1:]
    items = [
        document(f"wrong-{number}", kind.name, _with(WHOLE[kind.name], _keys(path), OTHER.get(type_, "seven")))
        for number, (path, type_) in enumerate(wrong)
    ]
    said = create(api, *items, check=False)
    answers = {int(number): answer for number, answer in re.findall(r'"wrong-(\d+)" is invalid: (.*)', said)}
    silent = {
        path: answers.get(number)
        for number, (path, type_) in enumerate(wrong)
        if f"{path.replace('[]', '[0]')} in body must be of type {type_}" not in answers.get(number, "")
    }
    assert len(wrong) > 5
    assert silent == {}
    assert "created" not in said


def test_unknown_version_is_refused(api: Cluster):
    said = create(api, document("future", "DaemonEyePolicy", {}, "v9"), check=False)
    assert 'no matches for kind "DaemonEyePolicy" in version "daemoneye.io/v9"' in said


def test_an_object_of_a_megabyte_and_a_half_is_refused(api: Cluster):
    huge = document("huge", "DaemonEyePolicy", {})
    huge["metadata"]["annotations"] = {"filler": "x" * (3 << 19)}
    said = create(api, huge, check=False)
    assert "Too long" in said or "too large" in said


def test_new_policy_has_defaults_and_pending_conditions(api: Cluster):
    create(api, document("fresh", "DaemonEyePolicy", {}))
    try:
        value = api.get("depol", "fresh")
        assert value["spec"]["kernelMonitoring"]["enableEbpf"] is True
        assert value["spec"]["networkMonitoring"]["enablePacketCapture"] is False
        assert value["spec"]["analytics"]["anomalyThreshold"] == 0.8
        assert [c["type"] for c in value["status"]["conditions"]] == list(conditions.TYPES["DaemonEyePolicy"])
        assert {c["reason"] for c in value["status"]["conditions"]} == {"Pending"}
        assert "Unknown" in api.kubectl("get", "daemoneye")
    finally:
        api.kubectl("delete", "depol", "fresh")


def test_what_identifies_a_peer_is_immutable(api: Cluster):
    spec = {"role": "Primary", "endpoint": ENDPOINT, "clusterID": "one"}
    create(api, document("fixed", "FederationPeer", spec))
    try:
        for change, answer in (
            ({"role": "Regional"}, "role is immutable"),
            ({"clusterID": "two"}, "clusterID is immutable"),
        ):
            patch = json.dumps({"spec": change})
            assert answer in api.kubectl("patch", "depeer", "fixed", "--type=merge", "-p", patch, check=False)
    finally:
        api.kubectl("delete", "depeer", "fixed")


def test_facts_of_a_finding_are_immutable(api: Cluster):
    subject = {"node": "n", "pid": 1}
    spec = {"detector": "d", "severity": "high", "score": 0.8, "title": "t", "subject": subject}
    create(api, document("fact", "Finding", spec))
    try:
        patch = json.dumps({"spec": {"severity": "low"}})
        assert "immutable" in api.kubectl(
            "patch", "defind", "fact", "-n", "default", "--type=merge", "-p", patch, check=False
        )
    finally:
        api.kubectl("delete", "defind", "fact", "-n", "default")


@pytest.mark.parametrize("kind", crd.KINDS, ids=[kind.name for kind in crd.KINDS])
def test_kubectl_explains_every_field(api: Cluster, kind: crd.Kind):
    """The API server publishes every description: what kubectl explain reads."""
    # It does so a moment after it has established them.
    openapi = wait(
        "its descriptions", lambda: json.loads(api.kubectl("get", "--raw", "/openapi/v3/apis/daemoneye.io/v1alpha1"))
    )
    (schema,) = (s for name, s in openapi["components"]["schemas"].items() if name.endswith(f".{kind.name}"))
    bare = [path for path, node in _walk(schema["properties"]["spec"], "spec") if not node.get("description")]
    assert not bare
    text = api.kubectl("explain", f"{kind.plural}.spec")
    assert "<no description>" not in text
    assert "DESCRIPTION:\n    <empty>" not in text


def _type(node):
    """As the API server names it."""
    return "date-time" if node.get("format") == "date-time" else node["type"]


def _keys(path):
    return path.replace("[]", ".[]").split(".")[1:]


def _with(spec, keys, value):
    """The spec with another value where the keys lead; `[]` is a list's first item."""
    if not keys:
        return value
    key, *rest = keys
    if key == "[]":
        return [_with(None, rest, value)]
    return {**(spec or {}), key: _with((spec or {}).get(key), rest, value)}


def _walk(node, path):
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    if "items" in node:
        yield from _walk(node["items"], f"{path}[]")
