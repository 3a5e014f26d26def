"""How a process reaches the broker: what a configuration may say, and what is answered to what it may not."""

import ssl
from dataclasses import replace

import pytest

from daemoneye.broker.access import Access
from daemoneye.errors import ConfigError


def test_values():
    access = Access.parse({"url": "nats://127.0.0.1:4222", "user": "cli", "password": "hunter2", "inbox_prefix": "_I"})
    options = access.options()
    assert options == {
        "servers": ["nats://127.0.0.1:4222"],
        "user": "cli",
        "password": "hunter2",
        "inbox_prefix": b"_I",
    }
    assert "hunter2" not in repr(access)


def test_files_take_the_place_of_values_and_are_read_each_time(tmp_path):
    for name in ("user", "password", "inbox_prefix"):
        (tmp_path / name).write_text(f"{name}-1\n")
    raw = {
        "url": "nats://h:1",
        "password": "old",
        **{f"{n}_file": str(tmp_path / n) for n in ("user", "password", "inbox_prefix")},
    }
    access = Access.parse(raw)
    assert access.options()["password"] == "password-1"
    assert access.options()["inbox_prefix"] == b"inbox_prefix-1"
    (tmp_path / "password").write_text("password-2")
    assert access.options()["password"] == "password-2"


def test_a_nodes_part_of_the_inboxes_stands_behind_their_prefix_wherever_that_comes_from(tmp_path):
    (tmp_path / "prefix").write_text("_INBOX_mine\n")
    access = Access(("nats://h:1",), inbox_prefix="_INBOX_sensor", inbox_suffix="node-1_2ea")
    assert access.options()["inbox_prefix"] == b"_INBOX_sensor.node-1_2ea"
    of_file = replace(access, inbox_prefix_file=tmp_path / "prefix")
    assert of_file.options()["inbox_prefix"] == b"_INBOX_mine.node-1_2ea"
    assert access.fingerprint() != replace(access, inbox_suffix="").fingerprint()


def test_tls_is_used_for_tls_addresses_and_checks_the_server():
    options = Access.parse({"url": "tls://nats.example:4222"}).options()
    assert options["tls"].verify_mode is ssl.CERT_REQUIRED
    assert options["tls"].check_hostname


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ([], "nats is \\[\\], not a mapping with a url"),
        ({}, "nats: 'url' is missing"),
        ({"url": 3}, "nats.url is 3, not text"),
        ({"url": "nats://h:1", "tls": "yes"}, "nats.tls is 'yes', not a mapping"),
        ({"url": "nats://h:1", "tls": {"ca": 1}}, "nats.tls.ca is 1, not text"),
    ],
)
def test_what_does_not_fit_is_named(raw, answer):
    with pytest.raises(ConfigError, match=answer):
        Access.parse(raw)


@pytest.mark.parametrize("url", ["http://h", "nats://user:pw@h", "nats://", "h:4222"])
def test_an_address_that_is_none(url):
    with pytest.raises(ConfigError, match="not a broker's address"):
        Access((url,)).options()


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no-such-file"):
        Access(("nats://h:1",), password_file=tmp_path / "no-such-file").options()
