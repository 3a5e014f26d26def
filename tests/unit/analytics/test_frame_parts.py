"""Checkpoints, tallies, the behavioural analyser's arithmetic, the registry and the settings."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.api.policyfile import installed_detectors
from daemoneye.errors import ConfigError, CorruptData
from daemoneye_analytics import checkpoint, registry, settings
from daemoneye_analytics.analyzer import BehavioralAnalyzer, aggregate, score
from daemoneye_analytics.behaviour.models import BehavioralModel, parse
from daemoneye_analytics.checkpoint import Checkpoint
from daemoneye_analytics.detectors.base import detector
from daemoneye_analytics.detectors.tally import Tally
from daemoneye_analytics.frame import combine, text_hash
from daemoneye_analytics.main import main

MOMENT = Checkpoint(7, 42, {"events": 3}, {"a": {"key": np.arange(5, dtype=np.uint64), "format": 1}, "b": {}})


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_checkpoint_and_back():
    got = checkpoint.decode(checkpoint.encode(MOMENT))
    assert (got.number, got.position, got.facts) == (7, 42, {"events": 3})
    assert got.detectors["a"]["format"] == 1
    assert got.detectors["b"] == {}
    assert np.array_equal(got.detectors["a"]["key"], np.arange(5))


@given(st.data())
def test_damage_is_refused(data):
    raw = bytearray(checkpoint.encode(MOMENT))
    match data.draw(st.sampled_from(["flip", "cut", "grow"])):
        case "flip":
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        case _:
            raw += b"x"
    with pytest.raises(CorruptData):
        checkpoint.decode(bytes(raw))


@given(st.binary(max_size=200))
def test_anything_with_a_right_checksum_is_refused_all_the_same(body):
    with pytest.raises(CorruptData):
        checkpoint.decode(b"DECK" + (1).to_bytes(2, "little") + hashlib.sha256(body).digest() + body)


def test_the_future_is_refused():
    raw = bytearray(checkpoint.encode(MOMENT))
    raw[4] = 2
    with pytest.raises(CorruptData, match="version 2"):
        checkpoint.decode(bytes(raw))


def test_python_objects_are_not_kept():
    with pytest.raises(ValueError):
        checkpoint.encode(Checkpoint(1, 1, {}, {"a": {"x": np.array([object()])}}))


def test_too_large(monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100"):
        checkpoint.encode(MOMENT)


# ── tallies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.lists(st.integers(0, 20), unique=True, max_size=8), max_size=10))
def test_tally_counts_like_a_dictionary(batches):
    tally = Tally(1000)
    naive: dict[int, tuple[int, int, int]] = {}
    for turn, batch in enumerate(batches):
        keys = np.array(batch, np.uint64)
        tally.add(keys, keys % np.uint64(3), np.ones(len(batch)), np.full(len(batch), turn), np.full(len(batch), turn))
        for key in batch:
            count, first, _ = naive.get(key, (0, turn, turn))
            naive[key] = (count + 1, first, turn)
    every = np.arange(25, dtype=np.uint64)
    at = tally.find(every)
    got = {
        int(k): (int(c), int(f), int(last))
        for k, c, f, last in zip(
            every[at >= 0], *(tally.column(n, at[at >= 0]) for n in ("count", "first", "last")), strict=True
        )
    }
    assert got == naive
    assert np.array_equal(tally.column("count", at, missing=9)[at < 0], np.full((at < 0).sum(), 9))


def test_tally_forgets_the_oldest_of_a_group_first():
    tally = Tally(100, group_capacity=10)
    for i in range(11):
        tally.add(*(np.array([v]) for v in (np.uint64(i), np.uint64(1), 1, i, i)))
    tally.add(*(np.array([v]) for v in (np.uint64(50), np.uint64(2), 1, 0, 0)))
    assert tally.find(np.array([0, 1, 10, 50], np.uint64))[[0, 1]].tolist() == [-1, -1]
    assert (tally.find(np.array([10, 50], np.uint64)) >= 0).all()
    assert tally.dropped == 2


# ── hashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hashes_are_for_ever():
    # They are in checkpoints: a change here is a change of format.
    assert text_hash("/usr/bin/nc") == int.from_bytes(hashlib.blake2b(b"/usr/bin/nc", digest_size=8).digest(), "little")
    assert text_hash("") == 0
    one, two = np.array([1], np.uint64), np.array([2], np.uint64)
    assert combine(one, two) != combine(two, one)
    assert combine(one, 3, two)[0] == combine(one, 3, two)[0]


# ── the analyser ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_score_means_what_the_documentation_says():
    assert score(np.array([1.0, 1e-4, 1e-5, 1e-9, 0.0])).tolist() == pytest.approx([0, 0.8, 1, 1, 1])
    assert np.isnan(score(np.array([np.nan])))


def test_a_weighted_model_pays_less_for_the_others():
    p = np.array([[0.001, 0.5], [0.5, 0.001], [np.nan, 0.001], [np.nan, np.nan]])
    got = aggregate(p, np.array([9.0, 1.0]))
    assert got[:3] == pytest.approx([0.001 * 10 / 9, 0.01, 0.001])
    assert np.isnan(got[3])


@given(st.lists(st.lists(st.floats(1e-12, 1.0), min_size=3, max_size=3), min_size=1, max_size=5))
def test_aggregate_is_bonferroni(rows):
    got = aggregate(np.array(rows))
    assert got.tolist() == pytest.approx([min(1, 3 * min(r)) for r in rows])
    # One row's value does not depend on its batch.
    assert [aggregate(np.array([r]))[0] for r in rows] == got.tolist()


def test_models_without_calibration_are_not_counted():
    p = np.array([[0.01, np.nan, 0.5], [np.nan] * 3])
    assert aggregate(p)[0] == pytest.approx(0.02)
    assert np.isnan(aggregate(p)[1])


def test_an_analyser_needs_models_and_a_threshold_that_can_be():
    models = parse([])
    assert BehavioralAnalyzer(models).anomaly_threshold == 0.8
    wrongs: list[tuple[tuple[BehavioralModel, ...], float]] = [((), 0.8), ((models[0], models[0]), 0.8), (models, 1.5)]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            BehavioralAnalyzer(*wrong)


# ── registry ────────────────────────────────────────────────────────────────────────────────────────────────────────


NETWORK = ["cloud_metadata", "network_scan", "dns_tunnel", "beacon", "mining_pool", "tls_without_name"]


def names(*args, **kwargs):
    return [c.detector.declaration.name for c in registry.build(*args, **kwargs)]


def test_all_detectors_run_unless_switched_off():
    assert names() == ["suspicious_exec", "first_seen", *NETWORK, "behavioral_anomaly"]
    assert names([{"name": "first_seen", "enabled": False}]) == ["suspicious_exec", *NETWORK, "behavioral_anomaly"]
    assert names(machine_learning=False) == ["suspicious_exec", "first_seen", *NETWORK]
    assert names(behavioral=False) == ["suspicious_exec", *NETWORK]


def test_unknown_detectors_are_refused_with_the_choices():
    wrongs: list[list[dict[str, Any]]] = [[{"name": "nope"}], [{}], [{"name": "first_seen"}] * 2]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="first_seen"):
            registry.build(wrong)
    with pytest.raises(ConfigError, match="learning_events"):
        registry.build([{"name": "first_seen", "parameters": {"learning": 3}}])


class Point:
    def __init__(self, name, loaded):
        self.name, self.value, self._loaded = name, f"{name}:X", loaded

    def load(self):
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def test_entry_points(monkeypatch, caplog):
    @detector(name="mine", version=1, title="t", severity="low", techniques=())
    class Mine:
        """Mine."""

        def __init__(self, parameters):
            pass

    @detector(name="first_seen", version=9, title="t", severity="low", techniques=())
    class Usurper:
        """Takes another's name."""

    points = [
        Point("mine", Mine),
        Point("broken", ImportError("x")),
        Point("first_seen", Usurper),
        Point("other", (3.5).__class__),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    with caplog.at_level(logging.ERROR):
        assert names() == ["suspicious_exec", "first_seen", *NETWORK, "behavioral_anomaly", "mine"]
    assert all(name in caplog.text for name in ("broken", "other", "name of another"))
    assert names(behavioral=True)[1] == "first_seen"


def test_declarations_are_whole():
    for name, cls in registry.available().items():
        declaration = cls.declaration
        assert declaration.name == name
        assert declaration.docs
        assert declaration.techniques
        assert all(p.doc for p in declaration.parameters)


def test_every_built_in_detector_may_be_named_in_a_policy_s_file():
    assert {cls.declaration.name for cls in registry.BUILT_IN} <= installed_detectors()


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = {
    "nats": {"url": "nats://127.0.0.1:1"},
    "analytics": {"enable_behavioral_analysis": False, "detectors": [{"name": "first_seen"}]},
}


def test_settings():
    got = settings.parse({**GOOD, "shards": 3, "parts": 2, "status_interval_s": 2.5, "cluster": "c"})
    assert (got.shards, got.status_interval, got.behavioral) == (3, 2.5, False)
    assert got.parts == 1, "on one machine there is nobody to share with"
    assert settings.parse({**GOOD, "parts": 2, "configuration": "broker"}).parts == 2
    assert got.broker.options() == {"servers": ["nats://127.0.0.1:1"], "inbox_prefix": b"_INBOX"}
    assert "secret" not in repr(settings.parse({"nats": {"url": "u", "password": "secret"}}))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"nats":{}}', '{"nats":{"url":3}}', '{"nats":{"url":"u"},"shards":"0"}', '{"nats":{"url":"u"},"analytics":{"detectors":[3]}}',
     '{"nats":{"url":"u"},"shards":0}', '{"nats":{"url":"u"},"analytics":{"detectors":[{"name":"nope"}]}}',
     '{"nats":{"url":"u","tls":{"ca":"/does/not/exist"}}}', '{"nats":{"url":"nats://127.0.0.1:1","tls":{"ca":"/does/not/exist"}}}',
     '{"nats":{"url":"nats://127.0.0.1:1","password_file":"/does/not/exist"}}', '{"nats":{"url":"nats://127.0.0.1:1"},"configuration":"kv"}',
     '{"nats":{"url":"nats://127.0.0.1:1"},"health_port":70000}', '{"nats":{"url":"nats://127.0.0.1:1"},"health_port":"8080"}'],
    ids=range(15),
)  # fmt: skip
def test_wrong_settings_are_one_line_and_status_2(tmp_path, capsys, text):
    path = tmp_path / "analytics.json"
    path.write_text(text)
    assert main(["--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("daemoneye-analytics: ")
    assert said.count("\n") == 1


def test_a_missing_file_is_named(capsys):
    assert main(["--config", "/does/not/exist.json"]) == 2
    assert "/does/not/exist.json" in capsys.readouterr().err
    assert json.dumps(GOOD)
