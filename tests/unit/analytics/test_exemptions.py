"""Benign verdicts as analytics reads them: of the operator's document, and what each covers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemoneye_analytics.exemptions import Exemption, read
from daemoneye_analytics.policies import read as read_document
from daemoneye_operator.reconcile import analytics
from daemoneye_operator.reconcile.exception import Exceptions
from tests.unit.operator.factory import NOW, exception_object, policy

SECOND = 10**9
GOOD: dict[str, Any] = {"namespace": "shop", "detector": "behavioral_anomaly", "expires": 2e9}


def test_what_the_operator_writes_is_read() -> None:
    exceptions = Exceptions()
    exceptions.load(
        [exception_object(detector="behavioral_anomaly", workload="shop/*/till", image="*/till:?", key="a")]
    )
    document = analytics.encode(analytics.document([policy("a")], (), exceptions.benign(NOW, "security")))
    assert read_document(document, {}).exemptions == (
        Exemption("shop", "behavioral_anomaly", "shop/*/till", "*/till:?", "a", 1_893_456_000.0),
    )


def test_what_is_left_out_stands_for_any() -> None:
    assert read([GOOD]) == (Exemption("shop", "behavioral_anomaly", "", "", "", 2e9),)


@pytest.mark.parametrize("entries", [None, {}, "x", 3, [], [None, 3, "x", []]], ids=repr)
def test_what_is_no_list_of_verdicts_is_none(entries: object) -> None:
    assert read(entries) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": 3}, {"workload": None}, {"image": ["*"]}, {"key": {}}, {"detector": True},
        {"expires": None}, {"expires": "2030-01-01T00:00:00Z"}, {"expires": True}, {"expires": -1}, {"expires": float("nan")},
        {"expires": float("inf")}, {"expires": 10**400},
    ],
    ids=lambda wrong: f"{wrong!r:.40}",
)  # fmt: skip
def test_one_that_is_wrong_is_left_out_and_the_others_hold(wrong: dict[str, Any]) -> None:
    assert read([GOOD | wrong, GOOD]) == read([GOOD])
    document = json.dumps({"policies": [], "exceptions": [GOOD | wrong, GOOD]}).encode()
    assert read_document(document, {}).exemptions == read([GOOD])


def test_their_number_is_bounded() -> None:
    assert len(read([GOOD] * 6000)) == 5000


@pytest.mark.parametrize(
    ("changed", "covers"),
    [
        ({}, True),
        ({"namespace": "other"}, False),
        ({"workload": "shop/Deployment/till/*"}, True),
        ({"workload": "shop/Deployment/till"}, False),
        ({"image": "*/till:?"}, True),
        ({"image": "shop/till"}, False),
        ({"key": "a\\u202eb"}, True),
        ({"key": "a\u202eb"}, False),
        ({"expires": 100.0}, False),
        ({"expires": 100.5}, True),
    ],
)
def test_what_one_covers_is_said_in_the_words_of_finding_objects(changed: dict[str, Any], covers: bool) -> None:
    (one,) = read([GOOD | changed])
    assert one.covers("shop", "shop/Deployment/till/main", "registry/till:1", "a\u202eb", 100 * SECOND) is covers
