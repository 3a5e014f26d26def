"""Names on the broker: what may stand in a subject, and that no two nodes share one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye import subjects
from daemoneye.errors import ConfigError
from daemoneye.streams import declared, reserved_bytes

NAMES = st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"]))


@given(NAMES)
def test_an_escaped_name_is_one_safe_token_and_comes_back(name):
    token = subjects.escape_node(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert subjects.unescape_node(token) == name


@given(NAMES, NAMES)
def test_different_names_have_different_tokens(one, other):
    assert (subjects.escape_node(one) == subjects.escape_node(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("node-1", "node-1"),
        ("ip-10-0-0-1.ec2.internal", "ip-10-0-0-1_2eec2_2einternal"),
        ("a_b", "a_5fb"),
        ("evil.>", "evil_2e_3e"),
        ("a b\n*", "a_20b_0a_2a"),
        ("knöt", "kn_c3_b6t"),
        ("bad\udcffbyte", "bad_ffbyte"),
    ],
)
def test_escaping(name, token):
    assert subjects.escape_node(name) == token
    assert subjects.unescape_node(token) == name


@pytest.mark.parametrize("token", ["", "a.b", "a_", "a_2", "a_2E", "_61", "a b", "kn\u00f6t"])
def test_what_escaping_never_makes_is_refused(token):
    with pytest.raises(ConfigError):
        subjects.unescape_node(token)


def test_subjects():
    assert subjects.events(0, "n.1", "urgent") == "daemoneye.v1.events.0.n_2e1.urgent"
    assert subjects.findings("high") == "daemoneye.v1.findings.high"
    assert subjects.schemas("0badc0de") == "daemoneye.v1.schemas.0badc0de"
    assert subjects.status("n.1") == "daemoneye.v1.status.n_2e1"
    assert (subjects.EVENTS(3), subjects.FINDINGS) == ("DAEMONEYE_EVENTS_3", "DAEMONEYE_FINDINGS")


@pytest.mark.parametrize(
    "make",
    [
        lambda: subjects.events(0, "n", "*"),
        lambda: subjects.findings("scary"),
        lambda: subjects.schemas("a.>"),
        lambda: subjects.escape_node(""),
    ],
    ids=["lane", "severity", "hash", "empty node"],
)
def test_what_would_be_another_subject_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_batch_is_of_the_node_and_lane_that_its_subject_says():
    subject = subjects.events(3, "node.1", "urgent")
    assert subjects.is_events_of(subject, "node.1", "urgent")
    for node, lane in (("node", "urgent"), ("node_2e1", "urgent"), ("", "urgent"), ("node.1", "bulk"), ("node.1", "*")):
        assert not subjects.is_events_of(subject, node, lane)
    assert subjects.is_events_of("daemoneye.v1.events.0.n.newer", "n", "newer"), (
        "a lane of a later release is its node's"
    )
    assert not subjects.is_events_of(f"{subject}.more", "node.1", "urgent")
    assert not subjects.is_events_of(f"{subject}.more", "node.1", "urgent.more")
    assert not subjects.is_events_of("", "node.1", "urgent")


def test_every_subject_belongs_to_exactly_one_declared_stream():
    streams = declared(shards=2)
    for subject in (
        subjects.events(0, "n", "bulk"),
        subjects.events(1, "n", "loss"),
        subjects.findings("low"),
        subjects.schemas("ff"),
    ):
        homes = [stream.name for stream in streams for mask in stream.subjects if subject.startswith(mask[:-1])]
        assert len(homes) == 1, (subject, homes)


def test_schemas_never_expire_and_the_reservation_is_the_sum():
    streams = declared(events_max_bytes=1000)
    by_name = {stream.name: stream for stream in streams}
    assert by_name[subjects.SCHEMAS].max_age == 0
    assert by_name["DAEMONEYE_EVENTS_0"].max_bytes == 1000
    assert reserved_bytes(streams) == sum(stream.max_bytes for stream in streams)
