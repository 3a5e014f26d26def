"""The CRDs on a real API server: accepted, explained, defaulted, and strict about what users write."""

from __future__ import annotations

import json

import pytest

from daemoneye import conditions
from daemoneye.codegen import crd
from tests.cluster.harness.cluster import Cluster
from tests.support.bad_objects import BAD, ENDPOINT, document

pytestmark = pytest.mark.cluster


@pytest.fixture
def api(crds: Cluster) -> Cluster:
    return crds


def create(cluster: Cluster, value, *, check: bool = True) -> str:
    return cluster.kubectl("create", "--validate=strict", "-f", "-", input=json.dumps(value), check=check)


def test_definitions_are_structural_and_established(api: Cluster):
    for kind in crd.KINDS:
        found = api.get("crd", f"{kind.plural}.daemoneye.io")["status"]["conditions"]
        assert {c["type"]: c["status"] for c in found} == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize(("name", "kind", "spec", "answer"), BAD, ids=[bad[0] for bad in BAD])
def test_bad_object_is_refused_with_the_reason(api: Cluster, name, kind, spec, answer):
    said = create(api, document(name, kind, spec), check=False)
    assert answer in said
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
    openapi = json.loads(api.kubectl("get", "--raw", "/openapi/v3/apis/daemoneye.io/v1alpha1"))
    (schema,) = (s for name, s in openapi["components"]["schemas"].items() if name.endswith(f".{kind.name}"))
    bare = [path for path, node in _walk(schema["properties"]["spec"], "spec") if not node.get("description")]
    assert not bare
    text = api.kubectl("explain", f"{kind.plural}.spec")
    assert "<no description>" not in text
    assert "DESCRIPTION:\n    <empty>" not in text


def _walk(node, path):
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    if "items" in node:
        yield from _walk(node["items"], f"{path}[]")
