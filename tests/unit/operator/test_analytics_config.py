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
            "models": [
                {"name": "shape", "features": ["exe_bits"], "detector": "IForest", "parameters": {"n_estimators": "50"}}
            ],
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
    model = {"name": "shape", "features": ["exe_bits"], "detector": "IForest", "parameters": {"n_estimators": 50}}
    assert value == {
        "behavioral": True,
        "machine_learning": True,
        "model_update_interval": 86_400,
        "policies": [
            {"name": "old", "uid": "uid-old", "behavioral": False, "machine_learning": True, "anomaly_threshold": 0.8,
             "alert_budget_per_day": 50, "detectors": [{**told, "enabled": False}]},
            {"name": "young", "uid": "uid-young", "behavioral": True, "machine_learning": True, "anomaly_threshold": 0.9,
             "alert_budget_per_day": 50, "detectors": [told], "models": [model]},
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


def test_evidence_is_told_where_it_is_asked_for_and_packets_are_captured():
    evidence = {"enabled": True, "seconds": 30, "maxSizeMb": 4}
    asked = [
        policy("both", 1, networkMonitoring={"enablePacketCapture": True, "evidence": evidence}),
        policy("no-capture", 2, networkMonitoring={"evidence": evidence}),
        policy("off", 3, networkMonitoring={"enablePacketCapture": True, "evidence": {"seconds": 30}}),
    ]
    told = {entry["name"]: entry.get("evidence") for entry in document(asked)["policies"]}
    assert told == {"both": {"seconds": 30, "max_size_mb": 4}, "no-capture": None, "off": None}
