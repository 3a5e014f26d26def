"""Analytics' configuration, drawn from the policies."""

import json

from daemoneye_operator.reconcile.analytics import config_hash, document, encode
from tests.unit.operator.factory import policy


def test_the_document():
    young = policy(
        "young",
        2,
        analytics={
            "enableMachineLearning": True,
            "anomalyThreshold": 0.9,
            "detectors": [{"name": "d", "parameters": {"n": "4"}}],
        },
    )
    old = policy(
        "old",
        1,
        analytics={
            "enableBehavioralAnalysis": False,
            "detectors": [{"name": "d", "enabled": False, "parameters": {"n": "3", "paths": '["/a"]', "word": "x"}}],
        },
    )
    parameters = {"n": 3, "paths": ["/a"], "word": "x"}
    value = document([young, old])
    told = {"name": "d", "enabled": True, "parameters": parameters}
    assert value == {
        "behavioral": True,
        "machine_learning": True,
        "model_update_interval": 86_400,
        "policies": [
            {"name": "old", "uid": "uid-old", "behavioral": False, "anomaly_threshold": 0.8, "detectors": [{**told, "enabled": False}]},
            {"name": "young", "uid": "uid-young", "behavioral": True, "anomaly_threshold": 0.9, "detectors": [told]},
        ],
    }  # fmt: skip
    assert encode(document([old, young])) == encode(value)
    assert json.loads(encode(value)) == value
    assert config_hash(encode(value)) != config_hash(encode(document([old])))


def test_who_is_refused_everywhere_is_left_out():
    value = document([policy("a"), policy("b")], {"uid-b"})
    assert [each["name"] for each in value["policies"]] == ["a"]


def test_nobody_asks():
    assert document([]) == {"behavioral": False, "machine_learning": False, "model_update_interval": 0, "policies": []}
