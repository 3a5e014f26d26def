"""The broker's certificate from cert-manager: taken, followed, and what is wrong with it is said while the former goes on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import pytest
from cryptography import x509

from daemoneye.errors import ConfigError
from daemoneye_operator.brokersecrets import BrokerSecrets, desired, sources
from daemoneye_operator.settings import OperatorSettings
from tests.support.issuing import NAMES, SECRET, Issuer
from tests.unit.operator.factory import SETTINGS

NOW = dt.datetime(2026, 11, 27, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
FIRST, SECOND = Issuer("first", NOW), Issuer("second", NOW)
OF = OperatorSettings.model_validate(
    {
        **SETTINGS,
        "namespace": "security",
        "fullname": "daemoneye",
        "nats": {**SETTINGS["nats"], "certificateSecretRef": {"name": SECRET}},
    }
)
OWN = OF.model_copy(update={"nats": OF.nats.model_copy(update={"certificate_secret_ref": None})})


def plan(
    issued: Mapping[str, bytes] | None, before: BrokerSecrets | None = None, now: dt.datetime = NOW
) -> BrokerSecrets:
    return desired(OF, {**(before.secrets if before else {}), SECRET: issued}, now)


def authorities(made: BrokerSecrets) -> list[str]:
    texts = {data["ca.crt"] for data in made.secrets.values() if "ca.crt" in data}
    assert len(texts) == 1, "everybody trusts the same"
    return [one.subject.rfc4514_string() for one in x509.load_pem_x509_certificates(texts.pop())]


def test_what_cert_manager_keeps_is_what_the_broker_shows_and_clients_trust() -> None:
    issued = FIRST.secret(NOW)
    made = plan(issued)
    server = made.secrets["daemoneye-nats"]
    assert (server["tls.crt"], server["tls.key"]) == (issued["tls.crt"], issued["tls.key"])
    assert authorities(made) == ["CN=first broker CA"]
    assert set(made.secrets["daemoneye-ca"]) == {"ca.crt"}, "there is no key of an authority"
    assert SECRET not in made.secrets, "it is cert-manager's to write"
    assert SECRET in sources(OF)
    assert made.trouble == ""
    assert plan(issued, made) == made, "a second pass changes nothing"


def test_a_renewed_certificate_restarts_the_server_and_changes_nobody_else() -> None:
    made = plan(FIRST.secret(NOW))
    later = plan(FIRST.secret(NOW + 60 * DAY), made, NOW + 60 * DAY)
    assert later.restart
    assert {name for name in made.secrets if made.secrets[name] != later.secrets[name]} == {"daemoneye-nats"}


def test_another_authority_is_trusted_beside_the_former_until_that_ends() -> None:
    made = plan(FIRST.secret(NOW))
    later = plan(SECOND.secret(NOW + DAY), made, NOW + DAY)
    assert authorities(later) == ["CN=second broker CA", "CN=first broker CA"]
    old = Issuer("old", NOW - 3000 * DAY)
    made = plan(old.secret(NOW))
    later = plan(SECOND.secret(NOW + DAY), made, NOW + DAY)
    assert authorities(later) == ["CN=second broker CA", "CN=old broker CA"]
    again = plan(SECOND.secret(NOW + 700 * DAY), later, NOW + 700 * DAY)
    assert authorities(again) == ["CN=second broker CA"]


def test_from_the_operators_own_authority_to_cert_manager_and_back() -> None:
    own = desired(OWN, {}, NOW)
    made = plan(FIRST.secret(NOW), own)
    assert authorities(made) == ["CN=first broker CA", "CN=daemoneye broker CA"]
    assert made.restart
    back = desired(OWN, made.secrets, NOW)
    assert authorities(back) == ["CN=daemoneye broker CA"]
    assert set(back.secrets["daemoneye-ca"]) == {"ca.crt", "ca.key"}


GOOD = FIRST.secret(NOW)
WRONG: dict[str, tuple[Mapping[str, bytes] | None, str]] = {
    "absent": (None, "does not exist: cert-manager has not issued the certificate; `kubectl describe certificate -n security daemoneye-nats-tls`"),
    "no authority": ({**GOOD, "ca.crt": b""}, "has no key ca.crt: use an issuer that tells its authority"),
    "no key": ({**GOOD, "tls.key": b""}, "has no tls.crt or no tls.key"),
    "junk": ({**GOOD, "tls.crt": b"junk"}, "cannot be read"),
    "another's key": ({**GOOD, "tls.key": SECOND.secret(NOW)["tls.key"]}, "tls.key is not the key of tls.crt"),
    "a name too few": (FIRST.secret(NOW, NAMES[:-1]), "tls.crt lacks the name localhost"),
    "ended": (FIRST.secret(NOW - 400 * DAY), "tls.crt ended at 2026-10-23T12:00:00Z"),
    "not begun": (FIRST.secret(NOW + DAY), "tls.crt begins at 2026-11-28T11:00:00Z"),
    "of another authority": ({**GOOD, "ca.crt": SECOND.certificate}, "no authority of ca.crt issued tls.crt"),
}  # fmt: skip


@pytest.mark.parametrize("issued", [w[0] for w in WRONG.values()], ids=list(WRONG))
def test_with_a_former_certificate_a_wrong_one_is_said_and_the_former_goes_on(
    issued: Mapping[str, bytes] | None,
) -> None:
    made = plan(GOOD)
    later = plan(issued, made)
    assert later.secrets == made.secrets
    assert not later.restart
    words = next(w for i, w in WRONG.values() if i is issued)
    assert words in later.trouble
    assert later.trouble.startswith("nats.issuerRef: Secret security/daemoneye-nats-tls")
    assert later.trouble.endswith("the former certificate goes on")


@pytest.mark.parametrize(("issued", "words"), list(WRONG.values()), ids=list(WRONG))
def test_without_one_it_is_the_reason_why_nothing_starts(issued: Mapping[str, bytes] | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(issued)
    assert words in str(caught.value)


def test_a_former_certificate_that_ended_does_not_hide_what_is_wrong() -> None:
    made = plan(GOOD)
    with pytest.raises(ConfigError, match="does not exist"):
        plan(None, made, NOW + 400 * DAY)
