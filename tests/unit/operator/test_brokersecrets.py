"""The broker's Secrets: what is good stays, what is missing or damaged is made, and the server restarts only when it has to."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.broker.roles import CALLOUT, ROLES, callout_permissions, inbox_prefix, permissions
from daemoneye.errors import ConfigError
from daemoneye_operator.brokerconf import PASSWORDS
from daemoneye_operator.brokersecrets import desired, sources
from daemoneye_operator.callout.issuer import Issuer
from daemoneye_operator.settings import OperatorSettings
from tests.unit.operator.factory import SETTINGS

NOW = dt.datetime(2026, 11, 27, 12, 0, tzinfo=dt.UTC)
YEAR = dt.timedelta(days=365)


def settings(**nats: Any) -> OperatorSettings:
    return OperatorSettings.model_validate({**SETTINGS, "nats": {**SETTINGS["nats"], **nats}})


PLAIN = settings()
FIRST = desired(PLAIN, {}, NOW)


def blocks(text: bytes) -> dict[str, Any]:
    """A nats.conf of ours, as values by key."""
    found: dict[str, Any] = {}
    decoder = json.JSONDecoder()
    name, _, rest = text.decode().partition("\n")
    assert name == "server_name: $POD_NAME"
    while rest.strip():
        key, _, rest = rest.partition(": ")
        found[key.strip()], end = decoder.raw_decode(rest)
        rest = rest[end:]
    return found


def test_the_names_and_keys_that_pods_mount():
    assert {name: set(data) for name, data in FIRST.secrets.items()} == {
        "daemoneye-ca": {"ca.crt", "ca.key"},
        "daemoneye-nats": {"nats.conf", "tls.crt", "tls.key", "ca.crt"},
        "daemoneye-callout": {"seed"},
        "daemoneye-broker-sensor": {"user", "inbox_prefix", "ca.crt"},
        **{f"daemoneye-broker-{role}": {"user", "password", "inbox_prefix", "ca.crt"} for role in PASSWORDS},
    }
    assert set(sources(PLAIN)) == set(FIRST.secrets)
    assert not FIRST.restart


def test_applying_twice_changes_nothing():
    again = desired(PLAIN, FIRST.secrets, NOW + YEAR / 2)
    assert again == FIRST


def test_each_role_has_a_password_of_its_own_and_its_own_permissions():
    passwords = {role: FIRST.secrets[f"daemoneye-broker-{role}"]["password"].decode() for role in PASSWORDS}
    assert len(set(passwords.values())) == len(PASSWORDS) == len(ROLES)
    assert all(len(password) >= 32 for password in passwords.values())
    accounts = blocks(FIRST.secrets["daemoneye-nats"]["nats.conf"])["accounts"]
    users = {name: account.get("users", []) for name, account in accounts.items()}
    inside = [{"user": r, "password": passwords[r], "permissions": permissions(r)} for r in PASSWORDS if r != CALLOUT]
    asked = {"user": CALLOUT, "password": passwords[CALLOUT], "permissions": callout_permissions()}
    assert users == {"DAEMONEYE": inside, "SENSORS": [], "CALLOUT": [asked]}
    assert FIRST.secrets["daemoneye-broker-sensor"]["inbox_prefix"].decode() == inbox_prefix("sensor")


def test_who_has_no_password_is_asked_about():
    values = blocks(FIRST.secrets["daemoneye-nats"]["nats.conf"])
    seed = FIRST.secrets["daemoneye-callout"]["seed"]
    assert values["authorization"]["auth_callout"] == {
        "issuer": Issuer(seed).public, "account": "CALLOUT", "auth_users": ["analytics", "cli", "operator", "identity", "callout"],
    }  # fmt: skip
    assert seed.decode() not in FIRST.secrets["daemoneye-nats"]["nats.conf"].decode()


def test_streams_are_in_one_account_and_what_passes_its_border_is_named_on_both_sides():
    accounts = blocks(FIRST.secrets["daemoneye-nats"]["nats.conf"])["accounts"]
    assert [name for name, account in accounts.items() if "jetstream" in account] == ["DAEMONEYE"]
    for name, account in accounts.items():
        for border in account.get("imports", ()):
            ((kind, what),) = border.items()
            assert {kind: what["subject"], "accounts": [name]} in accounts[what["account"]]["exports"]
    exported = {export.get("service") or export["stream"] for export in accounts["DAEMONEYE"]["exports"]}
    assert not [subject for subject in exported if subject.startswith("$JS.API") and ".DIRECT.GET.KV_" not in subject]


def test_a_key_of_the_callout_that_is_none_is_replaced_on_both_sides():
    for seed in (b"", b"SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU", b"x" * 58, b"\xff"):
        later = desired(PLAIN, {**FIRST.secrets, "daemoneye-callout": {"seed": seed}}, NOW)
        new = later.secrets["daemoneye-callout"]["seed"]
        assert new not in (seed, FIRST.secrets["daemoneye-callout"]["seed"])
        assert Issuer(new).public in later.secrets["daemoneye-nats"]["nats.conf"].decode()
        assert later.restart


def test_the_sensors_password_of_a_release_before_stays_and_opens_nothing():
    present = {
        **FIRST.secrets,
        "daemoneye-broker-sensor": {**FIRST.secrets["daemoneye-broker-sensor"], "password": b"shared"},
    }
    later = desired(PLAIN, present, NOW)
    assert later.secrets["daemoneye-broker-sensor"]["password"] == b"shared"
    assert "shared" not in later.secrets["daemoneye-nats"]["nats.conf"].decode()
    assert not later.restart


def test_what_an_acknowledgement_is_worth_and_how_much_fits():
    values = blocks(desired(settings(storeMaxBytes=6 << 30), {}, NOW).secrets["daemoneye-nats"]["nats.conf"])
    assert values["jetstream"]["sync_interval"] == "always"
    assert values["jetstream"]["max_file_store"] == 6 << 30
    assert values["jetstream"]["store_dir"] == "/data"
    assert values["max_payload"] == 8 << 20
    assert "cluster" not in values


def test_three_servers_know_each_other_by_their_pods_names():
    cluster = blocks(desired(settings(replicas=3), {}, NOW).secrets["daemoneye-nats"]["nats.conf"])["cluster"]
    assert cluster["routes"] == [
        f"nats-route://daemoneye-nats-{i}.daemoneye-nats-headless.security.svc:6222" for i in range(3)
    ]
    assert cluster["tls"]["verify"] is True


def test_a_server_restarts_when_its_certificate_was_renewed_and_everybody_keeps_his_password():
    later = desired(PLAIN, FIRST.secrets, NOW + YEAR * 0.8)
    assert later.restart
    assert later.digest != FIRST.digest
    changed = {name for name in FIRST.secrets if later.secrets[name] != FIRST.secrets[name]}
    assert changed == {"daemoneye-nats"}
    assert later.secrets["daemoneye-nats"]["nats.conf"] == FIRST.secrets["daemoneye-nats"]["nats.conf"]
    assert not desired(PLAIN, later.secrets, NOW + YEAR * 0.8).restart


def test_a_new_authority_reaches_everybody():
    later = desired(PLAIN, FIRST.secrets, NOW + YEAR * 7)
    authority = later.secrets["daemoneye-ca"]["ca.crt"]
    assert authority != FIRST.secrets["daemoneye-ca"]["ca.crt"]
    assert {data["ca.crt"] for data in later.secrets.values() if "ca.crt" in data} == {authority}
    assert later.restart


def test_other_settings_restart_a_server_and_nothing_else():
    later = desired(settings(replicas=3), FIRST.secrets, NOW)
    assert later.restart
    assert {name for name in FIRST.secrets if later.secrets[name] != FIRST.secrets[name]} == {"daemoneye-nats"}


def test_a_lost_password_is_replaced_on_both_sides():
    present = {**FIRST.secrets, "daemoneye-broker-cli": None}
    later = desired(PLAIN, present, NOW)
    new = later.secrets["daemoneye-broker-cli"]["password"].decode()
    assert new not in FIRST.secrets["daemoneye-nats"]["nats.conf"].decode()
    assert new in later.secrets["daemoneye-nats"]["nats.conf"].decode()
    assert later.restart
    assert later.secrets["daemoneye-broker-sensor"] == FIRST.secrets["daemoneye-broker-sensor"]


@given(st.data())
def test_whatever_is_missing_or_damaged_one_pass_puts_it_right(data: st.DataObject):
    present: dict[str, Any] = {name: dict(secret) for name, secret in FIRST.secrets.items()}
    for name in data.draw(st.sets(st.sampled_from(sorted(present)))):
        how = data.draw(st.sampled_from(["missing", "none", "empty", "key", "value"]))
        if how == "missing":
            del present[name]
        elif how in ("none", "empty"):
            present[name] = None if how == "none" else {}
        else:
            key = data.draw(st.sampled_from(sorted(present[name])))
            if how == "key":
                del present[name][key]
            else:
                present[name][key] = data.draw(st.binary(max_size=40))
    made = desired(PLAIN, present, NOW)
    assert {name: set(secret) for name, secret in made.secrets.items()} == {
        name: set(secret) for name, secret in FIRST.secrets.items()
    }
    trusted = {secret["ca.crt"] for secret in made.secrets.values() if "ca.crt" in secret}
    assert trusted == {made.secrets["daemoneye-ca"]["ca.crt"]}
    conf = made.secrets["daemoneye-nats"]["nats.conf"].decode()
    assert all(made.secrets[f"daemoneye-broker-{role}"]["password"].decode() in conf for role in PASSWORDS)
    assert Issuer(made.secrets["daemoneye-callout"]["seed"]).public in conf
    assert desired(PLAIN, made.secrets, NOW) == type(made)(made.secrets, restart=False, digest=made.digest)


# ── a broker of the user's own ──────────────────────────────────────────────────────────────────────────────────────

EXTERNAL = settings(external=True, credentialsSecretRef={"name": "mine"}, tlsSecretRef={"name": "trust"})
GIVEN = {
    "mine": {f"{role}.{key}": f"{role}-{key}".encode() for role in ROLES for key in ("user", "password")}
    | {"cli.inbox_prefix": b"_INBOX_mine"},
    "trust": {"ca.crt": b"PEM"},
}


def test_an_external_broker_has_its_users_copied_and_nothing_made():
    made = desired(EXTERNAL, GIVEN, NOW)
    assert sources(EXTERNAL) == ("mine", "trust")
    assert set(made.secrets) == {f"daemoneye-broker-{role}" for role in ROLES}
    assert made.secrets["daemoneye-broker-cli"] == {
        "user": b"cli-user", "password": b"cli-password", "inbox_prefix": b"_INBOX_mine", "ca.crt": b"PEM",
    }  # fmt: skip
    assert made.secrets["daemoneye-broker-sensor"]["inbox_prefix"] == b"_INBOX_sensor"
    assert not made.restart


def test_without_a_secret_for_tls_the_systems_authorities_count():
    made = desired(settings(external=True, credentialsSecretRef={"name": "mine"}), GIVEN, NOW)
    assert all("ca.crt" not in secret for secret in made.secrets.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({**GIVEN, "mine": None}, "Secret security/mine does not exist"),
        ({"mine": GIVEN["mine"]}, "nats.tlsSecretRef: Secret security/trust does not exist"),
        ({**GIVEN, "trust": {"tls.crt": b"x"}}, "Secret security/trust has no key ca.crt"),
        (
            {**GIVEN, "mine": {k: v for k, v in GIVEN["mine"].items() if k != "identity.password"}},
            "nats.credentialsSecretRef: Secret security/mine has no key identity.password",
        ),
    ],
    ids=["no secret", "no tls secret", "no ca", "no password"],
)
def test_what_the_user_forgot_is_named(given, words):
    with pytest.raises(ConfigError, match=words):
        desired(EXTERNAL, given, NOW)


def test_an_external_broker_needs_users():
    with pytest.raises(ConfigError, match="credentialsSecretRef"):
        desired(settings(external=True), {}, NOW)
